"""All that a run found: what the table, the JSON file and the plot are made from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from tests.bench.machine import Machine
from tests.bench.samples import Samples

if TYPE_CHECKING:
    from pathlib import Path

JSON_FORMAT = 1
"""Version of the JSON file; raised with every change that a reader would notice."""


@dataclass(frozen=True, slots=True)
class Column:
    """One place as the table heads it."""

    name: str
    title: str
    version: str
    """Empty where the program has no version."""


@dataclass(slots=True)
class Outcome:
    """One run."""

    command: str
    machine: Machine
    settings: dict[str, float]
    """Shape of a sample and number of rounds, by the names of `workloads.Shape`."""
    columns: list[Column] = field(default_factory=list)
    """The places that took part, in the order of the table."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Place name -> why it took no part."""
    samples: Samples = field(default_factory=Samples)
    figures: dict[str, list[float]] = field(default_factory=dict)
    """Name of an `aims.BoundAim` -> its samples, in the unit of the aim."""
    figure_failures: dict[str, str] = field(default_factory=dict)
    """Name of a figure -> why it was not measured."""

    @property
    def failed(self) -> bool:
        """Whether something that should have been measured was not."""
        return bool(self.samples.failures or self.figure_failures)

    def write_json(self, path: Path) -> None:
        """Write everything, every sample included."""
        document = {"format": JSON_FORMAT, **asdict(self)}
        path.write_text(json.dumps(document, indent=1) + "\n")

    @classmethod
    def read_json(cls, path: Path) -> Outcome:
        """Return what `write_json` wrote."""
        document = json.loads(path.read_text())
        assert document.pop("format") == JSON_FORMAT, path
        document["machine"] = Machine(**document["machine"])
        document["columns"] = [Column(**each) for each in document["columns"]]
        document["samples"] = Samples(**document["samples"])
        return cls(**document)
