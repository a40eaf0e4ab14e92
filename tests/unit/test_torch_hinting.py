"""What memfs is told of an epoch: all of it, in order, and again after a daemon was away."""

from __future__ import annotations

import itertools
import logging
import threading
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import memfs.torch as mt
from memfs.control.client import ControlError, ControlUnavailableError
from memfs.errors import MemfsError
from memfs.prediction.hints import Hints
from memfs.torch import hinting
from memfs.torch.places import MountedFiles
from memfs.torch.telling import TellRate
from memfs.types import InodeNo
from tests.waiting import WAIT_S, no_thread_left, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATHS = [f"/data/{number:03}" for number in range(100)]


class FakeDaemon:
    """A mount whose daemon has the real lists; the inode number of a file is its index plus 1."""

    mountpoint = Path("/data")

    def __init__(self) -> None:
        self.away = False
        self.restart()

    def restart(self) -> None:
        """Forget all lists, as a new daemon does."""
        self.hints = Hints()
        self.done: list[int] = []
        self.call_count = 0
        self.threads: set[threading.Thread] = set()

    def hint(
        self,
        coming: list[int],
        done: list[int],
        tier: str = "warm",
        job: int | None = None,
        *,
        replace: bool = False,
    ) -> dict[str, Any]:
        if self.away:
            raise ControlUnavailableError("no daemon answers")
        self.call_count += 1
        self.threads.add(threading.current_thread())
        self.done += [number - 1 for number in done]
        try:
            number = self.hints.begin(warm=tier == "warm") if job is None else job
            if replace:
                self.hints.drop(number)
            taken = self.hints.add(number, [InodeNo(each) for each in coming])
        except MemfsError as error:
            raise ControlError(str(error), errno=error.errno) from None
        return {"job": number, "taken_count": taken, "stalled": bool(self.hints.stalled)}

    def take(self, count: int = 1000) -> list[int]:
        """Fetch files as the mover does: those that come next."""
        taken = [self.hints.take() for _ in range(min(count, self.hints.waiting_count))]
        for hint in taken:
            assert hint is not None
            self.hints.finish(hint, 0, warm=hint.warm)
        return [hint.ino - 1 for hint in taken if hint is not None]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    daemon = FakeDaemon()

    class FakePlaces:
        def __init__(self, paths: Sequence[str]) -> None:
            assert paths is PATHS

        def locate(self, order: Sequence[int]) -> list[MountedFiles]:
            numbers = array("Q", [index + 1 for index in order])
            return [MountedFiles(daemon, numbers, range(len(order)))]  # type: ignore[arg-type]  # a stand-in

    monkeypatch.setattr(hinting, "Places", FakePlaces)
    return daemon


def order(seed: int) -> list[int]:
    return torch.randperm(100, generator=torch.Generator().manual_seed(seed)).tolist()


def test_the_order_is_told_while_the_first_index_is_used(daemon: FakeDaemon) -> None:
    """The order of the next epoch takes the place of what waits."""
    sampler = mt.HintSampler(order(1), PATHS)
    first = iter(sampler)
    assert next(first) == order(1)[0]
    wait_for(lambda: daemon.hints.waiting_count == 100, "the order")
    assert daemon.take(30) == order(1)[:30]
    assert list(first) == order(1)[1:]
    sampler.sampler = order(2)
    second = iter(sampler)
    next(second)
    wait_for(lambda: daemon.hints.waiting_count == 100, "the other order")
    assert daemon.take() == order(2)
    assert list(second) == order(2)[1:]


def test_who_trains_waits_for_no_call(daemon: FakeDaemon) -> None:
    """All of them are another thread's, and few."""
    assert list(mt.HintSampler(order(1), PATHS, rate=TellRate(calm_s=30.0))) == order(1)
    assert threading.current_thread() not in daemon.threads
    assert daemon.call_count <= 3


def test_long_orders_are_told_in_slices(daemon: FakeDaemon) -> None:
    """A call has a bound; only the first one takes the place of the last epoch."""
    sampler = mt.HintSampler([], PATHS, rate=TellRate(files_a_call=7))
    for seed in (1, 2):
        before = daemon.call_count
        sampler.sampler = order(seed)
        epoch = iter(sampler)
        next(epoch)
        wait_for(lambda: daemon.hints.waiting_count == 100, "the order")
        assert daemon.call_count - before >= 15
        assert daemon.take() == order(seed)
        assert list(epoch) == order(seed)[1:]
    assert daemon.done == order(1) + order(2)


def test_what_is_used_is_done(daemon: FakeDaemon) -> None:
    """After as many more as the loader has in flight; and all of it at the end."""
    sampler = iter(mt.HintSampler(order(3), PATHS, behind=10, rate=TellRate(calm_s=0.01)))
    for _ in range(60):
        next(sampler)
    # Who asked for the 60th has used the 59 before; 10 of them may be on their way.
    wait_for(lambda: len(daemon.done) == 49, lambda: daemon.done)
    assert daemon.done == order(3)[:49]
    assert list(sampler) == order(3)[60:]
    assert daemon.done == order(3)


def test_who_waits_for_room_is_told_soon(daemon: FakeDaemon) -> None:
    """Files that wait for the room of others do not wait for the calm pace."""
    daemon.hints.stalled = "no room"
    sampler = iter(mt.HintSampler(order(3), PATHS, rate=TellRate(calm_s=1000.0)))
    for count in range(1, 50):
        next(sampler)
        wait_for(lambda count=count: len(daemon.done) == count - 1, "what was used")  # type: ignore[misc]  # bound at once
    sampler.close()  # type: ignore[attr-defined]  # a generator


