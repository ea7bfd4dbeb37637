# What works without the extras, and what a command says that needs one.
from __future__ import annotations

import re
import tomllib

from tests.bare_install import ROOT, run_bare

TRAIN = """
import tempfile, torch, warpadam
model = torch.nn.Linear(3, 2)
optimizer = warpadam.WarpAdam(model.named_parameters())
model(torch.ones(4, 3)).sum().backward()
optimizer.step()
for name in warpadam.__all__:
    getattr(warpadam, name)
with tempfile.TemporaryDirectory() as folder:
    warpadam.save_warp(folder + "/p.safetensors", warpadam.Warp.of(optimizer))
    warpadam.load_warp(folder + "/p.safetensors").apply(optimizer)
print("trained")
"""


def test_the_optimizer_needs_nothing_of_the_extras() -> None:
    done = run_bare(TRAIN, ours=False)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


def test_the_base_install_is_torch_safetensors_and_numpy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[\[>]", line)[0] for line in project["dependencies"]]
    assert names == ["torch", "safetensors", "numpy"]


def test_the_command_without_the_extra_says_what_to_install() -> None:
    done = run_bare("from service.__main__ import main; main()")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(
        r"error: warptune needs \w+; install the service: pip install '\.\[service\]' in your clone\n",
        done.stderr,
    )


def test_the_python_face_without_the_extra_says_what_to_install() -> None:
    done = run_bare("import warptune")
    assert done.returncode == 1
    last = done.stderr.strip().rsplit("\n", 1)[-1]
    assert re.fullmatch(r"ImportError: warptune needs \w+; install .*: pip install '\.\[service\]' in your clone", last)
