# The recommended config as a script. It needs torch, numpy and warpadam, nothing of the service: what it takes over
# from there (the loop, Muon beside AdamW) is here, in training_code.py and in script.py.template; tests hold its losses
# against the loop's.
"""The exported training script."""

from __future__ import annotations

import base64
import pprint
import textwrap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from string import Template
from typing import Any, Final

from service.export.training_code import training_code
from service.planning.arms import Role, Start
from service.planning.plan import JobPlan
from service.result.job_result import JobResult
from service.spec.model import EntrypointSpec
from service.version import VERSION

MAX_EMBEDDED_BYTES: Final = 4 << 20
"""Compressed data up to this size goes into the script itself; larger data is a file beside it."""

MUON: Final = '''
class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimizer: it has all groups and all states."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self.parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        muon.param_groups, adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        muon.state = adamw.state = self.state

    def step(self, closure=None):
        """Step both; `closure` evaluates the loss again."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

'''

MUON_BODY: Final = """
matrices = [param for param in model.parameters() if param.ndim == 2]
others = [param for param in model.parameters() if param.ndim != 2]
if CONFIG["output_layer"] == "adamw" and len(matrices) > 1:
    others.append(matrices.pop())
decay = CONFIG["weight_decay"]
muon = torch.optim.Muon(
    [{"params": matrices}],
    lr=CONFIG["lr"],
    momentum=CONFIG["momentum"],
    weight_decay=decay,
    adjust_lr_fn="match_rms_adamw",
)
adamw = torch.optim.AdamW(
    [{"params": others}], lr=CONFIG["adamw_lr"], betas=(0.9, 0.95), weight_decay=decay
)
return MuonWithAdamW(muon, adamw)
"""

WARPADAM_BODY: Final = """
optimizer = WarpAdam(model.named_parameters(), **CONFIG)
if p is not None:
    load_warp(p).apply(optimizer)
return optimizer
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerCode:
    """How a script makes an optimizer.

    Attributes:
        name: Where it comes from, dotted.
        body: Body of ``make_optimizer``.
        imports: Lines that the script begins with.
        needs: What the script needs installed.
        before: Code before the functions.
    """

    name: str
    body: str
    imports: str = ""
    needs: str = "torch and numpy"
    before: str = ""


OPTIMIZERS: Final = {
    "warpadam": OptimizerCode(
        name="warpadam.WarpAdam",
        body=WARPADAM_BODY,
        imports="from warpadam import WarpAdam, load_warp\n",
        needs="torch, numpy and warpadam (pip install warptune)",
    ),
    "adamw": OptimizerCode(name="torch.optim.AdamW", body="return torch.optim.AdamW(model.parameters(), **CONFIG)"),
    "muon": OptimizerCode(name="torch.optim.Muon", body=MUON_BODY, before=MUON),
    "soap": OptimizerCode(
        name="pytorch_optimizer.SOAP",
        body="return SOAP(model.parameters(), **CONFIG)",
        imports="from pytorch_optimizer import SOAP\n",
        needs="torch, numpy and pytorch-optimizer (SOAP is its own: pip install pytorch-optimizer)",
    ),
    "sgd": OptimizerCode(
        name="torch.optim.SGD",
        body='return torch.optim.SGD(model.parameters(), **CONFIG, nesterov=CONFIG["momentum"] > 0)',
    ),
}
"""Optimizer of an arm that can be recommended -> how a script makes it."""

P_NOTE: Final = """\
If the P that the optimizer learned is beside it as p.safetensors, it then trains once more from that P.
"""

NETWORK_IMPORTS: Final = """
from collections.abc import Callable

from torch import Tensor
from typing_extensions import override

"""

MODULES: Final = {"relu": "ReLU", "tanh": "Tanh", "gelu": "GELU", "silu": "SiLU"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The run that a script does again.

    Attributes:
        seed: Its seed.
        test_loss: What it ended with; None if no confirmation run of the recommended config completed.
    """

    seed: int
    test_loss: float | None


def replayed_run(plan: JobPlan, result: JobResult) -> Replayed:
    """Return the first confirmation run of the recommended config that completed.

    With a family such a run is one on many tasks: what is done again is the one from the learned P, on one of them.
    """
    if plan.spec.family is not None and result.learned_p is not None:
        return Replayed(seed=result.learned_p.seed, test_loss=None)
    learns_p = plan.arm(result.arm).role is Role.WARPADAM
    for pair in result.pairs:
        loss = pair.warpadam_test_loss if learns_p else pair.baseline_test_loss
        if loss is not None:
            return Replayed(seed=pair.seed, test_loss=loss)
    return Replayed(seed=plan.spec.seed, test_loss=None)


def start_sha256(plan: JobPlan, result: JobResult) -> str | None:
    """Return the hash of the P that the recommended runs started from; None for P = I, and on a family's one task."""
    warm = plan.spec.warm_start
    is_warm = plan.arm(result.arm).start is Start.LEARNED and plan.spec.family is None
    return warm.sha256 if warm and is_warm else None