def test_an_epoch_that_is_given_up_says_so_of_what_was_used(daemon: FakeDaemon) -> None:
    """Nobody has used the rest; no thread is left."""
    sampler = iter(mt.HintSampler(order(3), PATHS))
    for _ in range(30):
        next(sampler)
    sampler.close()  # type: ignore[attr-defined]  # a generator
    wait_for(lambda: not any(t.name == "memfs-hints" for t in threading.enumerate()), "its end")
    assert daemon.done == order(3)[:29]


def test_what_the_list_has_no_room_for_is_told_as_it_is_worked_off(daemon: FakeDaemon) -> None:
    """Else the end of a long epoch would come without hints."""
    daemon.hints = Hints(count_max=25)
    told: list[int] = []
    for at, _ in enumerate(mt.HintSampler(order(4), PATHS, rate=TellRate(files_a_call=10))):
        wait_for(lambda: daemon.hints.waiting_count, "more hints")
        assert daemon.hints.waiting_count <= 25
        told += daemon.take(1)
        assert told == order(4)[: at + 1]


def test_a_list_that_the_daemon_has_forgotten_is_begun_anew(daemon: FakeDaemon) -> None:
    """It remembers the last 64, and not those from before it was started."""
    sampler = mt.HintSampler(order(5), PATHS)
    assert list(sampler) == order(5)
    daemon.restart()
    for _ in range(5):
        assert list(sampler) == order(5)
        assert daemon.take() == order(5)
    daemon.hints = Hints()
    assert list(sampler) == order(5)
    assert daemon.take() == order(5)


def test_a_daemon_that_is_away_is_said_once_and_tried_each_epoch(
    daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    """The epoch goes on meanwhile, without asking it again and again."""
    sampler = mt.HintSampler(order(6), PATHS, rate=TellRate(calm_s=0.001))
    middle = iter(sampler)
    next(middle)
    wait_for(lambda: daemon.call_count, "the order")
    daemon.away = True
    attempts = itertools.count()
    hint = daemon.hint
    daemon.hint = lambda *a, **k: (next(attempts), hint(*a, **k))[1]  # type: ignore[method-assign]  # counted
    with caplog.at_level(logging.WARNING):
        assert [*middle] == order(6)[1:]
        assert list(sampler) == order(6)
    assert next(attempts) == 2
    assert [record.message for record in caplog.records] == [
        "/data: the epoch goes on without hints: no daemon answers"
    ]
    daemon.away = False
    daemon.restart()
    assert list(sampler) == order(6)
    assert daemon.take() == order(6)
    assert daemon.done == order(6)


def test_samplers_of_any_kind_are_wrapped(daemon: FakeDaemon) -> None:
    """A generator has no length and one epoch."""
    sampler = mt.HintSampler((index for index in order(7)), PATHS)
    with pytest.raises(TypeError):
        len(sampler)
    sampler.set_epoch(3)
    assert list(sampler) == order(7)
    assert daemon.take() == order(7)
    assert list(sampler) == []


# --- batches -------------------------------------------------------------------------------------
class WatchedDirectory(mt.TensorDirectory):
    """Notes which thread loads a file, after `held`."""

    def __init__(self, root: Path, slow_s: float, held: Callable[[], object] = int) -> None:
        for number in range(6):
            mt.save({"n": torch.tensor([number])}, root / f"{number}.safetensors")
        super().__init__(root, transform=lambda tensors: int(tensors["n"][0]), slow_s=slow_s)
        self.held = held
        self.threads: list[threading.Thread] = []

    def _load(self, index: int) -> dict[str, torch.Tensor]:
        self.threads.append(threading.current_thread())
        self.held()
        return super()._load(index)


def test_a_batch_of_near_files_is_read_by_one_thread(tmp_path: Path) -> None:
    """Threads would cost more than they bring."""
    data = WatchedDirectory(tmp_path, float("inf"))
    assert data.__getitems__([3, 1, 2]) == [3, 1, 2]
    assert data.threads == [threading.current_thread()] * 3
    assert data.__getitems__([]) == []


def test_the_waits_for_far_files_overlap(tmp_path: Path) -> None:
    """After the first one that was slow; at most `lookahead` of them, and in order."""
    together = threading.Barrier(2)
    first = iter([True])

    data = WatchedDirectory(tmp_path, -1.0, lambda: next(first, 0) or together.wait(WAIT_S))
    data.lookahead = 2
    with no_thread_left():
        assert data.__getitems__([4, 5, 0, 3, 1]) == [4, 5, 0, 3, 1]
    assert len(set(data.threads)) == 3
    data.lookahead = 1
    data.held = int
    data.threads.clear()
    assert data.__getitems__([4, 5]) == [4, 5]
    assert data.threads == [threading.current_thread()] * 2


def test_a_file_that_is_missing_fails_its_batch(tmp_path: Path) -> None:
    """With the error of the file, and no thread is left."""
    data = WatchedDirectory(tmp_path, -1.0)
    Path(data.paths[3]).unlink()
    with no_thread_left(), pytest.raises(FileNotFoundError, match=r"3\.safetensors"):
        data.__getitems__([0, 1, 3, 2])
