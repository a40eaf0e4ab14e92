"""What commands that copy files show and say: how far they are, and what they have done.

Invariant: what could not be done is named, and the caller is told that there was something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from memfs.sizes import format_count, format_size
from memfs_tools.terminal import complain, tell, tell_json
from memfs_tools.tree_work import moves_watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.client.mount import Mount
    from memfs.control.methods.copies import CopyReport

R = TypeVar("R", bound="CopyReport")

_FAILURES_SHOWN_MAX = 20


def watched(
    served: Mount,
    work: Callable[[Callable[[CopyReport], None]], R],
    *,
    hidden: bool,
) -> R:
    """Do some work, and show on a terminal how far it is.

    Args:
        served: The mount that does it.
        work: Takes what is to be told of its progress.
        hidden: Show nothing.
    """
    # Imported here: what draws bars takes 0.1 s.
    from memfs_tools.display import progress_bar

    with progress_bar(hidden=hidden) as show:
        shown = {"done": "", "moves": ""}
        counted = {"files": 0}

        def draw() -> None:
            show(f"{shown['done']}{shown['moves']}", counted["files"], 0)

        def told(report: CopyReport) -> None:
            shown["done"], counted["files"] = _done(report), report["file_count"]
            draw()

        def moves(text: str) -> None:
            shown["moves"] = text
            draw()

        try:
            with moves_watched(served, moves, hidden=hidden):
                return work(told)
        except KeyboardInterrupt:
            complain("stopped; run it again to go on")
            raise


def tell_copy(report: CopyReport, *, as_json: bool) -> bool:
    """Print what was done; return whether all of it could be."""
    if as_json:
        tell_json({name: value for name, value in report.items() if name != "ended"})
    else:
        for failure in report["failures"][:_FAILURES_SHOWN_MAX]:
            complain(failure)
        if report["failed_count"] > _FAILURES_SHOWN_MAX:
            complain(f"and {report['failed_count'] - _FAILURES_SHOWN_MAX} more")
        tell(_done(report))
    return not report["failed_count"]


def _done(report: CopyReport) -> str:
    """Return in words what was done."""
    made = [(report["file_count"], "file"), (report["directory_count"], "directory")]
    counts = [
        (report["changed_count"], "changed"),
        (report["removed_count"], "removed"),
        (report["equal_count"], "left as before"),
        (report["failed_count"], "failed"),
    ]
    sizes = [
        (report["shared_bytes"], "shared"),
        (report["cloned_bytes"], "on shared blocks"),
        (report["copied_bytes"], "copied"),
    ]
    words = [f"{format_count(count, noun)} made" for count, noun in made if count]
    words += [f"{count} {word}" for count, word in counts if count]
    words += [f"{format_size(size)} {word}" for size, word in sizes if size]
    return ", ".join(words) if words else "nothing to do"
