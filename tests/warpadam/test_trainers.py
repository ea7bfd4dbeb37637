"""Trainers of other packages take WarpAdam as any optimizer of torch. A package that is not installed is skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from warpadam import WarpAdam, param_groups

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEPS = 8


def _model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def _data() -> TensorDataset:
    inputs = torch.randn(4 * STEPS, 6, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, inputs[:, :3].clone())


def _plain_loop() -> dict[str, Tensor]:
    """What a loop without a trainer learns from the same batches."""
    model = _model()
    optimizer = WarpAdam(model.named_parameters(), lr=0.03)
    for inputs, targets in DataLoader(_data(), batch_size=4):
        optimizer.zero_grad()
        loss: Tensor = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.state_dict()


def _check(model: nn.Module) -> None:
    for name, value in _plain_loop().items():
        torch.testing.assert_close(model.state_dict()[name].cpu(), value, rtol=1e-5, atol=1e-6)


def test_accelerate_trains_as_a_plain_loop() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True)
    model: Any = _model()
    optimizer: Any = WarpAdam(model.named_parameters(), lr=0.03)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(_data(), batch_size=4))
    for inputs, targets in loader:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
        optimizer.step()
    _check(accelerator.unwrap_model(model))


def test_lightning_trains_as_a_plain_loop(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = _model()

        def training_step(self, batch: list[Tensor]) -> Tensor:
            inputs, targets = batch
            return nn.functional.mse_loss(self.model(inputs), targets)

        def configure_optimizers(self) -> WarpAdam:
            return WarpAdam(self.named_parameters(), lr=0.03)

    module = Module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet)
    trainer.fit(module, DataLoader(_data(), batch_size=4))
    assert list(tmp_path.rglob("*.ckpt"))
    _check(module.model)


def test_the_trainer_of_hugging_face_trains_and_saves(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate, which the trainer needs, is not installed")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = _model()

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": nn.functional.mse_loss(self.model(inputs), labels)}

    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = [{"inputs": inputs, "labels": targets} for inputs, targets in map(_data().__getitem__, range(4 * STEPS))]
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        save_steps=STEPS,
        report_to=[],
        use_cpu=True,
    )
    optimizer = WarpAdam(param_groups(model, lr=0.03))
    transformers.Trainer(model, args, train_dataset=rows, optimizers=(optimizer, None)).train()
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (tmp_path / f"checkpoint-{STEPS}" / "optimizer.pt").is_file()
