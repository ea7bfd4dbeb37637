"""The recommended config as a script that needs torch, numpy and what its optimizer needs, nothing of the service.

Its functions are copies of those that the run itself used: the torch halves of model, optimizer and task, the training
step, and ``blocks.py``. Tests hold its losses against the recorded ones.
"""

from __future__ import annotations

import base64
import pprint
import textwrap
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from service.export.source import SourceCode
from service.optimizers import OPTIMIZERS
from service.planning.arms import Role, Start
from service.planning.plan import JobPlan
from service.result.job_result import JobResult, KeptWeights
from service.spec.metrics import METRICS, metric_of
from service.spec.models import EntrypointSpec, LoopSpec
from service.spec.tasks import TASKS, Task
from service.version import VERSION

MAX_EMBEDDED_BYTES: Final = 4 << 20
"""Compressed data up to this size goes into the script itself; larger data is a file next to it."""

BLOCKS: Final = "service.export.blocks"

HEADER: Final = """\
Recommended optimizer of {job_id}: {arm}, verdict {verdict}.

{reason}

Import make_optimizer to use it on your own model. Run as a script, this trains the model of the job on its data, split
and first confirmation seed, and prints the test loss that it reaches and the one that was recorded.
{p_note}{summary}Needs {needs}. Made by warptune {version}.
"""

PREDICT_HEADER: Final = """\
The trained model of {job_id}: {arm}, seed {seed}, test loss {test_loss}.

    python predict.py new.csv -o predictions.csv

It scores new rows. The CSV file has the columns of the training file, in any order, and the same encoding, separator,
and way to write numbers and dates. weights.safetensors and preprocessing.json belong next to this script.
Needs torch, safetensors, numpy and pyarrow, and scikit-learn where a column holds texts{user_note}. Made by warptune
{version}.
"""

LOOP_HEADER: Final = """\
Recommended optimizer of {job_id}: {arm}, verdict {verdict}.

{reason}

Use it in your training loop:

    from recommended import make_optimizer

    optimizer = make_optimizer(model)

It was tuned in the loop {entrypoint}, in runs of {steps} steps.
SHA-256 of its source: {sha256}
{summary}Needs {needs}. Made by warptune {version}.
"""

P_NOTE: Final = """\
If the P that the optimizer learned is next to it as p.safetensors, it then trains once more from that P.
"""

USER_NOTE: Final = """.
It imports your own module {module}, which is not in here. SHA-256 of its source:
{sha256}"""


class Replayed(NamedTuple):
    """The run that a script does again; the loss is None if no run of the recommended config completed.

    The score is None if the job is not judged by one.
    """

    seed: int
    test_loss: float | None
    test_score: float | None = None


def replayed_run(plan: JobPlan, result: JobResult) -> Replayed:
    """Return the first confirmation run of the recommended config that completed.

    With a family such a run is one on many tasks: what is done again is the one from the learned P, on one of them.
    """
    if plan.spec.family is not None and result.learned_p is not None:
        return Replayed(seed=result.learned_p.seed, test_loss=None)
    learns_p, metric = plan.arm(result.arm).role is Role.WARPADAM, metric_of(plan.spec.objective.metric)
    for pair in result.pairs:
        if plan.split_seed(pair.seed) != plan.spec.seed:
            continue  # exports have the data of the search's split
        loss = pair.warpadam_test_loss if learns_p else pair.baseline_test_loss
        cost = pair.warpadam if learns_p else pair.baseline
        if loss is not None:
            score = None if metric is None or cost is None else metric.score_of(cost)
            return Replayed(seed=pair.seed, test_loss=loss, test_score=score)
    return Replayed(seed=plan.spec.seed, test_loss=None)


def start_sha256(plan: JobPlan, result: JobResult) -> str | None:
    """Return the hash of the P that the recommended runs started from; None for P = I, and on a family's one task."""
    warm = plan.spec.warm_start
    is_warm = plan.arm(result.arm).start is Start.LEARNED and plan.spec.family is None
    return warm.sha256 if warm and is_warm else None


