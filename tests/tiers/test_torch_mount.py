"""`memfs.torch` on a mount: from the hot tier where it can, by hints where it helps."""

from __future__ import annotations

import gc
import multiprocessing
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

import memfs.torch as mt
from memfs.control.client import call
from tests.tiers.tensors import HOT
from tests.tiers.tiering import incompressible, residence, send, status, tier_status, told
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

MIB = 1 << 20
STATE = {
    "weight": torch.randn(300, 400, generator=torch.Generator().manual_seed(1)),
    "conv": torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(2)),
    "ids": torch.arange(9),
}


@pytest.fixture
def mount(driver: str, mount_factory: MountFactory) -> Mount:
    made = mount_factory(driver, config=HOT)
    wait_for(lambda: tier_status(made, "hot")["note"] is None, lambda: tier_status(made, "hot"))
    return made


def leases(mount: Mount) -> int:
    answer: Any = call(mount.state, "hot")
    return int(answer["lease_count"])


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


def source_of(path: Path) -> str | None:
    report = mt.report_of(path)
    return None if report is None else report.source


def test_a_pinned_file_comes_from_the_hot_tier_and_others_from_the_page_cache(
    mount: Mount,
) -> None:
    """And the report says which it was."""
    path = mount.root / "model.safetensors"
    mt.save(STATE, path)
    assert equal(mt.load(path), STATE)
    assert source_of(path) == "mapped"
    mt.pin(path, priority=70)
    mt.wait_hot(path)
    held = mt.load(path)
    assert equal(held, STATE)
    found = mt.info(path)
    assert (found.source, found.tier, found.pinned) == ("hot", "hot", "hot")
    assert (found.devices, found.leases) == (("CPU-0",), 1)
    part = held["weight"][:10, :10]
    del held
    gc.collect()
    assert leases(mount) == 1
    assert torch.equal(part, STATE["weight"][:10, :10])
    del part
    wait_for(lambda: leases(mount) == 0, "a lease that stays")
    mt.unpin(path)
    assert mt.info(path).pinned is None


@pytest.mark.any_driver
def test_a_tier_is_given_as_a_file_is_saved(mount: Mount) -> None:
    """Before it gets its name: what cannot be hot is not saved."""
    path = mount.root / "model.safetensors"
    mt.save(STATE, path, tier="hot")
    mt.wait_hot(path)
    assert equal(mt.load(path, share="require"), STATE)
    with pytest.raises(OSError, match="Invalid argument"):
        mt.save(STATE, path, tier="lukewarm")
    assert equal(mt.load(path), STATE)
    (mount.root / "text").write_text("text" * 100)
    with pytest.raises(mt.FormatError, match="no tensors"):
        mt.pin(mount.root / "text")


@pytest.mark.any_driver
def test_the_hot_tier_can_be_required(mount: Mount) -> None:
    """The file is loaded on demand then, and what has no room is a MemoryError."""
    path = mount.root / "model.safetensors"
    mt.save(STATE, path)
    send("glacier", path)
    assert equal(mt.load(path, share="require"), STATE)
    assert source_of(path) == "hot"
    big = mount.root / "big.safetensors"
    mt.save({"big": torch.zeros(80 * MIB, dtype=torch.uint8)}, big)
    with pytest.raises(mt.HotTierFullError, match="fit nowhere"):
        mt.load(big, share="require")
    assert mt.load(big)["big"].shape == (80 * MIB,)
    assert source_of(big) == "mapped"


