"""Command line of the atlas; see the package."""

from __future__ import annotations

import argparse

from benchmarks.atlas.runs import run
from benchmarks.atlas.scenarios import SCENARIOS


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.atlas", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run the scenarios that have no result yet")
    runs.add_argument("--engine", choices=("optuna", "ray"), default="optuna")
    runs.add_argument("--only", default="", help="part of the names of the scenarios to run")
    commands.add_parser("report", help="write docs/atlas.md and what the service knows of the scenarios")
    given = parser.parse_args()
    if given.command == "run":
        run([scenario for scenario in SCENARIOS if given.only in scenario.name], given.engine)
    else:
        from benchmarks.atlas.report import write

        write()


if __name__ == "__main__":
    main()