def make_script(plan: JobPlan, result: JobResult, data_sha256: str | None, data: bytes | None) -> str:
    """Return the text of the script.

    ``data`` is the prepared split, to be put into the script; None leaves it to a file ``data.npz`` next to it.
    """
    if isinstance(plan.spec.model, LoopSpec):
        return _loop_script(plan, result, plan.spec.model)
    spec, optimizer, task = plan.spec, OPTIMIZERS[plan.arm(result.arm).optimizer], TASKS[plan.task]
    run, learned = replayed_run(plan, result), result.learned_p
    metric = metric_of(spec.objective.metric) or METRICS[task.metric]
    build, user_import, user_note = _model_of(plan)
    settings = summary(plan, result)
    names = ("model", "shape", "sizes", "config", "steps", "batch_size", "device", "threads")
    constants = {
        **{name.upper(): settings[name] for name in names},
        "TARGET": "x" if task.reconstructs else "y",
        "SEED": run.seed,
        "RECORDED": run.test_loss,
        "METRIC": metric.name,
        "RECORDED_SCORE": run.test_score,
        "P_SHA256": learned and learned.sha256,
        "P_SEED": learned and learned.seed,
        "P_RECORDED": learned and learned.test_loss,
        "START_SHA256": start_sha256(plan, result),
        "DATA_SHA256": data_sha256,
        "BEST_BY": plan.best_by,
        "BEST_SCORE": metric.best,
        "HIGHER_IS_BETTER": metric.higher_is_better,
    }
    roots = {reference.partition(".")[0].partition(":")[0] for reference in (optimizer.build, build, metric.score)}
    source = SourceCode({"service", *roots}, {*constants, "TRAINING", "Training", "DATA", "SCORE"})
    source.add("types:SimpleNamespace as Training")  # a dataclass could not be made in a module that exec runs
    halves = [source.add(reference) for reference in (build, optimizer.build, task.loss, metric.score)]
    for name in ("make_model", "make_optimizer", "load_data", "train", "show", "main"):
        source.add(f"{BLOCKS}:{name}")
    training = "".join(f"    {name}={value!r},\n" for name, value in settings["training"].items())
    header = _docstring(
        HEADER,
        job_id=result.job_id,
        arm=result.arm,
        verdict=result.verdict,
        reason=textwrap.fill(f"The verdict: {result.reason}.", 118),
        p_note=P_NOTE if learned else "",
        summary=textwrap.fill(result.summary, 118) + ".\n" if result.summary else "",
        needs=optimizer.script_needs + (f", and {metric.script_needs}" if metric.script_needs else "") + user_note,
        version=VERSION,
    )
    bound = f"build_model, build_optimizer, plain_loss, SCORE = {', '.join(halves)}"
    own = f"TRAINING = Training(\n{training})\n{bound}\n\nDATA = {_embedded(data)}"
    return _script(header, user_import, constants, source, own, "main")


def _loop_script(plan: JobPlan, result: JobResult, loop: LoopSpec) -> str:
    """Return the text of a script that makes the optimizer, for a job on a training loop of the user's."""
    optimizer = OPTIMIZERS[plan.arm(result.arm).optimizer]
    roots = {"service", optimizer.build.partition(".")[0].partition(":")[0]}
    source = SourceCode(roots, {"CONFIG", "build_optimizer"})
    build = source.add(optimizer.build)
    source.add(f"{BLOCKS}:make_optimizer")
    header = _docstring(
        LOOP_HEADER,
        job_id=result.job_id,
        arm=result.arm,
        verdict=result.verdict,
        reason=textwrap.fill(f"The verdict: {result.reason}.", 118),
        entrypoint=loop.entrypoint,
        steps=plan.spec.budget.steps,
        sha256=plan.info.sources[loop.entrypoint],
        summary=textwrap.fill(result.summary, 118) + ".\n" if result.summary else "",
        needs=optimizer.script_needs,
        version=VERSION,
    )
    return _script(header, "", {"CONFIG": result.config}, source, f"build_optimizer = {build}", "")


