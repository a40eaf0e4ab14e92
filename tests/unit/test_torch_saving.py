"""`memfs.torch.save`: what is read back is what was given, in a file that others can read."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

import memfs.torch as mt

if TYPE_CHECKING:
    from pathlib import Path


def test_conjugated_and_negated_views_are_stored_as_their_values(tmp_path: Path) -> None:
    """Torch keeps both as a bit beside the bytes, of which a file knows nothing."""
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    tensors = {
        "conjugate": numbers.conj(),
        "imaginary": numbers.conj().imag,
        "both": numbers.conj()[::2],
        "plain": numbers,
    }
    assert tensors["conjugate"].is_conj()
    assert tensors["imaginary"].is_neg()
    path = tmp_path / "f.safetensors"
    mt.save(tensors, path)
    found = safetensors.torch.load_file(path)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.resolve_conj().resolve_neg()), name


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(2.0)[::2],
        torch.arange(6.0).reshape(2, 3)[1:, 2:],
        torch.ones(1).expand(4, 3),
        torch.tensor(5),
        torch.ones(2, 0, 3),
    ],
)
def test_any_stride_is_stored_row_major(tmp_path: Path, tensor: torch.Tensor) -> None:
    """Also of one element, which torch calls contiguous whatever its stride is."""
    path = tmp_path / "f.safetensors"
    mt.save({"a": tensor}, path)
    assert torch.equal(safetensors.torch.load_file(path)["a"], tensor)


def test_a_type_that_the_format_lacks_is_refused(tmp_path: Path) -> None:
    """A file that only memfs can read would be no safetensors file."""
    with pytest.raises(ValueError, match="complex128 cannot be stored"):
        mt.save({"a": torch.ones(2, dtype=torch.complex128)}, tmp_path / "f")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", [0o666, 0o600, 0o444])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    """Wider than the umask, narrower, and read-only: nobody gains or loses access by a rewrite."""
    path = tmp_path / "f"
    mt.save({"a": torch.ones(1)}, path)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    path.chmod(mode)
    mt.save({"b": torch.ones(1)}, path)
    assert path.stat().st_mode & 0o777 == mode
    assert list(mt.load(path)) == ["b"]


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "模" * 85])
def test_the_longest_names_can_be_saved_to(tmp_path: Path, name: str) -> None:
    """The temporary file's name is no longer than the file's own may be."""
    mt.save({"a": torch.ones(1)}, tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_name_without_a_directory_is_beside_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its directory on stable storage as well."""
    monkeypatch.chdir(tmp_path)
    mt.save({"a": torch.ones(1)}, "f", fsync=True)
    assert list(mt.load("f")) == ["a"]


@pytest.mark.parametrize("options", [{"tier": "hot"}, {"pin": True}, {"pin": True, "tier": "warm"}])
def test_a_pin_needs_memfs(tmp_path: Path, options: dict[str, Any]) -> None:
    """And is refused before anything is written."""
    with pytest.raises(mt.DeviceUnavailableError, match="not on a mount of memfs"):
        mt.save({"a": torch.ones(1)}, tmp_path / "f", **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_failure_leaves_the_former_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A full disk, at whatever point."""
    path = tmp_path / "f"
    mt.save({"old": torch.ones(3)}, path)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            mt.save({"new": torch.ones(3)}, path, fsync=True)
    assert list(mt.load(path)) == ["old"]
    assert os.listdir(tmp_path) == ["f"]


def test_a_write_that_takes_only_a_part_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """write(2) may stop anywhere."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    mt.save({"a": torch.arange(9)}, tmp_path / "f")
    monkeypatch.undo()
    assert torch.equal(safetensors.torch.load_file(tmp_path / "f")["a"], torch.arange(9))
