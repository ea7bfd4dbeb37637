# Ray's command line on loopback. RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 keeps every address there, and the command refuses
# a second node with it, for a reason that is no concern of a test on one machine: this lifts that and nothing else.
from __future__ import annotations

import types

from ray._private import ray_constants
from ray.scripts import scripts

if __name__ == "__main__":
    lifted = types.SimpleNamespace(**vars(ray_constants) | {"ENABLE_RAY_CLUSTER": True})
    vars(scripts)["ray_constants"] = lifted
    scripts.main()  # type: ignore[no-untyped-call]
