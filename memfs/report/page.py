"""The page of a report: one file, which needs no network and runs no script but its own.

Invariant: nothing that a mount tells gets into the page but escaped, and the policy of the page
(Content-Security-Policy) lets no other script run and nothing be loaded or sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from memfs.report.sentences import Weight
from memfs.sizes import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.report.gathering import Gathered
    from memfs.report.options import Chart
    from memfs.report.sentences import Sentence

_EMPTY = '<p class="empty">Nothing to show so far.</p>'
_WORDS = {Weight.ACT: "Do something", Weight.KNOW: "To know", Weight.GOOD: "Good"}


def render(gathered: Gathered, told: Sequence[Sentence], drawn: Sequence[Chart]) -> str:
    """Return the page.

    Args:
        gathered: What it is made of.
        told: Its sentences.
        drawn: Its charts.
    """
    scripts = [asset(name) for name in ("echarts.min.js", "charts.js", "report.js")]
    options = [
        {
            "name": chart.name,
            "unit": chart.unit,
            "description": chart.description,
            "option": chart.option,
        }
        for chart in drawn
        if chart.option is not None
    ]
    status = gathered.status
    title = f"memfs: {_text(status.mountpoint)}"
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(gathered.now_s))
    span = format_duration(gathered.span_s) if gathered.periods else "nothing yet"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            f"<style>{asset('report.css')}</style>",
            "</head>",
            "<body>",
            "<header>",
            f"<h1>{_text(status.mountpoint)}</h1>",
            f"<p>{status.inode_count} inodes, {format_size(status.logical_bytes)}; measured: "
            f"{span}, in steps of {format_duration(gathered.resolution_s)}; {made}; memfs "
            f"{escape(status.version)}, {escape(status.driver.name)} driver</p>",
            "</header>",
            "<main>",
            '<ul class="sentences">',
            *map(_sentence, told),
            "</ul>",
            "<noscript><p>Without JavaScript the tables below each heading tell the same as the "
            "charts.</p></noscript>",
            *map(_section, drawn),
            _events(gathered),
            "</main>",
            "<footer>Charts by Apache ECharts (Apache License 2.0). This page is one file and "
            "loads nothing.</footer>",
            f'<script type="application/json" id="charts">{_json(options)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


def asset(name: str) -> str:
    """Return a file that ships with this package."""
    return (files("memfs.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"


def _json(content: object) -> str:
    """Return JSON that ends no script element, whatever texts are in it."""
    return json.dumps(_without_surrogates(content)).replace("<", "\\u003c")


def _without_surrogates(content: object) -> object:
    """Return data whose texts can be encoded: chromium 156 ends at a lone surrogate in a chart."""
    if isinstance(content, str):
        return _encodable(content)
    if isinstance(content, dict):
        return {key: _without_surrogates(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_surrogates(each) for each in content]
    return content


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _sentence(sentence: Sentence) -> str:
    remedy = f' <span class="remedy">{_told(sentence.remedy)}</span>' if sentence.remedy else ""
    return (
        f'<li class="{sentence.weight}"><b>{_WORDS[sentence.weight]}</b> '
        f"{_told(sentence.text)}{remedy}</li>"
    )


def _section(chart: Chart) -> str:
    title, description = _text(chart.title), _text(chart.description)
    name = f"chart-{chart.name}"
    place = _EMPTY
    if chart.option is not None:
        kind = "chart tall" if chart.is_tall else "chart"
        place = f'<div class="{kind}" id="{name}" role="img" aria-label="{title}"></div>'
    return (
        f'<section id="{chart.name}"><h2>{title}</h2><p class="what">{description}</p>{place}'
        f"{_table(title, chart.head, chart.rows)}</section>"
    )


def _events(gathered: Gathered) -> str:
    rows = [
        (
            time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(each["at_ns"] / 1e9)),
            each["kind"],
            each["subject"],
            each["detail"],
        )
        for each in gathered.events
    ]
    table = _table("Events", ("time", "kind", "about", "what"), rows) or _EMPTY
    return (
        '<section id="events"><h2>Events</h2><p class="what">What people decided and what went '
        f"wrong, the latest first.</p>{table}</section>"
    )


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<details><summary>{title} as a table</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title} as a table">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div></details>"
    )


def _told(text: str) -> str:
    """Escape a sentence, in which commands are between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _text(text: str) -> str:
    """Escape for HTML; names of files need not be text."""
    return escape(_encodable(text))
