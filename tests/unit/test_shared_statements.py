"""The vocabulary in PostgreSQL's words: each number is decided, and says what it reads."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

import pytest

from memfs.metadata.shared.statements import LOCAL, SHARED, translate
from memfs.metadata.shared.tables import BY_NAME, TABLES, stored_row, stored_text
from memfs.metadata.sqlite import statements as sqlite
from memfs.metadata.sqlite.creation import tables_of
from memfs.metadata.sqlite.format import FORMAT_NUMBER
from memfs.metadata.sqlite.statements import TEXTS
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHANGED = re.compile(r"^(?:insert (?:or \w+ )?into|update(?: or fail)?|delete from) (\w+)")


@pytest.fixture
def tables() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    for text in tables_of(FORMAT_NUMBER):
        connection.execute(text)
    yield connection
    connection.close()


def test_each_statement_of_the_vocabulary_is_decided() -> None:
    """A new statement would else change tables of this node and not the shared ones."""
    undecided = {TEXTS[number] for number in set(range(len(TEXTS))) - SHARED.keys() - LOCAL}
    assert not undecided, "say in memfs/metadata/shared/statements.py what they do to shared tables"
    assert not SHARED.keys() & LOCAL


def test_statements_of_tables_that_are_not_shared_are_local_and_others_are_not() -> None:
    """What only this node has is not sent; a shared table has no change that is not."""
    columns_alone = {
        sqlite.SET_DURABLE,
        sqlite.SET_PACKED,
        sqlite.SET_ACCESSED,
        sqlite.SET_TYPED,
    }
    for number, text in enumerate(TEXTS):
        found = _CHANGED.match(text)
        is_shared = found is not None and found[1] in BY_NAME
        assert (number in SHARED) == (is_shared and number not in columns_alone), text


def test_a_statement_reads_only_parameters_that_its_original_has() -> None:
    """The places count the marks of SQLite's text."""
    for number, shared in SHARED.items():
        text = TEXTS[number]
        numbered = [int(place) for place in re.findall(r"\?(\d+)", text)]
        count = max(numbered) if numbered else text.count("?")
        assert {place for place, _letter in shared.takes} <= set(range(count)), text
        marks = {int(mark) for mark in re.findall(r"\$(\d+)", shared.text)}
        assert marks == set(range(1, len(shared.takes) + 1)), shared.text


def test_each_shared_table_is_a_projection_of_one_of_sqlite(tables: sqlite3.Connection) -> None:
    """The columns are there, and the rest is left out on purpose."""
    left_out = {
        "inode": {"raw", "accessed_ns", "packed"},
        "xattr": {"key", "typed"},
        "form": {"kind"},
        "garbage": {"kind"},
        "kept": {"raw", "blocks"},
    }
    for table in TABLES:
        tables.execute(table.select_local).fetchall()
        there = {row[1] for row in tables.execute(f"pragma table_info({table.name})")}
        assert there - {each.name for each in table.columns} == left_out.get(table.name, set())


def test_tables_that_are_not_shared_are_those_of_one_node(tables: sqlite3.Connection) -> None:
    """A new table is decided as well."""
    query = "select name from sqlite_schema where type = 'table' and name not like 'sqlite_%'"
    there = {name for (name,) in tables.execute(query)}
    assert there - BY_NAME.keys() == {
        *("intent", "pending", "pending_since", "decision", "state", "metric", "event"),
        *("unsent", "followed"),
        *("attribute_name", "field_index", "field_value", "name_entry", "element", "text_index"),
    }


def test_a_text_with_nul_has_one_form_without() -> None:
    """Two texts never become one, and what people write stays as it is."""
    texts = ["", "plain", "a\0b", "\x10", "\x10@", "\0", "\x10P", "\\0", "\0@", "\x10\0"]
    assert len({stored_text(text) for text in texts}) == len(texts)
    assert not any("\0" in stored_text(text) for text in texts)
    assert stored_text("caf\xe9 \\0 \U0001f600") == "caf\xe9 \\0 \U0001f600"
    assert stored_row((1, b"\0", "\0", None)) == (1, b"\0", "\x10@", None)


def test_only_what_is_shared_is_translated() -> None:
    """The parameters tell a local form from a remote one, and a note of an index."""
    packed, remote = FormKind.PACKED.value, FormKind.REMOTE.value
    assert translate([(sqlite.SET_ACCESSED, (1, 2)), (sqlite.DELETE_INTENT, (3,))]) == []
    assert translate([(sqlite.DELETE_FORM, (7, packed))]) == []
    assert [params for _text, params in translate([(sqlite.DELETE_FORM, (7, remote))])] == [(7,)]
    assert translate([(sqlite.INSERT_GARBAGE, (8, FormKind.RAW.value, "12"))]) == []
    [(_text, garbage)] = translate([(sqlite.INSERT_GARBAGE, (8, remote, "blobs/1\0"))])
    assert garbage == (8, "blobs/1\x10@")
    assert translate([(sqlite.PUT_SETTING, ("query.index", b"whole"))]) == []
    [(_text, setting)] = translate([(sqlite.PUT_SETTING, ("Query.index", b"1"))])
    assert setting == (b"Query.index", b"1")


def test_a_list_of_numbers_becomes_an_array() -> None:
    """SQLite has it as JSON."""
    [(text, parameters)] = translate([(sqlite.UNDO_TABLES[0].delete, (9, "[1, 22, 333]"))])
    assert parameters == (9, "{1,22,333}")
    assert "$2::bigint[]" in text
    [(_text, parameters)] = translate([(sqlite.DELETE_TARGETS, ("[]",))])
    assert parameters == ("{}",)


def test_a_number_that_is_not_decided_is_not_passed_over() -> None:
    """A journal of a later version has some."""
    with pytest.raises(KeyError):
        translate([(len(TEXTS), ())])
