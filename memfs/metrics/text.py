"""The Prometheus text: samples, each under the row of the table that explains it.

Invariant: a sample that fits no row of the table is refused here, so that no number gets out
without name, kind and help.

Source: the exposition formats of the Prometheus documentation, text format 0.0.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.metrics.latency import BUCKET_COUNT, limit_ns
from memfs.metrics.table import METRICS, Kind, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOUNT_LABEL = "mount"


class Histogram(NamedTuple):
    """Counts by bucket."""

    counts: Sequence[int]
    """By bucket, not summed up; `BUCKET_COUNT` of them."""
    sum_ns: int


class Sample(NamedTuple):
    """One value."""

    metric: Metric
    value: float | Histogram
    labels: tuple[str, ...] = ()
    """Values, in the order of the metric's labels."""


def render(samples: Iterable[Sample], mountpoint: str = "") -> str:
    """Return the text of samples, in the order of the table.

    Args:
        samples: In any order.
        mountpoint: That of the mount; a label of each line, as one machine has several.
    """
    common = {MOUNT_LABEL: mountpoint} if mountpoint else {}
    by_metric: dict[Metric, list[Sample]] = {metric: [] for metric in METRICS}
    for sample in samples:
        assert len(sample.labels) == len(sample.metric.labels), sample
        by_metric[sample.metric].append(sample)
    lines: list[str] = []
    for metric, found in by_metric.items():
        if not found:
            continue
        lines.append(f"# HELP {metric.name} {_escape_help(metric.help)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for sample in sorted(found, key=lambda each: each.labels):
            lines += _lines(sample, common)
    return "\n".join(lines) + "\n"


def _lines(sample: Sample, common: dict[str, str]) -> list[str]:
    metric = sample.metric
    labels = common | dict(zip(metric.labels, sample.labels, strict=True))
    if not isinstance(sample.value, Histogram):
        assert metric.kind != Kind.HISTOGRAM, metric.name
        return [f"{metric.name}{_braced(labels)} {_number(sample.value)}"]
    lines, total = [], 0
    for bucket, count in enumerate(sample.value.counts):
        total += count
        limit = "+Inf" if bucket == BUCKET_COUNT - 1 else repr(limit_ns(bucket) / 1e9)
        lines.append(f"{metric.name}_bucket{_braced(labels | {'le': limit})} {total}")
    lines.append(f"{metric.name}_sum{_braced(labels)} {_number(sample.value.sum_ns / 1e9)}")
    lines.append(f"{metric.name}_count{_braced(labels)} {total}")
    return lines


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _braced(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escape_label(value)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _escape_label(value: str) -> str:
    # Names of directories need not be text.
    value = value.encode("utf-8", "backslashreplace").decode()
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
