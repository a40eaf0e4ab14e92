"""Unit tests of how the benchmark goes through its places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.places import NativePlace, PassthroughfsPlace
from tests.bench.samples import Samples
from tests.bench.sampling import Sampler
from tests.bench.workloads import METRICS, Shape

if TYPE_CHECKING:
    from pathlib import Path


SHAPE = Shape(duration_s=0.001, data_bytes=1 << 20, small_count=1)


def test_place_that_cannot_be_prepared_loses_its_cells_and_not_the_run(tmp_path: Path) -> None:
    """A broken peer must not cost the numbers of all the others, nor stop the progress bar."""
    steps: list[str] = []
    sampler = Sampler([NativePlace(tmp_path / "absent")], SHAPE, steps.append)
    samples = Samples()
    sampler.prepare()
    sampler.run(2, samples)
    for metric in METRICS:
        assert "preparation failed" in (samples.failed(metric, "native") or "")
    assert Sampler.step_count(1, 2) == len(steps)


def test_place_without_its_program_says_what_is_missing(tmp_path: Path) -> None:
    """A left-out column needs a reason that the reader can act on."""

    class MissingPlace(PassthroughfsPlace):
        script = tmp_path / "passthroughfs.py"

    assert "tools/bench.sh downloads it" in (MissingPlace(tmp_path).lacks() or "")
