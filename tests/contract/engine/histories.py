"""Histories of one xattr beside its indexes: the engine and a dictionary go the same steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest

from memfs.config import QueryConfig
from memfs.metadata.records import FileOrder, IndexState
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.query.matching import matches
from memfs.query.parsing import parse
from memfs.query.values import stored_value
from memfs.types import ROOT_INODE, InodeNo
from tests.contract.engine.asking import ask, build
from tests.contract.engine.making import NOW_NS, make_file
from tests.contract.engine.older import change_as_older
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import SearchStrategy

    from memfs.metadata.engine import Engine
    from memfs.query.matching import Values
    from memfs.types import SnapshotId
    from tests.contract.engine.site import SqliteSite

OTHER = b"user.other"

Step = tuple[str, Any, Any]
Stored = dict[InodeNo, dict[str, bytes]]


def steps_of(
    name: bytes, values: SearchStrategy[bytes], filters: SearchStrategy[Any], *more: str
) -> SearchStrategy[list[Step]]:
    """Return histories of an xattr and of another one.

    Args:
        name: The xattr.
        values: What both may have.
        filters: Questions.
        more: Further kinds of steps: `make`, `add`, `drop`.
    """
    fields = [name.decode(), OTHER.decode()]
    which, count, nothing = st.integers(0, 7), st.integers(1, 9), st.none()
    orders = st.one_of(
        nothing, st.builds(FileOrder, st.sampled_from(["$size", *fields]), st.booleans())
    )
    by_kind = {
        "make": (nothing, nothing),
        "add": (st.sampled_from(fields), nothing),
        "drop": (st.sampled_from(fields), nothing),
        "put": (which, values),
        "other": (which, values),
        "remove": (which, nothing),
        "reap": (which, nothing),
        "build": (count, nothing),
        "index": (count, nothing),
        "undo": (which, values),
        "crash": (nothing, nothing),
        "off": (which, values),
        "older": (which, values),
        "snapshot": (nothing, nothing),
        "ask": (filters, orders),
    }
    # The more often one stands there, the more often it is taken.
    usual = [kind for kind in by_kind if kind not in ("make", "add", "drop")]
    kinds = [*more, *usual, "put", "build", "ask", "ask"]
    return st.lists(
        st.one_of([st.tuples(st.just(kind), *by_kind[kind]) for kind in kinds]),
        min_size=10,
        max_size=50,
    )


async def index(engine: Engine) -> None:
    """Look at all xattrs that are in no index yet."""
    while not (await engine.index_attributes(3)).is_whole:
        pass


async def put(engine: Engine, ino: InodeNo, value: bytes, name: bytes) -> None:
    """Set an xattr."""
    await engine.set_xattr(ino, name, value, 0, NOW_NS)


class History:
    """An engine, and what is in it.

    Args:
        site: Has the engine.
        name: The xattr.
        file_count: Files that are there from the beginning.
    """

    def __init__(self, site: SqliteSite, name: bytes, file_count: int = 6) -> None:
        self.site = site
        self.name = name
        self.stored: Stored = {ROOT_INODE: {}}
        self.shown: dict[SnapshotId, Stored] = {}
        for _ in range(file_count):
            self._make()

    def run(self, steps: Sequence[Step], last: Sequence[object]) -> None:
        """Take all steps, and close the engine.

        Args:
            steps: As of `steps_of`.
            last: Filters that are asked at the end, when the indexes are whole.
        """
        try:
            for step in steps:
                self._take(*step)
            run(index(self.site.engine))
            run(build(self.site.engine))
            for filter_ in last:
                assert sorted(self._found(filter_)) == expected(self.stored, filter_)
            self.site.close()
        finally:
            self.site.engine.close()

    def _make(self) -> None:
        engine = self.site.engine
        self.stored[run(make_file(engine, b"f%d" % engine.reserve_ids()[0])).ino] = {}

    def _found(self, filter_: object, *order_and_snapshot: Any) -> list[InodeNo]:  # noqa: ANN401 - by `ask`
        order, *snap = order_and_snapshot or (None,)
        return run(ask(self.site.engine, filter_, order, 2, *snap))[0]

    def _take(self, step: str, first: Any, second: Any) -> None:  # noqa: ANN401 - by step
        """Take one step on both sides."""
        engine, stored = self.site.engine, self.stored
        inos = [ino for ino in sorted(stored) if ino != ROOT_INODE]
        ino = inos[first % len(inos)] if isinstance(first, int) and inos else ROOT_INODE
        field = self.name.decode()
        there = {each.field: each.state for each in engine.field_indexes()}
        if step == "put":
            run(put(engine, ino, second, self.name))
            stored[ino][field] = second
        elif step == "other":
            run(put(engine, ino, second, OTHER))
            stored[ino][OTHER.decode()] = second
        elif step == "remove":
            if stored[ino].pop(field, None) is not None:
                run(engine.remove_xattr(ino, self.name, NOW_NS))
        elif step == "reap" and ino != ROOT_INODE:
            entries = run(engine.list_directory(ROOT_INODE, 0, 100))
            name = next(entry.name for entry in entries if entry.inode.ino == ino)
            run(engine.unlink(ROOT_INODE, name, NOW_NS))
            run(engine.reap([ino]))
            del stored[ino]
        elif step == "make":
            self._make()
        elif step == "add" and there.get(first) != IndexState.LEAVING:
            run(engine.add_index(first))
        elif step == "drop" and there.get(first) not in (None, IndexState.LEAVING):
            run(engine.drop_index(first))
        elif step == "build":
            run(engine.build_indexes(first))
        elif step == "index":
            run(engine.index_attributes(first))
        elif step == "undo":
            with pytest.raises(ZeroDivisionError):
                run(change_in_vain(engine, self.name, ino, second))
        elif step == "crash":
            engine.commit_nowait()
            self.site.crash()
        elif step == "off":
            self._put_without_indexes(ino, second)
        elif step == "older" and not self.shown:
            engine.close()
            change_as_older(self.site.state_dir, ino, self.name, second)
            if field in stored[ino]:
                stored[ino][field] = second
            self.site.reopen()
        elif step == "snapshot":
            number = run(engine.create_snapshot(f"s{len(self.shown)}", NOW_NS)).snap
            self.shown[number] = {each: {**attributes} for each, attributes in stored.items()}
        elif step == "ask":
            run(index(engine))
            assert engine.check() == []
            assert sorted(self._found(first, second)) == expected(stored, first)
            for snap, then in self.shown.items():
                assert sorted(self._found(first, second, snap)) == expected(then, first)

    def _put_without_indexes(self, ino: InodeNo, value: bytes) -> None:
        self.site.engine.close()
        off = SqliteEngine.open(
            self.site.state_dir, CONFIG, BIRTH_NS, SMALL, query=QueryConfig(enabled=False)
        )
        run(put(off, ino, value, self.name))
        run(off.build_indexes(2))
        assert off.check() == []
        off.close()
        self.stored[ino][self.name.decode()] = value
        self.site.reopen()


async def change_in_vain(engine: Engine, name: bytes, ino: InodeNo, value: bytes) -> None:
    """Change values and indexes in a step that is taken back; raises `ZeroDivisionError`."""
    async with engine.change():
        await put(engine, ino, value, name)
        await put(engine, ino, b'["never"]', b"user.never")
        await build(engine)
        await engine.remove_xattr(ino, name, NOW_NS)
        raise ZeroDivisionError


def expected(stored: Stored, filter_: object) -> list[InodeNo]:
    """Return the files that a filter finds, by a look at all of them."""
    node = parse(filter_)
    return [ino for ino in sorted(stored) if matches(node, partial(_values_of, stored, ino))]


def _values_of(stored: Stored, ino: InodeNo, field: str) -> Values:
    if field == "$size":
        return (0,)
    found = stored[ino].get(field)
    if found is None:
        return None
    value = stored_value(found)
    return () if value is None else (value,)
