"""Loading: tensors by path, from where they are nearest.

Invariant: where the bytes came from is never guessed: `report_of` tells what the last load did.

The hot tier comes first, where the file is in it or the device is a GPU of it. Then the file: on
the CPU mapped, so that nothing is copied and programs share the page cache; on a GPU, or where
memory of one's own is asked for, by the pipeline. What cannot be used in place is read by torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from memfs.bounded import BoundedDict
from memfs.errors import MemfsError
from memfs.hot.pool import HotTierFullError as TierFullError
from memfs.hot.protocol import HotGoneError, HotMissError, HotTimeoutError
from memfs.hot.tensors import FormatError
from memfs.torch.dtypes import precision_of
from memfs.torch.errors import DeviceUnavailableError, HotTierFullError, LoadTimeoutError
from memfs.torch.files import TensorFile
from memfs.torch.slabs import attach, ticket_for
from memfs.torch.views import Views, cast, views_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memfs.hot.tensors import Tensor, TensorIndex
    from memfs.torch.slabs import MappedSlab

SOURCES_KEPT_MAX = 4096
"""Loads of this process that `report_of` can tell of."""

Source = Literal["hot", "mapped", "pipeline", "read"]
Share = bool | Literal["require"]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load did."""

    source: Source
    """`hot`: attached to a device; `mapped`: in the page cache, in place; `pipeline`: read into
    memory of the process's own, or the GPU's; `read`: by torch, which copies."""
    size_bytes: int
    """Bytes of the tensors."""
    generation: int | None = None
    """That of the file, where the hot tier served it."""
    device: str | None = None
    """UUID, where the hot tier served it."""
    cast_count: int = 0
    """Tensors whose type was changed."""
    overflow_count: int = 0
    """Finite values that became infinite so."""
    copied_count: int = 0
    """Tensors that were copied out of the mapping: the file misplaces them for their type."""
    fallback: str | None = None
    """Why the hot tier did not serve it although it was asked."""


@dataclass(slots=True)
class _Wish:
    """What a caller wants."""

    path: str
    device: torch.device
    dtype: torch.dtype | None
    precision: str | None
    names: Sequence[str] | None
    share: Share
    mutable: bool
    timeout_s: float
    layout: str | None = None
    shape: Sequence[int] | None = None
    raw_dtype: str | None = None
    fallback: str | None = field(default=None, init=False)


_reports: BoundedDict[str, LoadReport] = BoundedDict(SOURCES_KEPT_MAX)


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    names: Sequence[str] | None = None,
    share: Share = True,
    mutable: bool = False,
    timeout: float = 30.0,
    layout: str | None = None,
    shape: Sequence[int] | None = None,
) -> dict[str, torch.Tensor]:
    """Return the tensors of a file.

    Args:
        path: `.safetensors`, `.npy`, `.npz`, `.pt`, or plain numbers; on a mount of memfs or not.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`: a GPU where there is one.
        dtype: Precision of plain floats: float32, float16 or bfloat16; integers, booleans and 8-bit
            floats stay. With `shape`: what plain numbers are. None: as in the file.
        names: These tensors only; None: all.
        share: True: memory that other processes use as well, where it is there. False: memory of
            the caller's own. `"require"`: the hot tier or an error.
        mutable: The tensors can be written; nobody else sees that.
        timeout: Seconds; bounds the wait for the hot tier.
        layout: `channels_last`: 4-D tensors with their channels innermost.
        shape: That of a file of plain numbers.

    Returns:
        Tensors by name, on `device`, in the order of the file. Without `mutable`, and with `share`,
        they are read-only: writing to one ends the process.

    Raises:
        FileNotFoundError, PermissionError: As of open(2).
        FormatError: The file holds no tensors (a ValueError).
        KeyError: There is no tensor of one of the names.
        DeviceUnavailableError: The device is not there, or not in the hot tier where that is
            required (a RuntimeError).
        HotTierFullError: Only with `share="require"` (a MemoryError).
        LoadTimeoutError: Likewise (a TimeoutError).
    """
    raw_dtype = None
    if shape is not None:
        if dtype is None:
            raise ValueError("shape is of plain numbers; dtype has to say what they are")
        raw_dtype, dtype = str(dtype).removeprefix("torch."), None
    wanted = resolve_device(device)
    precision = precision_of(dtype)
    wish = _Wish(
        path=os.fspath(path),
        device=wanted,
        dtype=None if precision is None else getattr(torch, precision),
        precision=precision,
        names=names,
        share=share,
        mutable=mutable,
        timeout_s=timeout,
        layout=layout,
        shape=shape,
        raw_dtype=raw_dtype,
    )
    with TensorFile(wish.path) as file:
        tensors, report = _load(file, wish)
    _reports[os.path.abspath(wish.path)] = report
    return tensors


