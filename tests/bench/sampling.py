"""Takes the samples: every place in turn, one process a sample, round after round.

Invariant: samples that are compared were taken next to each other in time; a place that hangs or
fails loses its cell, never the run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests import scratch
from tests.bench import quiet
from tests.bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.places import Place
    from tests.bench.samples import Samples
    from tests.bench.workloads import Shape

SAMPLE_S_MAX = 120.0
"""A sample that takes longer hangs; the slowest peer's preparation took 8 s."""
WARM_UP_S = 0.05
"""Sample length of the discarded first round: it only touches code and memory once."""
_CHECKOUT = Path(__file__).resolve().parents[2]


class SampleError(Exception):
    """A sample could not be taken; says why."""


class Sampler:
    """Runs all workloads over the opened places."""

    def __init__(self, places: list[Place], shape: Shape, advance: Callable[[str], None]) -> None:
        """Take the places, the shape of a sample and whom to tell of each one done."""
        self._places = places
        self._shape = shape
        self._advance = advance
        self._servers = [pid for place in places for pid in scratch.processes_naming(place.base)]
        self._lost: dict[str, str] = {}
        """Name of a place that takes no further part -> why."""

    @staticmethod
    def step_count(place_count: int, round_count: int) -> int:
        """How often a run calls `advance`, the discarded round included."""
        return place_count * (1 + (1 + round_count) * len(WORKLOADS))

    def prepare(self) -> None:
        """Make the shared files of every place; one that fails takes no further part."""
        for place in self._places:
            self._advance(f"prepare {place.name}")
            try:
                self._take("prepare", place, self._shape.duration_s)
            except SampleError as error:
                self._lost[place.name] = f"preparation failed: {error}"

    def run(self, round_count: int, samples: Samples) -> None:
        """Take `round_count` samples of every workload in every place, after a discarded one."""
        for round_index in range(round_count + 1):
            for workload, (_, metrics) in WORKLOADS.items():
                # Another place goes first each round, so that no place always follows the same one.
                turn = round_index % len(self._places)
                for place in self._places[turn:] + self._places[:turn]:
                    self._advance(f"{workload} on {place.name}")
                    duration_s = self._shape.duration_s if round_index else WARM_UP_S
                    try:
                        if place.name in self._lost:
                            raise SampleError(self._lost[place.name])
                        values = self._take(workload, place, duration_s)
                    except SampleError as error:
                        for metric in metrics:
                            samples.fail(metric, place.name, str(error))
                        continue
                    if round_index:
                        for metric, value in values.items():
                            samples.add(metric, place.name, value)

    def _take(self, workload: str, place: Place, duration_s: float) -> dict[str, float]:
        quiet.await_rest(self._servers)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.bench.workloads", workload, str(place.directory)),
                *("--duration-s", str(duration_s)),
                *("--data-bytes", str(self._shape.data_bytes)),
                *("--small-count", str(self._shape.small_count)),
            ],
            cwd=_CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            output, complaint = process.communicate(timeout=SAMPLE_S_MAX)
        except subprocess.TimeoutExpired as error:
            self._lost[place.name] = f"{workload} hung: no answer in {SAMPLE_S_MAX:.0f} s"
            raise SampleError(self._lost[place.name]) from error
        finally:
            if process.poll() is None:
                # A process that waits for a dead mount cannot be killed before the mount is broken.
                process.kill()
                scratch.detach(place.base)
                process.communicate()
        if process.returncode != 0:
            lines = complaint.strip().splitlines() or [f"exit status {process.returncode}"]
            raise SampleError(lines[-1])
        values: dict[str, float] = json.loads(output)
        return values
