"""No wait of a thread or for a process is without a limit.

A thread that waits for ever keeps a failed test from its end: what is seen is a hang, and not the
failure. Tasks of trio end with their test, which has a limit.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
FOLDERS = sorted({path.parts[0] for path in (p.relative_to(TESTS) for p in TESTS.glob("*/*.py"))})
FOLDERS.remove("bench")
"""Who runs a benchmark can end it."""

WAITS = {"wait", "join", "acquire", "get", "communicate", "result"}
"""Methods of threads, events, locks, queues, processes and futures whose argument is a limit."""

SOURCE = """
async def test():
    await event.wait()
    event.wait(30)
    ",".join(names)
    map(",".join, names)
    names.map(",".join)
    thread.join()
    process.communicate(timeout=30)
    await run_sync(event.wait, 30)
    await run_sync(event.wait)
    start(functools.partial(event.wait))
    start(lambda: lock.acquire())
"""


def waits_without_limit(source: str) -> Iterator[int]:
    """Yield the lines of calls without arguments, and of methods that are passed without any."""
    tree = ast.parse(source)
    awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = isinstance(node.func, ast.Attribute) and node.func.attr in WAITS
        if called and not node.args and not node.keywords and id(node) not in awaited:
            yield node.lineno
        last = node.args[-1] if node.args and not node.keywords else None
        if not isinstance(last, ast.Attribute) or isinstance(last.value, ast.Constant):
            continue
        if last.attr in {"wait", "join", "acquire"}:
            yield node.lineno


def test_waits_without_limit_are_found() -> None:
    assert sorted(waits_without_limit(SOURCE)) == [8, 11, 12, 13]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_wait_is_without_a_limit(folder: str) -> None:
    """`tests.waiting` has `wait_until_set` and `join`."""
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted((TESTS / folder).rglob("*.py"))
        for line in waits_without_limit(path.read_text())
    ]
    assert found == []
