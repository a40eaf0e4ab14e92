"""OpenTelemetry: the metrics of a mount as a request of its protocol, in JSON.

Invariant: what is sent is the text of Prometheus in another form: the same names, labels and
numbers, with the kind, unit and help of the table.

Source: OTLP 1.x over HTTP in JSON, and `opentelemetry/proto/metrics/v1/metrics.proto`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memfs.metrics.table import METRICS, UPTIME, Kind, Metric
from memfs.metrics.text import MOUNT_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_HISTOGRAM = re.compile(r"^(\w+)_(bucket|sum|count)$")
_BY_NAME = {metric.name: metric for metric in METRICS}
_UNITS = {"bytes": "By", "seconds": "s", "ratio": "1", "flag": "1"}
"""As UCUM writes them, which OpenTelemetry takes units from; what is counted is between braces."""
_CUMULATIVE = 2
"""AGGREGATION_TEMPORALITY_CUMULATIVE: since the daemon started."""

Sample = tuple[str, dict[str, str], float]
"""Name, labels and value of a line."""


def request_of(text: str, now_ns: int, version: str) -> dict[str, Any]:
    """Return an `ExportMetricsServiceRequest` as values of JSON.

    Args:
        text: What `memfs metrics` prints of one mount.
        now_ns: Wall clock, nanoseconds.
        version: That of memfs.
    """
    samples = list(_samples(text))
    mount = next((labels[MOUNT_LABEL] for _, labels, _ in samples if MOUNT_LABEL in labels), "")
    uptime_s = next((value for name, _, value in samples if name == UPTIME.name), 0.0)
    times = {
        "startTimeUnixNano": str(now_ns - int(uptime_s * 1e9)),
        "timeUnixNano": str(now_ns),
    }
    resource = {"service.name": "memfs", "service.version": version, "memfs.mount": mount}
    return {
        "resourceMetrics": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeMetrics": [
                    {
                        "scope": {"name": "memfs", "version": version},
                        "metrics": [
                            _metric(metric, found, times)
                            for metric, found in _by_metric(samples).items()
                        ],
                    }
                ],
            }
        ]
    }


def _samples(text: str) -> Iterator[Sample]:
    # Labels may hold other characters that end lines.
    for line in text.split("\n"):
        found = None if line.startswith("#") else _SAMPLE.match(line)
        if found is not None:
            labels = {
                name: _unescaped(value) for name, value in _LABEL.findall(found["labels"] or "")
            }
            yield found["name"], labels, float(found["value"])


def _unescaped(value: str) -> str:
    return _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], value)


def _by_metric(samples: Iterable[Sample]) -> dict[Metric, list[Sample]]:
    """Return lines by the row of the table that they belong to."""
    found: dict[Metric, list[Sample]] = {}
    for sample in samples:
        name = sample[0]
        if name not in _BY_NAME and (part := _HISTOGRAM.match(name)) is not None:
            name = part[1]
        if name in _BY_NAME:
            found.setdefault(_BY_NAME[name], []).append(sample)
    return found


def _metric(metric: Metric, samples: list[Sample], times: Mapping[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": metric.name,
        "description": metric.help,
        "unit": _UNITS.get(metric.unit, f"{{{metric.unit}}}"),
    }
    if metric.kind == Kind.HISTOGRAM:
        points = _histograms(samples, times)
        told["histogram"] = {"aggregationTemporality": _CUMULATIVE, "dataPoints": points}
        return told
    points = [
        {**times, "attributes": _attributes(labels), "asDouble": value}
        for _, labels, value in samples
    ]
    if metric.kind == Kind.COUNTER:
        told["sum"] = {
            "aggregationTemporality": _CUMULATIVE,
            "isMonotonic": True,
            "dataPoints": points,
        }
    else:
        told["gauge"] = {"dataPoints": points}
    return told


def _histograms(samples: list[Sample], times: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return points of a histogram: its text sums counts up, and OpenTelemetry does not."""
    series: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for name, labels, value in samples:
        limit = labels.pop("le", "")
        point = series.setdefault(
            tuple(labels.items()),
            {
                **times,
                "attributes": _attributes(labels),
                "explicitBounds": [],
                "bucketCounts": [],
            },
        )
        if name.endswith("_sum"):
            point["sum"] = value
        elif name.endswith("_count"):
            point["count"] = str(int(value))
        else:
            point["bucketCounts"].append(int(value))
            if limit != "+Inf":
                point["explicitBounds"].append(float(limit))
    for point in series.values():
        sums = point["bucketCounts"]
        point["bucketCounts"] = [
            str(total - before) for before, total in zip([0, *sums], sums, strict=False)
        ]
    return list(series.values())


def _attributes(labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return labels; the mount is told of the resource once."""
    return [
        {"key": name, "value": {"stringValue": value}}
        for name, value in labels.items()
        if name != MOUNT_LABEL
    ]
