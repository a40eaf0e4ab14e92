"""OpenTelemetry: what is sent is what Prometheus is told, as its own library reads it."""

from __future__ import annotations

import json

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from memfs.metrics import table
from memfs.metrics.latency import Latencies, limit_ns
from memfs.metrics.otlp import request_of
from memfs.metrics.table import METRICS, Kind
from memfs.metrics.text import Histogram, Sample, render

LABELS = st.text(st.characters(exclude_characters="\r", codec="utf-8"))
NOW_NS = 1_796_050_000 * 10**9


def sent(samples: list[Sample], mount: str = "/mnt/a") -> ExportMetricsServiceRequest:
    """What a collector makes of it."""
    body = json.dumps(request_of(render(samples, mount), NOW_NS, "1.2.3"))
    found: ExportMetricsServiceRequest = json_format.Parse(body, ExportMetricsServiceRequest())
    return found


def test_gauges_and_counters_have_their_kind_unit_and_time() -> None:
    request = sent([Sample(table.UPTIME, 90.5), Sample(table.STORE_SENT, 7 << 40)])
    [resource] = request.resource_metrics
    assert {each.key: each.value.string_value for each in resource.resource.attributes} == {
        "service.name": "memfs",
        "service.version": "1.2.3",
        "memfs.mount": "/mnt/a",
    }
    uptime, store = resource.scope_metrics[0].metrics
    assert (uptime.name, uptime.unit, uptime.description) == (
        table.UPTIME.name,
        "s",
        table.UPTIME.help,
    )
    [point] = uptime.gauge.data_points
    assert (point.as_double, point.time_unix_nano, list(point.attributes)) == (90.5, NOW_NS, [])
    assert (store.unit, store.sum.is_monotonic, store.sum.aggregation_temporality) == (
        "By",
        True,
        2,
    )
    [point] = store.sum.data_points
    assert (point.as_double, point.start_time_unix_nano) == (7 << 40, NOW_NS - 90_500_000_000)


def test_a_histogram_has_counts_by_bucket_that_are_not_summed_up() -> None:
    latencies = Latencies()
    for elapsed_ns in (10, 3000, 3000, 1 << 40):
        latencies.note("open", elapsed_ns)
    latencies.note("read", 5000)
    samples = [
        Sample(table.REQUEST_DURATION, Histogram(counts, latencies.sums_ns()[name]), (name,))
        for name, counts in latencies.counts().items()
    ]
    [metric] = sent(samples).resource_metrics[0].scope_metrics[0].metrics
    first, second = metric.histogram.data_points
    assert [each.value.string_value for each in first.attributes] == ["open"]
    assert list(first.bucket_counts) == latencies.counts()["open"]
    assert list(second.bucket_counts) == latencies.counts()["read"]
    assert list(first.explicit_bounds) == [
        limit_ns(at) / 1e9 for at in range(len(first.bucket_counts) - 1)
    ]
    assert (first.count, first.sum) == (4, latencies.sums_ns()["open"] / 1e9)


@settings(deadline=None)
@given(st.dictionaries(LABELS, st.integers(0, 1 << 53)))
def test_any_label_arrives(stored: dict[str, int]) -> None:
    samples = [Sample(table.CODEC_STORED, value, (label,)) for label, value in stored.items()]
    found = {
        point.attributes[0].value.string_value: point.as_double
        for metric in sent(samples).resource_metrics[0].scope_metrics[0].metrics
        for point in metric.sum.data_points
    }
    assert found == stored


def test_each_row_of_the_table_can_be_sent() -> None:
    samples = [
        Sample(metric, 1.0, tuple("x" for _ in metric.labels))
        for metric in METRICS
        if metric.kind != Kind.HISTOGRAM
    ]
    metrics = sent(samples).resource_metrics[0].scope_metrics[0].metrics
    assert [each.name for each in metrics] == [each.metric.name for each in samples]
    assert all(each.unit and each.description for each in metrics)