@pytest.mark.any_driver
def test_views_and_mutable_tensors_leave_the_shared_ones_alone(mount: Mount) -> None:
    """Precision and layout are views of the tier; a mutable one is copy-on-write."""
    path = mount.root / "model.safetensors"
    mt.save(STATE, path, tier="hot")
    mt.wait_hot(path)
    half = mt.load(path, dtype="bfloat16", layout="channels_last")
    assert half["weight"].dtype == torch.bfloat16
    assert half["conv"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(half["conv"].float(), STATE["conv"].bfloat16().float())
    assert half["ids"].dtype == torch.int64
    mine = mt.load(path, mutable=True)
    mine["weight"].zero_()
    assert equal(mt.load(path), STATE)
    assert mt.load(path, share=False)["ids"].tolist() == list(range(9))
    assert source_of(path) == "pipeline"


def _sum(path: str) -> float:
    import memfs.torch as mt

    # torch's own threads do not survive a fork (a DataLoader does the same in its workers).
    torch.set_num_threads(1)
    return float(mt.load(path)["weight"].sum())


@pytest.mark.any_driver
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_attach_by_themselves(mount: Mount, start: str) -> None:
    """Forked ones too: they make connections of their own, and leave the parent's lease alone."""
    path = mount.root / "model.safetensors"
    mt.save(STATE, path, tier="hot")
    mt.wait_hot(path)
    held = mt.load(path)
    with multiprocessing.get_context(start).Pool(2) as pool:
        sums = pool.map_async(_sum, [str(path)] * 4).get(60)
    assert sums == pytest.approx([float(STATE["weight"].sum())] * 4, rel=1e-4)
    wait_for(lambda: leases(mount) == 1, lambda: leases(mount))
    assert equal(held, STATE)


@pytest.mark.any_driver
def test_tensors_by_key_with_snapshots_and_layouts(mount: Mount) -> None:
    """The seed's `HotMemory`."""
    memory = mt.HotMemory(0.05, directory=mount.root / "hot", device="cpu")
    memory.store("weights", STATE["weight"], priority=80)
    memory.store("model", STATE)
    assert memory.keys() == ["model", "weights"]
    assert torch.equal(memory.retrieve("weights"), STATE["weight"])  # type: ignore[arg-type]  # stored alone
    report = memory.optimize_layout("model", channels_last=True, dtype="float16")
    assert (report.tensors, report.moved_count, report.changed) == (3, 2, True)
    laid: Any = memory.retrieve("model")
    assert laid["conv"].is_contiguous(memory_format=torch.channels_last)
    assert laid["weight"].dtype == torch.float16
    assert not memory.optimize_layout("weights").changed
    assert memory.create_snapshot("before") > 0
    memory.store("weights", torch.zeros(3))
    mt.wait_hot(memory.path("weights"))
    assert torch.equal(memory.retrieve("weights"), torch.zeros(3))  # type: ignore[arg-type]  # ditto
    old: Any = memory.retrieve("weights", snapshot="before")
    assert torch.equal(old, STATE["weight"])
    memory.drop_snapshot("before")
    with pytest.raises(KeyError, match="no snapshot 'before'"):
        memory.retrieve("weights", snapshot="before")
    memory.delete("weights")
    assert not memory.exists("weights")
    with pytest.raises(KeyError, match="nothing is stored by the key 'weights'"):
        memory.retrieve("weights")
    with pytest.raises(ValueError, match="cannot be a file name"):
        memory.store("../escape", torch.ones(1))
    metrics = memory.get_metrics()
    assert 0 < metrics["usage_percent"] < 100
    for options, message in (
        ({"size_gb": 500.0}, "raise hot.size"),
        ({"garbage_collection_threshold": 0.5}, "hot.high_watermark=0.8"),
    ):
        with pytest.raises(ValueError, match=message):
            mt.HotMemory(directory=mount.root / "hot", device="cpu", **options)  # type: ignore[arg-type]  # one at a time


@pytest.mark.any_driver
def test_prefetching_brings_files_in_order_and_can_be_waited_for(mount: Mount) -> None:
    """To RAM, and to a device."""
    paths = [mount.root / f"{number}.safetensors" for number in range(4)]
    for number, path in enumerate(paths):
        mt.save({"n": torch.tensor([number] * 1000)}, path)
    send("glacier", *paths)
    for path in paths:
        mt.unpin(path)
    job = mt.prefetch(paths, tier="warm")
    job.wait(60)
    assert job.failed_count == 0
    assert all("raw" in residence(path).forms for path in paths)
    mt.prefetch(paths[:2], tier="hot")
    for path in paths[:2]:
        mt.wait_hot(path)
    assert told(paths[3], "tier") != "hot"
    mt.prefetch(["/proc/version"]).cancel()


SMALL_DISK = """
[cold]
size = "3MiB"
hydrate_max = "1MiB"
high_watermark = 0.9
low_watermark = 0.8

[glacier]
codec = "none"
batch_file_max = 0

[policy]
interval = "100ms"
"""


@pytest.mark.any_driver
def test_a_hinted_epoch_reads_files_that_are_there_already(
    driver: str, mount_factory: MountFactory
) -> None:
    """The local disk has room for a third of them; what was used makes room for what comes."""
    mount = mount_factory(driver, config=SMALL_DISK)
    generator = torch.Generator().manual_seed(4)
    for number in range(40):
        noise = torch.randint(0, 256, (200_000,), dtype=torch.uint8, generator=generator)
        mt.save(
            {"n": torch.tensor([number]), "noise": noise}, mount.root / f"{number:02}.safetensors"
        )
    paths = sorted(mount.root.iterdir())
    send("glacier", *paths)
    for path in paths:
        mt.unpin(path)
    data = mt.TensorDirectory(mount.root)
    order = torch.utils.data.RandomSampler(data, generator=generator)
    sampler = mt.HintSampler(order, data.paths, tier="cold")
    for _ in range(2):
        seen, near = [], 0
        for index in sampler:
            path = paths[index]
            wait_for(
                lambda path=path: "raw" in residence(path).forms,  # type: ignore[misc]  # bound at once
                lambda path=path: (residence(path), status(mount)["prefetch"]),  # type: ignore[misc]  # ditto
            )
            near += 1
            seen.append(int(data[index]["n"][0]))
        assert sorted(seen) == list(range(40))
        assert near == 40
    used_bytes = tier_status(mount, "cold")["used_bytes"]
    assert used_bytes <= 3 * MIB


@pytest.mark.any_driver
def test_hints_that_wait_for_room_hold_up_no_unmount(
    driver: str, mount_factory: MountFactory
) -> None:
    """All that is near was read and not said to be done, so that nothing makes room."""
    mount = mount_factory(driver, config=SMALL_DISK)
    for number in range(24):
        (mount.root / f"{number:02}").write_bytes(incompressible(200_000, seed=number))
    paths = sorted(mount.root.iterdir())
    send("glacier", *paths)
    for path in paths:
        mt.unpin(path)
    mt.prefetch(paths, tier="cold")
    wait_for(
        lambda: "no room" in str(status(mount)["prefetch"]["stalled"]),
        lambda: status(mount)["prefetch"],
    )
    # Fails by its own limit.
    mount.stop()


@pytest.mark.any_driver
def test_transformers_style_loading_by_path(mount: Mount) -> None:
    """A directory with a configuration and weights, read by its library through the mount."""
    directory = mount.root / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"hidden": 400}')
    safetensors.torch.save_file(STATE, directory / "model.safetensors", {"format": "pt"})
    assert equal(safetensors.torch.load_file(directory / "model.safetensors"), STATE)
    assert equal(mt.load(directory / "model.safetensors"), STATE)