def make_script(plan: JobPlan, result: JobResult, data_sha256: str | None, data: bytes | None) -> str:
    """Return the text of the script.

    Args:
        plan: Plan of the job.
        result: Its result.
        data_sha256: Hash of the prepared split.
        data: The prepared split, to be put into the script; None leaves it to a file ``data.npz`` beside it.
    """
    spec, code = plan.spec, OPTIMIZERS[plan.arm(result.arm).optimizer]
    run, learned = replayed_run(plan, result), result.learned_p
    template = Template((files("service.export") / "script.py.template").read_text(encoding="utf-8"))
    return template.substitute(
        job_id=result.job_id,
        arm=result.arm,
        verdict=result.verdict,
        version=VERSION,
        needs=code.needs + _user_code(plan),
        p_note=P_NOTE if learned else "",
        imports=_user_import(plan) + code.imports,
        before=_network_code(plan) + code.before,
        body=textwrap.indent(code.body.strip(), "    "),
        config=pprint.pformat(result.config, sort_dicts=False),
        steps=spec.budget.steps,
        batch_size=spec.budget.batch_size,
        seed=run.seed,
        recorded=run.test_loss,
        p_sha256=repr(learned and learned.sha256),
        p_seed=learned and learned.seed,
        p_recorded=learned and learned.test_loss,
        start_sha256=repr(start_sha256(plan, result)),
        threads=spec.resources.cpus_per_trial,
        device=repr("cuda" if spec.resources.gpus_per_trial else "cpu"),
        model=_model(plan),
        **training_code(plan),
        data_sha256=repr(data_sha256),
        data=_embedded(data),
    )


def _network_code(plan: JobPlan) -> str:
    """Return the source of what is no chain of linear layers; it needs nothing but torch."""
    if plan.network is None or isinstance(plan.spec.model, EntrypointSpec):
        return ""
    source = (files("service.training") / "networks.py").read_text(encoding="utf-8")
    return NETWORK_IMPORTS + source[source.index("Activation =") :] + "\n"


def _model(plan: JobPlan) -> str:
    """Return the expression that makes the model."""
    if isinstance(plan.spec.model, EntrypointSpec):
        return _user_model(plan, plan.spec.model)
    spec, module = plan.network, f"nn.{MODULES[plan.spec.model.activation]}"
    if spec is None:
        return _chain(plan.sizes, module)
    if spec["name"] == "pinn":
        return f"Pinn({_chain(plan.sizes, module)}, {spec['equation']!r})"
    shape, outputs = plan.info.shape, plan.sizes[-1]
    if spec["name"] == "convnet":
        return f"convnet({shape}, {spec['channels']}, {module}, {outputs})"
    if spec["name"] == "resnet":
        return f"resnet({shape}, {spec['width']}, {spec['blocks']}, {module}, {outputs})"
    blocks = f"[TransformerBlock({spec['width']}, {spec['heads']}, {module}) for _ in range({spec['layers']})]"
    return f"Transformer({outputs}, {spec['context']}, {spec['width']}, {blocks})"


def _chain(sizes: Sequence[int], module: str) -> str:
    layers = [f"nn.Linear({fan_in}, {fan_out})" for fan_in, fan_out in pairwise(sizes)]
    lines = [line for layer in layers for line in (layer, f"{module}()")][:-1]
    return "nn.Sequential(\n" + "\n".join(f"        {line}," for line in lines) + "\n    )"


def _user_code(plan: JobPlan) -> str:
    """Return what the script needs beside it, where the model is user code."""
    if not isinstance(plan.spec.model, EntrypointSpec):
        return ""
    entrypoint = plan.spec.model.entrypoint
    module, sha256 = entrypoint.partition(":")[0], plan.info.sources[entrypoint]
    return f".\nIt imports your own module {module}, which is not in here. SHA-256 of its source:\n{sha256}"


def _user_import(plan: JobPlan) -> str:
    if not isinstance(plan.spec.model, EntrypointSpec):
        return ""
    module, _, factory = plan.spec.model.entrypoint.partition(":")
    return f"from {module} import {factory} as make_user_model\n"


def _user_model(plan: JobPlan, model: EntrypointSpec) -> str:
    shape, outputs = plan.info.row_shape, plan.sizes[-1]
    config = pprint.pformat(model.config, sort_dicts=False)
    made = f"make_user_model({shape}, {outputs}, {str(plan.task)!r}, **{config})"
    return f"nn.Sequential(nn.Unflatten(1, {shape}), {made})" if len(shape) > 1 else made


def _embedded(data: bytes | None) -> str:
    packed = b"" if data is None else zlib.compress(data, 9)
    if not packed or len(packed) > MAX_EMBEDDED_BYTES:
        return '""'
    return '"""\n' + "\n".join(textwrap.wrap(base64.b64encode(packed).decode(), 118)) + '\n"""'


def summary(plan: JobPlan, result: JobResult) -> dict[str, Any]:
    """Return the run that is done again, as plain values: what ``warptune replay`` trains."""
    spec = plan.spec
    return {
        "arm": plan.arm(result.arm).optimizer,
        "config": result.config,
        "sizes": list(plan.sizes),
        "model": plan.network,
        "shape": list(plan.info.shape),
        "activation": spec.model.activation,
        "task": str(plan.task),
        "steps": spec.budget.steps,
        "batch_size": spec.budget.batch_size,
        "training": spec.training.model_dump(),
        "threads": spec.resources.cpus_per_trial,
        "device": "cuda" if spec.resources.gpus_per_trial else "cpu",
    }
