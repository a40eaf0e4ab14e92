"""Charts of files: those that are used most and least, as treemaps by directory.

Invariant: a treemap has `TREE_COUNT_MAX` files at most, in `GROUP_COUNT_MAX` directories where
their paths allow it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memfs.report.options import BYTES, ROW_COUNT_MAX, Chart, instant
from memfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.report.gathering import Gathered

TREE_COUNT_MAX = 150
"""Files in a treemap: smaller ones cannot be told apart."""
GROUP_COUNT_MAX = 12
"""Directories in a treemap, if files have some in common."""


def hottest(gathered: Gathered) -> Chart:
    """Return the files that are opened most."""
    files = gathered.heat["files"]
    rows = [
        (each["path"], f"{each['uses']:.1f}", format_size(each["size"]))
        for each in files[:ROW_COUNT_MAX]
    ]
    return Chart(
        "hottest",
        "Hottest files",
        "Files by how often they were opened, by directory; an open counts half after a day.",
        treemap([(each["path"], each["uses"]) for each in files]) if files else None,
        ("file", "opens", "size"),
        rows,
    )


def coldest(gathered: Gathered) -> Chart:
    """Return the files on the disk that nobody has used for longest."""
    files = [each for each in gathered.heat["coldest"] if each["size"]]
    rows = [
        (each["path"], instant(each["accessed_ns"] / 1e9), format_size(each["size"]))
        for each in files[:ROW_COUNT_MAX]
    ]
    return Chart(
        "coldest",
        "Coldest files on the disk",
        "Files on the disk that were not used for the longest time, by size and directory: these "
        "leave first when room is needed.",
        treemap([(each["path"], each["size"]) for each in files]) if files else None,
        ("file", "last used", "size"),
        rows,
        BYTES,
    )


def treemap(files: Iterable[tuple[str, float]]) -> dict[str, Any]:
    """Return a treemap of files by directory.

    It stands still: with so few files, to go into a directory would show what is there already.

    Args:
        files: Paths and what their areas are to be.
    """
    shown = sorted(files, key=lambda each: -each[1])[:TREE_COUNT_MAX]
    tree: dict[str, list[dict[str, Any]]] = {}
    depth = _depth(path for path, _ in shown)
    for path, value in shown:
        parts = path.split("/")
        cut = min(depth, len(parts) - 1)
        directory, name = "/".join(parts[:cut]), "/".join(parts[cut:])
        tree.setdefault(directory or "/", []).append({"name": name, "value": round(value, 3)})
    return {
        "tooltip": {"trigger": "item"},
        "series": [
            {
                "type": "treemap",
                "left": 0,
                "right": 0,
                "top": 0,
                "bottom": 0,
                "roam": False,
                "nodeClick": False,
                "breadcrumb": {"show": False},
                "label": {"overflow": "truncate", "fontSize": 11},
                "upperLabel": {"show": True, "height": 20, "overflow": "truncate"},
                "data": [{"name": name, "children": files} for name, files in tree.items()],
            }
        ],
    }


def _depth(paths: Iterable[str]) -> int:
    """Return how many parts of paths make groups that are few enough to be seen."""
    parts = [path.split("/")[:-1] for path in paths]
    for depth in range(max(map(len, parts), default=1), 1, -1):
        if len({tuple(each[:depth]) for each in parts}) <= GROUP_COUNT_MAX:
            return depth
    return 1
