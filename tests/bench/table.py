"""The outcome as Markdown, ready for docs/internals/benchmarks.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.aims import BOUND_AIMS, RATIO_AIMS
from tests.bench.samples import Summary
from tests.bench.workloads import CACHE_LEGEND, METRICS

if TYPE_CHECKING:
    from tests.bench.aims import BoundAim, RatioAim
    from tests.bench.outcome import Outcome

ABSENT = "-"
NATIVE = "native"
PLAIN_PYFUSE3 = "passthroughfs"


def render(outcome: Outcome) -> str:
    """The whole report."""
    parts = [
        _provenance(outcome),
        _medians(outcome),
        f"Caches: {CACHE_LEGEND}",
        _ratios(outcome),
        _aims(outcome),
        _remarks(outcome),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rate_text(value: float, unit: str) -> str:
    """Three significant digits; rates of calls from 1,000 on in thousands."""
    if unit == "/s" and value >= 999.5:
        return f"{_digits(value / 1000)} k"
    return _digits(value)


def _provenance(outcome: Outcome) -> str:
    machine = outcome.machine
    settings = outcome.settings
    return (
        f"`{outcome.command}`, commit {machine.commit}, {machine.date}. "
        f"{machine.cpu}, {machine.cpu_count} CPUs, {machine.memory_bytes / (1 << 30):.0f} GiB; "
        f"Linux {machine.kernel}, {machine.filesystem}, Python {machine.python}.\n"
        f"Medians of {settings['round_count']:.0f} rounds with the least and the most in "
        f"brackets; in each round every place takes its turn, "
        f"{settings['duration_s']:g} s or more a sample, "
        f"large file {settings['data_bytes'] / (1 << 20):.0f} MiB, "
        f"{settings['small_count']:.0f} small files. More is better."
    )


def _medians(outcome: Outcome) -> str:
    rows = []
    for name, metric in METRICS.items():
        cells = [f"{metric.title}, {metric.unit}", metric.cache]
        for column in outcome.columns:
            summary = outcome.samples.summary(name, column.name)
            if summary is not None:
                cells.append(_cell(summary, metric.unit))
            else:
                failed = outcome.samples.failed(name, column.name) is not None
                cells.append("failed" if failed else ABSENT)
        rows.append(cells)
    heads = [f"{each.title} {each.version}".strip() for each in outcome.columns]
    return _markdown(["workload", "caches", *heads], rows)


def _ratios(outcome: Outcome) -> str:
    """Each place over native and over pyfuse3's example, where those took part."""
    names = {column.name for column in outcome.columns}
    titles = {NATIVE: "native", PLAIN_PYFUSE3: "passthroughfs.py"}
    baselines = [name for name in titles if name in names]
    compared = [column for column in outcome.columns if column.name != NATIVE]
    if not baselines or not compared:
        return ""
    rows = []
    for name, metric in METRICS.items():
        cells = [metric.title]
        for column in compared:
            ratios = [outcome.samples.ratio(name, column.name, each) for each in baselines]
            cells.append(" / ".join(ABSENT if r is None else _digits(r) for r in ratios))
        rows.append(cells)
    heading = "Times as fast as " + " / as ".join(titles[each] for each in baselines) + ":"
    return heading + "\n\n" + _markdown(["workload", *(each.title for each in compared)], rows)


def _aims(outcome: Outcome) -> str:
    rows = [row for aim in RATIO_AIMS if (row := _ratio_row(outcome, aim)) is not None]
    rows += [row for aim in BOUND_AIMS if (row := _bound_row(outcome, aim)) is not None]
    return _markdown(["aim", "wanted", "measured", "met"], rows) if rows else ""


def _ratio_row(outcome: Outcome, aim: RatioAim) -> list[str] | None:
    ratio = outcome.samples.ratio(aim.metric, aim.place, aim.baseline)
    if ratio is None:
        return None
    titles = {column.name: column.title for column in outcome.columns}
    what = f"{METRICS[aim.metric].title}: {titles[aim.place]} to {titles[aim.baseline]}"
    met = "yes" if ratio >= aim.at_least else "no"
    return [what, f">= {aim.at_least:g}", _digits(ratio), met]


def _bound_row(outcome: Outcome, aim: BoundAim) -> list[str] | None:
    samples = outcome.figures.get(aim.figure)
    if not samples:
        return None
    summary = Summary.of(samples)
    measured = f"{_cell(summary, aim.unit)} {aim.unit}"
    met = "yes" if summary.median <= aim.at_most else "no"
    return [aim.title, f"<= {aim.at_most:g} {aim.unit}", measured, met]


def _remarks(outcome: Outcome) -> str:
    lines = [f"- {name} left out: {reason}" for name, reason in outcome.skipped.items()]
    failed: dict[tuple[str, str], list[str]] = {}
    for metric, reasons in outcome.samples.failures.items():
        for place, why in reasons.items():
            failed.setdefault((place, why), []).append(metric)
    lines += [
        f"- {', '.join(metrics)} on {place} failed: {why}"
        for (place, why), metrics in failed.items()
    ]
    lines += [f"- {name} not measured: {why}" for name, why in outcome.figure_failures.items()]
    return "\n".join(lines)


def _cell(summary: Summary, unit: str) -> str:
    median = rate_text(summary.median, unit)
    if summary.count == 1:
        return median
    return f"{median} ({rate_text(summary.minimum, unit)}..{rate_text(summary.maximum, unit)})"


def _digits(value: float) -> str:
    """Three significant digits without an exponent; from 1,000 on all digits before the point."""
    if value == 0:
        return "0"
    if value >= 99.95:
        return f"{value:.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    if value >= 0.0995:
        return f"{value:.2f}"
    return f"{value:.2g}"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