@pytest.mark.any_driver
@pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled")
def test_distributed_checkpoints_are_written_and_read_on_the_mount(mount: Mount) -> None:
    """By torch's own reader and writer, unchanged."""
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

    directory = mount.root / "checkpoint"
    save(dict(STATE), checkpoint_id=directory, no_dist=True)
    found = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}
    load(found, checkpoint_id=directory, no_dist=True)
    assert equal(found, STATE)
    send("glacier", *(path for path in directory.iterdir() if path.is_file()))
    found = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}
    load(found, checkpoint_id=directory, no_dist=True)
    assert equal(found, STATE)


@pytest.mark.any_driver
def test_a_path_through_a_link_is_that_of_the_mount(mount: Mount, tmp_path: Path) -> None:
    """As `~/data` often is one: of the file, and of a directory above it."""
    path = mount.root / "runs" / "model.safetensors"
    path.parent.mkdir()
    mt.save(STATE, path)
    (tmp_path / "file").symlink_to(path)
    (tmp_path / "directory").symlink_to(path.parent)
    through = tmp_path / "directory" / path.name
    for linked in (tmp_path / "file", through):
        assert mt.info(linked).tier is not None
        mt.pin(linked)
        mt.wait_hot(linked)
        mt.unpin(linked)
    job = mt.prefetch([through, tmp_path / "nothing"], wait=True)
    assert [progress["total_count"] for progress in job.progress()] == [1]
