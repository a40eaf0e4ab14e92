"""The vocabulary in PostgreSQL's words: each number is decided, and says what it reads."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

import pytest

from memfs.metadata.shared.statements import LOCAL, ROWS_A_STATEMENT, SHARED, translate
from memfs.metadata.shared.tables import BY_NAME, TABLES, array_text, stored_row, stored_text
from memfs.metadata.sqlite import statements as sqlite
from memfs.metadata.sqlite.creation import tables_of
from memfs.metadata.sqlite.format import FORMAT_NUMBER
from memfs.metadata.sqlite.statements import TEXTS
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.metadata.sqlite.tables import Record

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
    from_shared = {sqlite.INSERT_INODE_WAS, sqlite.INSERT_XATTR_WAS, sqlite.INSERT_SYMLINK_WAS}
    for number, text in enumerate(TEXTS):
        found = _CHANGED.match(text)
        is_shared = found is not None and found[1] in BY_NAME
        is_local = number in columns_alone | from_shared
        assert (number in SHARED) == (is_shared and not is_local), text


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
        *("intent", "pending", "pending_since", "pending_code", "decision", "state"),
        *("metric", "event"),
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


CREATED = (0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, None, 0)
"""An inode behind its number and mode."""


def _create(ino: int, parent: int) -> list[Record]:
    return [
        (sqlite.INSERT_DENTRY, (parent, ino, b"%d" % ino, ino)),
        (sqlite.INSERT_INODE, (ino, 0o100644, *CREATED)),
        (sqlite.SET_TIMES, (ino, ino, parent)),
    ]


def test_records_that_do_the_same_go_into_one_statement() -> None:
    """Creates of a transaction: names, inodes, and the last times of each directory."""
    statements = translate([*_create(10, 1), *_create(11, 2), *_create(12, 1)])
    assert [text.split(" unnest")[0] for text, _parameters in statements] == [
        "insert into dentry (parent, cookie, name, ino) select v.p1, v.p2, v.p3, v.p4 from",
        SHARED[sqlite.INSERT_INODE].many.split(" unnest")[0],
        "update inode set mtime_ns = v.p1, ctime_ns = v.p2 from",
    ]
    (_, names), (_, inodes), (_, times) = statements
    assert names == ("{1,2,1}", "{10,11,12}", r'{"\\x3130","\\x3131","\\x3132"}', "{10,11,12}")
    assert inodes[0] == "{10,11,12}"
    assert inodes[-1] == "{null,null,null}"
    assert times == ("{12,11}", "{12,11}", "{1,2}")


def _numbers(*records: Record) -> list[tuple[str, int]]:
    """Return what the statements of records change, and how many rows each has."""
    found = []
    for text, parameters in translate(records):
        many = isinstance(parameters[0], str)
        found.append((" ".join(text.split()[:3]), str(parameters[0]).count(",") + 1 if many else 1))
    return found


def test_no_record_passes_one_of_the_same_rows() -> None:
    """An inode that is made after another one of the same directory was removed, say."""
    make, remove = (sqlite.INSERT_DENTRY, (1, 5, b"a", 5)), (sqlite.DELETE_DENTRY, (1, 5))
    again = (sqlite.INSERT_DENTRY, (1, 6, b"a", 6))
    assert _numbers(make, remove, again) == [
        ("insert into dentry", 1),
        ("delete from dentry", 1),
        ("insert into dentry", 1),
    ]
    elsewhere = (sqlite.INSERT_DENTRY, (2, 7, b"a", 7))
    assert _numbers(make, remove, elsewhere, again)[0] == ("insert into dentry", 2)
    moved = (sqlite.MOVE_DENTRY, (2, b"b", 1, 5))
    back = (sqlite.MOVE_DENTRY, (1, b"a", 2, 5))
    assert len(translate([moved, back])) == 2
    seal, links = (sqlite.SEAL, (1, 2, 3, 4, 5, 9)), (sqlite.SET_LINKS, (2, 7, 7, 9))
    assert len(translate([seal, links, seal])) == 3
    saved = (sqlite.SAVE_INODE.usual, (9, 100))
    assert len(translate([saved, links, saved])) == 3


def test_no_record_passes_one_that_may_touch_anything() -> None:
    """Rows that are found by another column than their key."""
    blob, forget = (sqlite.SET_BLOB, (4, 0, 9)), (sqlite.FORGET_BLOB, (4,))
    assert _numbers(blob, forget, blob) == [("update inode set", 1)] * 3
    assert _numbers(forget, blob, blob, (sqlite.SET_BLOB, (4, 0, 8))) == [
        ("update inode set", 1),
        ("update inode set", 2),
    ]


def test_the_last_of_several_values_of_a_row_counts() -> None:
    """One statement can give a row one value only."""
    values = [(sqlite.PUT_XATTR, (9, b"n", b"%d" % value)) for value in range(3)]
    typed = (sqlite.PUT_TEXT_XATTR, (9, b"n", b"last", 3))
    [(_text, parameters)] = translate([*values, typed])
    assert parameters == (9, b"n", b"last")
    [(_text, parameters)] = translate([*values, (sqlite.PUT_XATTR, (8, b"n", b""))])
    assert parameters == ("{9,8}", r'{"\\x6e","\\x6e"}', r'{"\\x32","\\x"}')
    settings = [(sqlite.PUT_SETTING, ("clock", b"%d" % value)) for value in range(3)]
    assert [parameters for _text, parameters in translate(settings)] == [(b"clock", b"2")]


def test_a_statement_has_a_bounded_number_of_rows() -> None:
    """An entry of the journal may have any number."""
    counts = [
        count
        for _text, count in _numbers(
            *((sqlite.DELETE_GARBAGE, (item,)) for item in range(2 * ROWS_A_STATEMENT + 1))
        )
    ]
    assert counts == [ROWS_A_STATEMENT, ROWS_A_STATEMENT, 1]


def test_arrays_have_what_their_values_are() -> None:
    """Quotes, backslashes, nulls and the word null."""
    assert array_text([1, None, -3]) == "{1,null,-3}"
    assert array_text(["null", 'a"b', "a\\b", None, ""]) == r'{"null","a\"b","a\\b",null,""}'
    assert array_text([b"", b"\xff", None]) == r'{"\\x","\\xff",null}'
    assert array_text([]) == "{}"
