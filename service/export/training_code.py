# How a job trains, as lines of the exported script: schedule, loss, precision, clipping. Only what the job uses is
# written. The service's own step, which they repeat, is training/step.py; tests hold the losses of both together.
"""The training of a job as code."""

from __future__ import annotations

import textwrap
from typing import Final

from service.data.catalog import Task
from service.planning.plan import JobPlan
from service.spec.job import TrainingSpec
from service.training.run import EVALUATED_ROWS

LOSSES: Final = {
    Task.CLASSIFICATION: "functional.cross_entropy",
    Task.REGRESSION: "functional.mse_loss",
    Task.AUTOENCODING: "functional.mse_loss",
    Task.LANGUAGE: "functional.cross_entropy",
    Task.PHYSICS: "residual_loss",
}

FACTORS: Final = {
    "constant": "1.0",
    "linear": "1.0 - {done}",
    "cosine": "0.5 * (1.0 + math.cos(math.pi * ({done})))",
}
"""lr over the steps after the warm-up."""

COMPILE: Final = 'model.compile(dynamic=False, options={"layout_optimization": DEVICE != "cpu"})\n'

CLASS_WEIGHTS: Final = """
counts = torch.bincount(data["y_train"], minlength={classes}).clamp(min=1)
weight = len(data["y_train"]) / ({classes} * counts)
"""


def training_code(plan: JobPlan) -> dict[str, str]:
    """Return what stands in the places of the template that are about training, by name."""
    training, loss = plan.spec.training, LOSSES[plan.task]
    evaluate = "model.forward" if training.compile else "model"  # pieces of other sizes are not compiled anew
    options = ", weight=weight" if training.class_weights else ""
    options += f", label_smoothing={training.label_smoothing}" if training.label_smoothing else ""
    before = COMPILE if training.compile else ""
    before += CLASS_WEIGHTS.strip().format(classes=plan.sizes[-1]) + "\n" if training.class_weights else ""
    before += "scaler = torch.amp.GradScaler(DEVICE)\n" if training.precision == "float16" else ""
    forward = 'output = model(data["x_train"][batch])'
    if training.precision != "float32":
        forward = f"with torch.autocast(DEVICE, torch.{training.precision}):\n    {forward}\noutput = output.float()"
    return {
        "math": "import math\n" if training.schedule == "cosine" else "",
        "factor": textwrap.indent(_factor(training), " " * 4),
        "before_training": textwrap.indent(before, " " * 4),
        "stop": "step == STEPS" + (" or len(batch) < batch_size" if training.last_batch == "drop" else ""),
        "forward": textwrap.indent(forward, " " * 12),
        "training_loss": f"{loss}(output, data[{_target(plan, 'train')}][batch]{options})",
        "evaluated_rows": str(EVALUATED_ROWS),
        "test_loss": f'{loss}({evaluate}(data["x_test"][piece]), data[{_target(plan, "test")}][piece])',
        "update": textwrap.indent(_update(training), " " * 12),
    }


def _target(plan: JobPlan, part: str) -> str:
    return f'"x_{part}"' if plan.task is Task.AUTOENCODING else f'"y_{part}"'


def _factor(training: TrainingSpec) -> str:
    warmup = training.warmup_steps
    done = f"(step - {warmup}) / (STEPS - {warmup})" if warmup else "step / STEPS"
    lines = [f"if step < {warmup}:", f"    return step / {warmup}"] if warmup else []
    return "\n".join([*lines, f"return {FACTORS[training.schedule].format(done=done)}"])


def _update(training: TrainingSpec) -> str:
    """Return the lines from the loss to the step of the optimizer."""
    scaled = training.precision == "float16"
    lines = ["scaler.scale(loss).backward()" if scaled else "loss.backward()"]
    if training.max_grad_norm is not None:
        lines += ["scaler.unscale_(optimizer)"] if scaled else []
        lines.append(f"nn.utils.clip_grad_norm_(model.parameters(), {training.max_grad_norm})")
    lines += ["scaler.step(optimizer)", "scaler.update()"] if scaled else ["optimizer.step()"]
    return "\n".join(lines)