def _docstring(template: str, **parts: object) -> str:
    """Return a filled template as a docstring, whatever characters are in the texts, such as the name of a column."""
    text = template.format(**parts).replace("\\", r"\\").replace('"""', r"\"\"\"")
    return f'"""{text}"""'


def _script(
    header: str, user_import: str, constants: Mapping[str, object], source: SourceCode, own: str, start: str
) -> str:
    """Return a script: imports, constants, copied functions, the lines of its ``own``, and the function to start."""
    parts = [
        header,
        "from __future__ import annotations",
        "\n".join(filter(None, (source.imports, user_import))),
        "\n".join(f"{name} = {pprint.pformat(value, sort_dicts=False)}" for name, value in constants.items()),
        f"\n{source.code}\n",
        own,
        f'if __name__ == "__main__":\n    {start}()\n' if start else "",
    ]
    return "\n\n".join(parts).rstrip("\n") + "\n"


def make_predict_script(plan: JobPlan, result: JobResult, weights: KeptWeights) -> str:
    """Return the text of the script that scores new rows with the weights next to it."""
    build, user_import, user_note = _model_of(plan)
    settings = summary(plan, result)
    constants = {
        **{name.upper(): settings[name] for name in ("model", "shape", "sizes", "task")},
        "WEIGHTS_SHA256": weights.sha256,
        "PREPROCESSING_SHA256": weights.preprocessing_sha256,
    }
    source = SourceCode({"service", build.partition(".")[0].partition(":")[0]}, {*constants, "Form"})
    source.add("types:SimpleNamespace as Form")
    name = source.add(build)
    source.add("service.export.scoring_blocks:predict")
    header = _docstring(
        PREDICT_HEADER,
        job_id=result.job_id,
        arm=result.arm,
        seed=weights.seed,
        test_loss=f"{weights.test_loss:.5g}",
        user_note=user_note,
        version=VERSION,
    )
    return _script(header, user_import, constants, source, f"build_model = {name}", "predict")


def _model_of(plan: JobPlan) -> tuple[str, str, str]:
    """Return what builds the model: an import string, the import of the user's factory, and a note about it."""
    model = plan.spec.model
    if not isinstance(model, EntrypointSpec):
        return model.build, "", ""
    module, _, factory = model.entrypoint.partition(":")
    note = USER_NOTE.format(module=module, sha256=plan.info.sources[model.entrypoint])
    return f"{BLOCKS}:build_user_model", f"from {module} import {factory} as make_user_model", note


def _embedded(data: bytes | None) -> str:
    packed = b"" if data is None else zlib.compress(data, 9)
    if not packed or len(packed) > MAX_EMBEDDED_BYTES:
        return '""'
    return '"""\n' + "\n".join(textwrap.wrap(base64.b64encode(packed).decode(), 118)) + '\n"""'


def summary(plan: JobPlan, result: JobResult) -> dict[str, Any]:
    """Return the run that is done again, as plain values: what ``warptune replay`` trains."""
    spec = plan.spec
    metric = plan.score if plan.task == Task.LOOP else metric_of(spec.objective.metric)
    return {
        "arm": plan.arm(result.arm).optimizer,
        "config": result.config,
        "sizes": plan.sizes,
        "model": plan.network,
        "shape": plan.info.shape,
        "activation": spec.model.activation_name,
        "task": str(plan.task),
        "steps": spec.budget.steps,
        "batch_size": spec.budget.batch_size,
        "training": spec.training.model_dump(),
        "best_by": plan.best_by,
        "metric": None if metric is None else metric.name,
        "threads": spec.resources.cpus_per_trial,
        "device": "cuda" if spec.resources.gpus_per_trial else "cpu",
    }
