"""A P in a file: it comes back as it was saved, or an error says why not."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from warpadam import STRATEGIES, Strategy, Warp, WarpAdam, WarpFileError, load_warp, save_warp


def _warp(strategy: Strategy, dtype: torch.dtype = torch.float32) -> Warp:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 2)).to(dtype)
    optimizer = WarpAdam(model.named_parameters(), 0.01, **strategy._asdict(), meta_every=1, p_lr=0.02)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 3, 3, dtype=dtype)).square().mean().backward()
        optimizer.step()
    return Warp.of(optimizer)


ROTATION = STRATEGIES[12]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_what_comes_back_is_what_was_saved_bit_for_bit(strategy: Strategy, dtype: torch.dtype, tmp_path: Path) -> None:
    warp = _warp(strategy, dtype)
    save_warp(tmp_path / "p.safetensors", warp)
    loaded = load_warp(tmp_path / "p.safetensors")
    assert loaded.config == warp.config
    assert list(loaded.parameters) == list(warp.parameters)
    for name, source in warp.parameters.items():
        assert (loaded.parameters[name].shape, loaded.parameters[name].strategy) == (source.shape, source.strategy)
        assert loaded.parameters[name].tensors.keys() == source.tensors.keys()
        for key, value in source.tensors.items():
            assert loaded.parameters[name].tensors[key].dtype == dtype
            assert torch.equal(loaded.parameters[name].tensors[key], value)


def _flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def _edit(old: str, new: str) -> Callable[[bytes], bytes]:
    """Change the header and keep the file whole."""

    def change(data: bytes) -> bytes:
        length = struct.unpack("<Q", data[:8])[0]
        header = data[8 : 8 + length].decode()
        assert old in header
        edited = json.dumps(json.loads(header.replace(old, new))).encode()
        return struct.pack("<Q", len(edited)) + edited + data[8 + length :]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flip, "was changed after it was saved"),
        (_edit(r"\"lr\": 0.01", r"\"lr\": 0.02"), "was changed after it was saved"),
        (_edit('"0.bias:log_scale"', '"2.bias:log_scales"'), "was changed after it was saved"),
        (_edit('"format_version":"1"', '"format_version":"2"'), "version '2'"),
        (_edit("warpadam.warp", "other"), "does not hold a P"),
        (lambda data: data[:-5], "not a complete safetensors file"),
        (lambda data: data[:100], "not a complete safetensors file"),
        (lambda _: b"", "not a complete safetensors file"),
        (lambda _: b"PK\x03\x04" * 50, "not a complete safetensors file"),
    ],
)
def test_a_file_that_is_not_what_was_saved_is_refused(
    change: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.safetensors"
    save_warp(path, _warp(ROTATION))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WarpFileError, match=message) as caught:
        load_warp(path)
    assert str(path) in str(caught.value)


def test_another_safetensors_file_holds_no_p(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WarpFileError, match="does not hold a P"):
        load_warp(tmp_path / "model.safetensors")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_warp(tmp_path / "none.safetensors")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], ids=oct)
def test_who_may_read_the_file_depends_on_the_umask_as_with_torch_save(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save_warp(tmp_path / "p.safetensors", _warp(ROTATION))
        save_warp(tmp_path / "p.safetensors", _warp(STRATEGIES[2]))
        torch.save({}, tmp_path / "state.pt")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("p.safetensors", "state.pt"), stat.S_IFREG | 0o666 & ~umask)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.safetensors"
    save_warp(path, _warp(ROTATION))
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_warp(path, _warp(STRATEGIES[2]))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
