"""The dashboard for Grafana asks for metrics that there are, by labels that they have."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from memfs.metrics.table import METRICS, Kind
from memfs.metrics.text import MOUNT_LABEL
from memfs.metrics.traffic import Level
from tests.documents import ROOT

if TYPE_CHECKING:
    from memfs.metrics.table import Metric

DASHBOARD: dict[str, Any] = json.loads((ROOT / "grafana/memfs.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
BY_NAME = {metric.name: metric for metric in METRICS}
OF_SCRAPE = {"instance", "job", "le", MOUNT_LABEL}
"""Labels that Prometheus adds, that a histogram has, and that of each line."""


def metric_of(name: str) -> Metric:
    """Return the metric that a time series belongs to."""
    if name in BY_NAME:
        assert BY_NAME[name].kind != Kind.HISTOGRAM, f"{name} has no series of its own name"
        return BY_NAME[name]
    found = BY_NAME[re.sub(r"_(?:bucket|sum|count)$", "", name)]
    assert found.kind == Kind.HISTOGRAM, name
    return found


def expressions() -> list[tuple[str, str]]:
    """Return the title of each panel with each of its queries and their legends."""
    return [
        (f"{panel['title']}: {target['expr']}", f"{target['expr']} {target['legendFormat']}")
        for panel in PANELS
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("text", [text for _, text in expressions()])
def test_a_query_names_metrics_and_labels_that_there_are(text: str) -> None:
    names = re.findall(r"\bmemfs_\w+", text)
    assert names
    labels = {label for name in names for label in metric_of(name).labels} | OF_SCRAPE
    used = re.findall(r"[{,](\w+)=~?\"", text)
    used += [each.strip() for by in re.findall(r"by \(([^)]*)\)", text) for each in by.split(",")]
    used += re.findall(r"\{\{(\w+)\}\}", text)
    assert set(used) <= labels


@pytest.mark.parametrize("text", [text for _, text in expressions()])
def test_counters_are_asked_for_their_rate(text: str) -> None:
    """But for ratios of two, whose rate would be of a few files."""
    for name in re.findall(r"\bmemfs_\w+", text):
        grows = metric_of(name).kind != Kind.GAUGE
        if grows and not name.startswith("memfs_codec_"):
            assert f"rate({name}{{" in text, name


def test_all_panels_are_explained_and_fit_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_levels_in_queries_are_levels() -> None:
    found = re.findall(r'level=~?"([^"]*)"', json.dumps(PANELS).replace('\\"', '"'))
    assert found
    assert {level for each in found for level in each.split("|")} <= set(Level)
