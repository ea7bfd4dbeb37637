# The commands `serve` and `worker` of the service, in which something happens at one moment: what CHAOS says.
from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

from tests.chaos.points import Plan, Role
from tests.chaos.strikes import Fragile, install

COMMANDS = {"api": ["serve", "--no-worker"], "worker": ["worker"]}


def main(role: Role) -> None:
    """Run the command of the role; the arguments of this process follow it."""
    folder = Path(os.environ["FAULTS_DIR"])
    (folder / f"{role}.pid").write_text(str(os.getpid()))
    if chaos := os.environ.get("CHAOS"):
        plan = Plan(**json.loads(chaos))
        if role == "worker":
            from service.engines import local, ray_tune

            train = Fragile(plan, os.getpid())
            vars(local)["LocalEngine"] = functools.partial(local.LocalEngine, train)
            vars(ray_tune)["RayEngine"] = functools.partial(ray_tune.RayEngine, train=train)
        if plan.at.where == role or (plan.at.where == "start" and plan.victim in (role, "database")):
            install(plan, plan.at.targets, os.getpid())
    from service.__main__ import main as run

    sys.argv[:2] = ["warptune", *COMMANDS[role]]
    run()


if __name__ == "__main__":
    main("api" if sys.argv[1] == "api" else "worker")
