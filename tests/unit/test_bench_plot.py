"""Unit tests of the benchmark's picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench.machine import Machine
from tests.bench.outcome import Column, Outcome
from tests.bench.plot import write_plot

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    """Native and one other place, with one metric measured and one failed."""
    result = Outcome(
        command="tools/bench.sh",
        machine=Machine.here(tmp_path),
        settings={},
        columns=[Column("native", "native", ""), Column("kernel", "memfs kernel", "")],
    )
    for place, rate in {"native": 100.0, "kernel": 25.0}.items():
        result.samples.add("unlink", place, rate)
        result.samples.add("random_read", place, rate)
    result.samples.fail("random_read", "kernel", "EIO")
    return result


def test_plot_is_drawn_although_cells_are_missing(outcome: Outcome, tmp_path: Path) -> None:
    """A failed workload must not cost the picture of all others."""
    write_plot(outcome, tmp_path / "plot.svg")
    picture = (tmp_path / "plot.svg").read_text()
    assert "<!-- 0.25 -->" in picture
    assert "memfs kernel" in picture


def test_plot_without_native_is_refused(outcome: Outcome, tmp_path: Path) -> None:
    """There is nothing to divide by; no file is left that looks like a result."""
    outcome.columns.pop(0)
    with pytest.raises(ValueError, match="native"):
        write_plot(outcome, tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()
