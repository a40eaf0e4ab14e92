"""What the policy and prediction must reach on generated traces, smaller than the benchmark's.

`python -m tests.bench.policies` tells the figures of full size.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from tests.access_traces import (
    SAMPLE_BYTES,
    mixed,
    model_zoo,
    sequential_epochs,
    shuffled_epochs,
)
from tests.bench.policies import SHARES, Scale, TraceOutcome, measure, traces

if TYPE_CHECKING:
    from memfs.simulation.foresight import Foresight

SMALL = Scale(file_count=1500, epoch_count=8, model_count=1000, zoo_access_count=12_000)
EPOCHS = ("sequential epochs", "shuffled epochs")
ZOO = "model zoo with drift"


@functools.cache
def _outcome(title: str) -> TraceOutcome:
    return measure(title, traces(SMALL)[title](), lambda *_: None)


def _ratios(title: str, share: float) -> dict[str, tuple[float, float]]:
    """Hit ratios by policy: of files, and of bytes."""
    comparison = _outcome(title).comparisons[share]
    return {
        figures.policy: (figures.hit_ratio(), figures.byte_hit_ratio())
        for figures in (*comparison.figures, comparison.belady)
    }


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("title", traces(SMALL))
def test_ours_is_never_below_lru_by_more_than_two_points(title: str, share: float) -> None:
    ratios = _ratios(title, share)
    for ours, lru in zip(ratios["s3fifo"], ratios["lru"], strict=True):
        assert ours >= lru - 0.02


@pytest.mark.parametrize("title", EPOCHS)
def test_epochs_reach_nine_tenths_of_belady_with_room_for_three_tenths(title: str) -> None:
    ratios = _ratios(title, 0.3)
    for ours, belady in zip(ratios["s3fifo"], ratios["belady"], strict=True):
        assert ours >= 0.9 * belady


@pytest.mark.parametrize(("share", "of_belady"), [(0.1, 0.74), (0.3, 0.81)])
def test_the_zoo_gets_the_bytes_that_s3_fifo_is_known_for(share: float, of_belady: float) -> None:
    """As measured with another implementation on another zoo: shares of Belady's hits."""
    ratios = _ratios(ZOO, share)
    assert ratios["s3fifo"][1] >= of_belady * ratios["belady"][1]
    assert ratios["s3fifo"][1] >= ratios["lru"][1]


def _foresight(title: str) -> Foresight:
    return _outcome(title).foresight


def test_sequences_are_foreseen() -> None:
    foresight = _foresight("sequential epochs")
    assert foresight.precision >= 0.8
    assert foresight.foreseen_ratio >= 0.8


def test_shuffled_orders_waste_little() -> None:
    assert _foresight("shuffled epochs").wasted_per_100 <= 5


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(sequential_epochs, 50, 2),
        functools.partial(shuffled_epochs, 50, 2),
        functools.partial(mixed, 50, 2),
        functools.partial(model_zoo, 50, 200),
    ],
    ids=["sequential", "shuffled", "mixed", "zoo"],
)
def test_a_trace_depends_on_its_seed_alone(make: functools.partial[object]) -> None:
    assert make(seed=3) == make(seed=3)
    assert make(seed=3) != make(seed=4)


def test_the_mix_has_the_shares_that_it_says() -> None:
    trace = mixed(3000, 4)
    kinds = [trace.names[key].partition("/")[0] for key in trace.keys]
    assert kinds.count("sample") / len(kinds) == pytest.approx(0.70, abs=0.02)
    assert kinds.count("popular") / len(kinds) == pytest.approx(0.25, abs=0.02)
    assert len({key for key, kind in zip(trace.keys, kinds, strict=True) if kind == "once"}) == (
        kinds.count("once")
    )
    assert sum(trace.sizes_bytes) / len(trace) == pytest.approx(SAMPLE_BYTES, rel=0.15)
