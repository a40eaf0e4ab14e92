"""Unit tests of the benchmark's statistics."""

from __future__ import annotations

import pytest

from tests.bench.samples import Samples, Summary


def test_summary_is_the_median_with_both_ends() -> None:
    """One outlier must show in the extent, never in the middle."""
    assert Summary(median=3.0, minimum=1.0, maximum=100.0, count=5) == Summary.of(
        [3.0, 100.0, 1.0, 2.0, 4.0]
    )


def test_summary_of_an_even_count_is_the_mean_of_the_middle_two() -> None:
    """Neither of the two middle samples is preferred."""
    assert Summary.of([1.0, 2.0, 4.0, 9.0]).median == 3.0


def test_summary_refuses_no_samples() -> None:
    """An empty cell has no number that could be printed."""
    with pytest.raises(ValueError, match="no sample"):
        Summary.of([])


def test_ratio_divides_the_medians_of_one_metric() -> None:
    """Means, or samples of another metric, would give another number."""
    samples = Samples()
    for fast, slow in [(10.0, 1.0), (30.0, 5.0), (1000.0, 6.0)]:
        samples.add("unlink", "kernel", fast)
        samples.add("unlink", "native", slow)
        samples.add("random_read", "native", 1.0)
    assert samples.ratio("unlink", "kernel", "native") == 6.0


def test_ratio_to_a_place_that_took_no_part_is_none() -> None:
    """A left-out peer must leave a gap, not an exception at the end of a long run."""
    samples = Samples()
    samples.add("unlink", "kernel", 1.0)
    assert samples.ratio("unlink", "kernel", "native") is None
    assert samples.ratio("unlink", "native", "kernel") is None


def test_ratio_to_zero_is_none() -> None:
    """A place that did nothing in its time cannot be divided by."""
    samples = Samples()
    samples.add("unlink", "kernel", 1.0)
    samples.add("unlink", "native", 0.0)
    assert samples.ratio("unlink", "kernel", "native") is None


def test_one_failed_sample_takes_the_whole_cell_away() -> None:
    """The rounds that worked must not pass for a full set."""
    samples = Samples()
    samples.add("unlink", "kernel", 1.0)
    samples.fail("unlink", "kernel", "EIO")
    samples.fail("unlink", "kernel", "later")
    samples.add("unlink", "kernel", 2.0)
    assert samples.summary("unlink", "kernel") is None
    assert samples.failed("unlink", "kernel") == "EIO"