def report_of(path: str | os.PathLike[str]) -> LoadReport | None:
    """Return what this process's last load of a file did; None if it has not loaded it."""
    return _reports.get(os.path.abspath(path))


def resolve_device(device: torch.device | str) -> torch.device:
    """Return a device by name.

    Raises:
        DeviceUnavailableError: It is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise DeviceUnavailableError(f"{device}: {error}") from None
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type != "cuda":
        raise DeviceUnavailableError(f"{device}: memfs loads to cpu and cuda; use .to({device!r})")
    if not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailableError(
            f"{device} is not there: torch sees {torch.cuda.device_count()} CUDA devices"
        )
    return torch.device("cuda", torch.cuda.current_device() if found.index is None else found.index)


def _load(file: TensorFile, wish: _Wish) -> tuple[dict[str, torch.Tensor], LoadReport]:
    if wish.share:
        slab = _try_hot(file, wish)
        if slab is not None:
            return _from_slab(slab, wish)
    try:
        index = file.index(wish.raw_dtype, wish.shape)
    except FormatError:
        return _by_torch(file, wish)
    tensors = choose(index, wish.names, wish.path)
    if wish.share and wish.device.type == "cpu":
        source: Source = "mapped"
        views = Views(file.map(private=wish.mutable))
        found = {tensor.name: views.view(tensor) for tensor in tensors}
    else:
        source = "pipeline"
        base, offsets = file.read(tensors, wish.device)
        views = Views(base)
        found = {
            tensor.name: views.view(tensor, offset)
            for tensor, offset in zip(tensors, offsets, strict=True)
        }
    report = _report(source, found, wish, views.copied_count)
    if wish.layout == "channels_last":
        for name, tensor in found.items():
            if tensor.dim() == 4:
                found[name] = tensor.contiguous(memory_format=torch.channels_last)
    return found, report


def _try_hot(file: TensorFile, wish: _Wish) -> MappedSlab | None:
    """Return the slab of a file; None where the file itself is to be used.

    Raises:
        DeviceUnavailableError, HotTierFullError, LoadTimeoutError: Of `share="require"`.
        FormatError: The file holds no tensors.
    """
    required = wish.share == "require"
    try:
        ticket = ticket_for(file.fd, wish.device)
    except OSError as error:
        if required:
            raise
        wish.fallback = str(error)
        return None
    if ticket is None:
        if required:
            raise DeviceUnavailableError(
                f"{wish.path}: no hot tier serves {wish.device}; mount with hot.devices and "
                "hot.size, or load with share=True"
            )
        return None
    demand = required or wish.device.type == "cuda"
    if not (ticket.resident or demand):
        return None
    try:
        return attach(
            ticket,
            wish.device,
            precision=wish.precision,
            layout=wish.layout,
            demand=demand,
            private=wish.mutable,
            timeout_s=wish.timeout_s,
        )
    except FormatError:
        if required:
            raise
        return None
    except TierFullError as error:
        if required:
            raise HotTierFullError(f"{wish.path}: {error}") from None
        wish.fallback = str(error)
    except (HotMissError, HotGoneError) as error:
        if required:
            late = isinstance(error, HotTimeoutError)
            kind = LoadTimeoutError if late else DeviceUnavailableError
            raise kind(f"{wish.path}: {error}") from None
        wish.fallback = str(error)
    except MemfsError as error:
        if required:
            raise DeviceUnavailableError(f"{wish.path}: {error}") from None
        wish.fallback = str(error)
    return None


def _from_slab(slab: MappedSlab, wish: _Wish) -> tuple[dict[str, torch.Tensor], LoadReport]:
    tensors = choose(slab.tensors, wish.names, wish.path)
    found = views_of(slab.base, tensors)
    report = LoadReport(
        "hot",
        sum(tensor.size_bytes for tensor in tensors),
        slab.generation,
        slab.uuid,
        _count(slab.report, "cast_count"),
        _count(slab.report, "overflow_count"),
    )
    return found, report


def _by_torch(file: TensorFile, wish: _Wish) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """Read what has no places in the file: compressed archives, and torch's old formats.

    Raises:
        FormatError: That of `TensorFile.index`, if torch cannot read it either.
    """
    if not wish.path.endswith((".pt", ".pth", ".bin", ".npz")) or wish.shape is not None:
        file.index(wish.raw_dtype, wish.shape)
    if wish.path.endswith(".npz"):
        found = file.decompress(wish.device)
    else:
        found = file.unpickle(wish.device)
    if wish.names is not None:
        check_names(wish.names, found, wish.path)
        found = {name: found[name] for name in wish.names}
    return found, _report("read", found, wish)


def _report(
    source: Source, found: dict[str, torch.Tensor], wish: _Wish, copied_count: int = 0
) -> LoadReport:
    cast_count, overflow_count = cast(found, wish.dtype)
    return LoadReport(
        source,
        sum(tensor.numel() * tensor.element_size() for tensor in found.values()),
        cast_count=cast_count,
        overflow_count=overflow_count,
        copied_count=copied_count,
        fallback=wish.fallback,
    )


def choose(index: TensorIndex, names: Sequence[str] | None, path: str) -> list[Tensor]:
    """Return the tensors of some names, in their order; all of them without names.

    Raises:
        KeyError: There is no such tensor.
    """
    if names is None:
        return list(index.tensors)
    by_name = {tensor.name: tensor for tensor in index.tensors}
    check_names(names, by_name, path)
    return [by_name[name] for name in names]


def check_names(names: Sequence[str], known: Iterable[str], path: str) -> None:
    """Raise KeyError if a name is not among those that are known."""
    present = set(known)
    missing = [name for name in names if name not in present]
    if missing:
        shown = ", ".join(sorted(present)[:5])
        raise KeyError(f"{path} has no tensor {missing[0]!r}; it has {len(present)}: {shown}, ...")


def _count(report: Mapping[str, object], name: str) -> int:
    value = report.get(name)
    return value if isinstance(value, int) else 0


def load_model(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    strict: bool = True,
    assign: bool = True,
) -> tuple[list[str], list[str]]:
    """Load a model's parameters and buffers from a file.

    Args:
        model: Its state_dict has the names of the file's tensors.
        path: As of `load`.
        device: None: that of the model's first parameter.
        strict: Names that only one side has are an error.
        assign: The tensors become the model's own, copy-on-write, without a second copy of them;
            else they are copied into those that it has.

    Returns:
        Names that the file lacks, and names that the model lacks.

    Raises:
        RuntimeError: As of `torch.nn.Module.load_state_dict`.
    """
    if device is None:
        first = next(model.parameters(), None)
        device = torch.device("cpu") if first is None or first.is_meta else first.device
    state = load(path, device=device, mutable=assign)
    result = model.load_state_dict(state, strict=strict, assign=assign)
    return list(result.missing_keys), list(result.unexpected_keys)
