"""Checks: what must hold between the rows of the database, as queries for what breaks it.

Invariant: a query returns no row on a sound database; nothing here changes anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from memfs.metadata.records import Usage
from memfs.metadata.sqlite.element_index import SELECT_ELEMENT_NOTE, decode_position, entries_of
from memfs.metadata.sqlite.field_schema import BUILDING, COLUMNS, LEAVING, NUMBERS, TRIGGERS
from memfs.metadata.sqlite.lease import FIRST_READER_ID
from memfs.metadata.sqlite.schema import (
    BESIDE,
    MISPLACED_EVENT,
    MISPLACED_METRIC,
    Made,
    totals_of,
)
from memfs.metadata.sqlite.statements import Parameters, Row
from memfs.metadata.sqlite.text_index import SLOT_COUNT, fold_text, grams_of, table_of
from memfs.query.values import stored_value

Rows = Callable[[str, Parameters], list[Row]]

SENTENCE_COUNT_MAX = 100
"""Limit of one kind; a broken database has millions."""

_DIRECTORY = "mode & 61440 = 16384"
_REGULAR = "mode & 61440 = 32768"
_SYMLINK = "mode & 61440 = 40960"

_FIELDS_TRIGGERS = (
    (field, ", ".join(f"'{Made.by(text).name}'" for text in texts))
    for field, texts in TRIGGERS.items()
)

_BATCHED = """
    select key as batch_key, count(*) as forms, sum(stored_bytes) as bytes
    from form where offset is not null group by key
"""

SUM_OF_SIZES = """
    ((coalesce(sum(size >> 32), 0) + (coalesce(sum(size & 4294967295), 0) >> 32)) << 32)
        | (coalesce(sum(size & 4294967295), 0) & 4294967295)
"""
"""By halves, since sum() fails beyond 63 bits; with a sign, as `schema.stored_totals`."""

RECOUNT = f"""
    select
        (select count(*) from inode),
        (select {SUM_OF_SIZES} from inode where {_REGULAR} and flags & 1 = 0),
        (select count(*) from inode where raw <> 0)
            + (select count(*) from kept where raw <> 0),
        ((select coalesce(sum(blocks), 0) from inode where raw <> 0)
            + (select coalesce(sum(blocks), 0) from kept where raw <> 0)) << 9,
        (select count(*) from form where kind = 'packed'),
        (select coalesce(sum(stored_bytes), 0) from form where kind = 'packed'),
        (select count(*) from form where kind = 'remote'),
        (select coalesce(sum(stored_bytes), 0) from form where kind = 'remote'),
        (select count(*) from garbage)
"""

_BYTES_CHECKS = (
    (
        "inode {} is unsealed without a raw file",
        "select ino from inode where flags & 1 and raw = 0",
    ),
    (
        "inode {} has {} bytes but neither a raw file nor a form nor a foreign object",
        f"""select ino, size from inode where {_REGULAR} and flags & 1 = 0 and size > 0
            and nlink > 0 and raw = 0 and blob not in (select blob from form) and not exists (
                select 1 from foreign_object as o
                where o.ino = inode.ino and o.generation = inode.generation)""",
    ),
    ("blob {} has no form", "select blob from blob where blob not in (select blob from form)"),
    (
        "generation {1} of inode {0} is kept without bytes",
        "select ino, generation from kept where raw = 0 and blob = 0 and open = 0",
    ),
)
"""What has its bytes nowhere. On a node that reads they may be on the one that writes."""

_CHECKS = (
    (
        "directory {} holds {!r}, which names inode {}, which does not exist",
        "select parent, name, ino from dentry where ino not in (select ino from inode)",
    ),
    (
        "{!r} (inode {}) is in inode {}, which is no directory",
        f"""select name, ino, parent from dentry
            where parent not in (select ino from inode where {_DIRECTORY})""",
    ),
    (
        "inode {} has link count {}, but {} names",
        f"""select ino, nlink, (select count(*) from dentry where dentry.ino = inode.ino) as names
            from inode where not {_DIRECTORY} and nlink <> names""",
    ),
    (
        "directory {} has link count {}, but {} subdirectories",
        f"""select ino, nlink, (
                select count(*) from dentry join inode as child on child.ino = dentry.ino
                where dentry.parent = inode.ino and child.{_DIRECTORY}
            ) as children
            from inode where {_DIRECTORY} and nlink <> 0 and nlink <> 2 + children""",
    ),
    (
        "removed directory {} still holds {} names",
        f"""select parent, count(*) from dentry
            where parent in (select ino from inode where {_DIRECTORY} and nlink = 0)
            group by parent""",
    ),
    (
        "directory {} has {} names",
        f"""select ino, (select count(*) from dentry where dentry.ino = inode.ino) as names
            from inode where {_DIRECTORY} and names <> (ino <> 1 and nlink > 0)""",
    ),
    (
        "directory {} cannot be reached from the root",
        f"""with recursive reached(ino) as (
                values (1)
                union select inode.ino from reached
                join dentry on dentry.parent = reached.ino
                join inode on inode.ino = dentry.ino and {_DIRECTORY}
            )
            select ino from inode where {_DIRECTORY} and nlink > 0 and ino not in reached""",
    ),
    ("the root directory {} is missing", "select 1 where 1 not in (select ino from inode)"),
    (
        "inode {} has the impossible flags {}",
        "select ino, flags from inode where flags not in (0, 1, 2)",
    ),
    (
        "inode {} is unsealed but has blob {}",
        "select ino, blob from inode where flags & 1 and blob <> 0",
    ),
    (
        "inode {} is no regular file but has raw file {} and blob {}",
        f"select ino, raw, blob from inode where not {_REGULAR} and (raw <> 0 or blob <> 0)",
    ),
    (
        "inode {}, of {} bytes, has the foreign object {!r}, of {} bytes",
        """select inode.ino, inode.size, o.key, o.size from inode join foreign_object as o
            on o.ino = inode.ino and o.generation = inode.generation where o.size <> inode.size""",
    ),
    (
        "the foreign object {!r} belongs to inode {}, which does not exist",
        """select key, ino from foreign_object where ino not in (select ino from inode)
            and ino not in (select ino from inode_was)""",
    ),
    (
        "the foreign object {!r} of inode {} is current, but the inode has no name",
        """select o.key, o.ino from foreign_object as o where o.current = 1
            and o.ino not in (select ino from inode where nlink > 0)""",
    ),
    (
        "the foreign object {!r} of inode {} is of source {}, which does not exist",
        """select key, ino, source from foreign_object
            where source not in (select source from source)""",
    ),
    (
        "the foreign object {!r} of inode {} has the impossible state {}, {}, {!r}",
        """select key, ino, ours, current, conflict from foreign_object
            where ours not in (0, 1) or current not in (0, 1)
            or conflict not in ('', 'changed', 'gone', 'taken')""",
    ),
    (
        "inode {} stands for the prefix {!r} and is no directory with a name",
        """select ino, prefix from foreign_directory where ino not in (
            select ino from inode where nlink > 0 and mode & 61440 = 16384)""",
    ),
    (
        "inode {} stands for the prefix {!r} of source {}, which does not exist",
        """select ino, prefix, source from foreign_directory
            where source not in (select source from source)""",
    ),
    (
        "the key {!r} is gone from source {}, which does not exist",
        "select key, source from foreign_gone where source not in (select source from source)",
    ),
    (
        "raw file {} belongs to {} inodes",
        """select raw, count(*) from (
               select raw from inode union all select raw from kept)
           where raw <> 0 group by raw having count(*) > 1""",
    ),
    (
        "raw file {} of inode {} is marked as garbage",
        """select raw, ino from inode
           where raw <> 0 and cast(raw as text) in (
               select location from garbage where kind = 'raw')""",
    ),
    (
        "inode {} has blob {}, which does not exist",
        "select ino, blob from inode where blob <> 0 and blob not in (select blob from blob)",
    ),
    (
        "blob {} belongs to no inode",
        """select blob from blob where blob not in (
               select blob from inode where blob <> 0
               union all select blob from kept where blob <> 0)""",
    ),
    (
        "the {} form {} has blob {}, which does not exist",
        "select kind, key, blob from form where blob not in (select blob from blob)",
    ),
    (
        "the {} form {} is marked as garbage",
        """select form.kind, form.key from form
           join garbage on garbage.kind = form.kind and garbage.location = form.key
           where form.store = ''""",
    ),
    (
        "the {} form {} of blob {} cannot be owned so: {}",
        """select kind, key, blob, owned from form where owned not in (0, 1)
           or (owned = 1 and (store <> '' or etag <> '' or version <> ''))
           or (owned = 0 and (kind <> 'remote' or offset is not null))""",
    ),
    (
        "the {} form {} has the unknown layout {!r}",
        "select kind, key, layout from form where layout not in ('container', 'plain')",
    ),
    (
        "the batch {} is kept with {} forms of {} bytes, but has {} of {}",
        f"""select key, live_count, live_bytes, coalesce(forms, 0), coalesce(bytes, 0)
            from batch left join ({_BATCHED}) on batch_key = key
            where live_count is not forms or live_bytes is not bytes""",
    ),
    (
        "{} remote forms lie in the batch {}, which does not exist",
        f"select forms, batch_key from ({_BATCHED}) where batch_key not in (select key from batch)",
    ),
    (
        "the batch {} is marked as garbage",
        "select key from batch where key in (select location from garbage where kind = 'remote')",
    ),
    (
        "inode {} is marked packed {}, which its forms contradict",
        """select ino, packed from inode where packed <> exists (
               select 1 from form where form.blob = inode.blob and kind = 'packed')""",
    ),
    (
        "symlink {} has no target",
        f"select ino from inode where {_SYMLINK} and ino not in (select ino from symlink)",
    ),
    (
        "symlink target of inode {}, which is no symlink",
        f"select ino from symlink where ino not in (select ino from inode where {_SYMLINK})",
    ),
    (
        "xattr {!r} belongs to inode {}, which does not exist",
        "select name, ino from xattr where ino not in (select ino from inode)",
    ),
    (
        "xattr {!r} of inode {} has key {}, which is that of another name, or of none",
        """select name, ino, key from xattr where key <> 0 and not exists (
               select 1 from attribute_name as known
               where known.key = xattr.key and known.name = xattr.name)""",
    ),
    (
        "a pending move belongs to inode {}, which does not exist",
        "select ino from pending where ino not in (select ino from inode)",
    ),
    (
        "inode {} waits since a time that is known, and for nothing",
        "select ino from pending_since where ino not in (select ino from pending)",
    ),
    (
        "inode {} waits for something that is known, and for nothing",
        "select ino from pending_code where ino not in (select ino from pending)",
    ),
    (
        "the metrics of {} s from {} on are in no slot of that time",
        f"select resolution, at_s from metric where {MISPLACED_METRIC}",
    ),
    (
        "event {} is in no slot of that number",
        f"select number from event where {MISPLACED_EVENT}",
    ),
    (
        "a decision belongs to inode {}, which does not exist",
        "select ino from decision where ino not in (select ino from inode)",
    ),
    (
        "changes are kept for snapshot {}, but the newest one is {}",
        """select newest, actual from
            (select coalesce(max(snap), 0) as newest from head),
            (select coalesce(max(snap), 0) as actual from snapshot where state = 'live')
            where newest <> actual""",
    ),
    *(
        (
            f"{what} is kept for snapshot {{}}, which does not exist",
            f"select {columns}, snap from {table} where snap not in (select snap from snapshot)",
        )
        for what, columns, table in (
            ("inode {}", "ino", "inode_was"),
            ("the name {!r} of inode {}", "name, ino", "dentry_was"),
            ("xattr {!r} of inode {}", "name, ino", "xattr_was"),
        )
    ),
    *(
        (
            f"{what}, as snapshot {{}} shows it, has no inode beside it",
            f"select {columns}, snap from {table} as d where not {BESIDE}",
        )
        for what, columns, table in (
            ("the name {!r} of inode {}", "name, ino", "dentry_was"),
            ("xattr {!r} of inode {}", "name, ino", "xattr_was"),
        )
    ),
    *(
        (
            f"the index of {field} has {{}} of {{}} triggers that keep it up to date",
            f"""select there, wanted from
                (select count(*) as there from sqlite_schema
                    where type = 'trigger' and name in ({names})),
                (select {len(TRIGGERS[field])} * count(*) as wanted from field_index
                    where field = '{field}' and state <> 'leaving')
                where there <> wanted""",
        )
        for field, names in _FIELDS_TRIGGERS
    ),
    *(
        (
            f"the index of {field} lacks inode {{}} with the value {{}}",
            f"""select ino, {COLUMNS[field]} from inode as i
                where ino <= (select case state when 'whole' then 9223372036854775807
                        else through end from field_index
                        where field = '{field}' and state <> 'leaving')
                    and not exists (select 1 from field_value
                        where field = {number} and value = i.{COLUMNS[field]} and ino = i.ino)""",
        )
        for field, number in NUMBERS.items()
    ),
    *(
        (
            f"the index of {field} has inode {{}} with the value {{}}, which it has not",
            f"""select ino, value from field_value as v where field = {number}
                and not exists (select 1 from inode as i
                    where i.ino = v.ino and i.{COLUMNS[field]} = v.value)
                and '{field}' not in (select field from field_index where state = 'leaving')""",
        )
        for field, number in NUMBERS.items()
    ),
    (
        "the index of $name lacks the name {!r} of inode {}",
        """select name, ino from dentry as d
            where ino <= (select case state when 'whole' then 9223372036854775807
                    else through end from field_index
                    where field = '$name' and state <> 'leaving')
                and not exists (select 1 from name_entry as e
                    where e.cookie = d.cookie and e.ino = d.ino)""",
    ),
    (
        "the index of $name has a name of inode {} that is not there any more",
        """select ino from name_entry where cookie not in (select cookie from dentry)
            and '$name' not in (select field from field_index where state = 'leaving')""",
    ),
    (
        "no snapshot shows generation {1} of inode {0}, which is kept",
        """select ino, generation from kept as k where not exists (
               select 1 from inode_was as w where w.ino = k.ino and w.generation = k.generation)
           and not exists (
               select 1 from inode as i where i.ino = k.ino and i.generation = k.generation)""",
    ),
    (
        "raw file {} of a snapshot is marked as garbage",
        """select raw from kept where raw <> 0 and cast(raw as text) in (
               select location from garbage where kind = 'raw')""",
    ),
    (
        "generation {1} of inode {0} is kept by blob {2}, which does not exist",
        """select ino, generation, blob from kept
           where blob <> 0 and blob not in (select blob from blob)""",
    ),
    (
        "symlink {} of a snapshot has no target",
        # What only snapshots that are leaving had may be gone before their rows are.
        f"""select distinct ino from inode_was as w where {_SYMLINK} and exists (
                select 1 from snapshot as s
                where s.state = 'live' and s.snap > w.ino and s.snap <= w.snap)
            and ino not in (select ino from symlink union all select ino from symlink_was)""",
    ),
    (
        "the target of symlink {} belongs to no snapshot",
        "select ino from symlink_was where ino not in (select ino from inode_was)",
    ),
)

_BEYOND_LEASE = """
    select 'inode', ino from inode where ino >= :next
    union all select 'raw file', raw from inode where raw >= :next and raw < :reader
    union all select 'blob', blob from blob where blob >= :next
    union all select 'dentry cookie', cookie from dentry where cookie >= :next
    union all select 'snapshot', snap from snapshot where snap >= :next
    union all select 'former inode', ino from inode_was where ino >= :next
    union all select 'former dentry cookie', cookie from dentry_was where cookie >= :next
    union all select 'kept raw file', raw from kept where raw >= :next and raw < :reader
    union all select 'garbage', item from garbage where item >= :next
    union all select 'intent', intent from intent where intent >= :next
    limit 100
""".replace(":next", "?1").replace(":reader", str(FIRST_READER_ID))


_LIST_INDEXED = """
    select ino, name, value, typed from xattr
    where (ino, name) > (?, ?) and key <> 0 order by ino, name limit ?
"""
_PAGE_COUNT = 10_000

_LIST_ARRAYS = """
    select typed, ino from xattr where key <> 0 and key = ?
    and (typed, ino) > (?, ?) and typed < '\\' order by typed, ino limit ?
"""
_HAS_ENTRY = "select 1 from element where key = ? and value = ? and ino = ?"
_ENTRIES = """
    select e.key, e.value, e.ino, (
        select x.typed from attribute_name as a join xattr as x
        on x.ino = e.ino and x.name = a.name and x.key <> 0 where a.key = e.key)
    from element as e {0} order by e.key, e.value, e.ino limit ?
"""
_FIRST_ENTRIES = _ENTRIES.format("")
_LATER_ENTRIES = _ENTRIES.format("where (e.key, e.value, e.ino) > (?, ?, ?)")


def _find_wrong_values(rows: Rows) -> list[str]:
    """Return a sentence for each xattr whose value in the index is not that of its text."""
    damage: list[str] = []
    after: tuple[int, bytes] = (0, b"")
    while len(damage) < SENTENCE_COUNT_MAX:
        page = rows(_LIST_INDEXED, (*after, _PAGE_COUNT))
        damage += [
            f"xattr {name!r} of inode {ino} is indexed as {typed!r}, which its value contradicts"
            for ino, name, value, typed in page
            if typed != stored_value(value)
        ]
        if len(page) < _PAGE_COUNT:
            break
        after = page[-1][:2]
    return damage[:SENTENCE_COUNT_MAX]


def _find_wrong_elements(rows: Rows) -> list[str]:
    """Return a sentence for each entry of an array that is missing, or that no array has."""
    note = rows(SELECT_ELEMENT_NOTE, ())
    position = decode_position(note[0][0] if note else None)
    damage: list[str] = []
    for key, name in rows("select key, name from attribute_name order by key", ()):
        after: tuple[Any, ...] = ("[", 0)
        while len(damage) < SENTENCE_COUNT_MAX:
            page = rows(_LIST_ARRAYS, (key, *after, _PAGE_COUNT))
            for typed, ino in page:
                if position is not None and (key, typed, ino) > position:
                    continue
                damage += [
                    f"the index lacks {entry!r} of the array in xattr {name!r} of inode {ino}"
                    for entry in entries_of(typed)
                    if not rows(_HAS_ENTRY, (key, entry, ino))
                ]
            if len(page) < _PAGE_COUNT:
                break
            after = page[-1]
    text, after = _FIRST_ENTRIES, ()
    while len(damage) < SENTENCE_COUNT_MAX:
        page = rows(text, (*after, _PAGE_COUNT))
        damage += [
            f"the index has {entry!r} for an array of inode {ino} with the key {key}, which has no "
            "such element"
            for key, entry, ino, typed in page
            if entry not in entries_of(typed)
        ]
        if len(page) < _PAGE_COUNT:
            break
        text, after = _LATER_ENTRIES, page[-1][:3]
    return damage[:SENTENCE_COUNT_MAX]


_TEXT_INDEXES = """
    select name, slot, through, state, (select key from attribute_name as a where a.name = t.name)
    from text_index as t order by slot
"""
_HAS_TABLE = "select 1 from sqlite_schema where name = ?"
_LIST_TEXTS = """
    select typed, ino from xattr where key <> 0 and key = ?
    and (typed, ino) > (?, ?) and typed < x'' order by typed, ino limit ?
"""
_PRIME = (1 << 31) - 1
_SUM_END = 1 << 64


def _find_wrong_texts(rows: Rows) -> list[str]:
    """Return a sentence for each index of texts that has not just the entries that it should have.

    FTS5 keeps no text to compare with. So what it has is compared by a sum over all letters and
    inodes, with that of the values; texts of one or two letters have no entry.
    """
    damage: list[str] = []
    slots: set[int] = set()
    for name, slot, through, state, key in rows(_TEXT_INDEXES, ()):
        if slot in slots:
            damage.append(f"two indexes of texts have the number {slot}, that of {name!r} is one")
        elif not 0 <= slot < SLOT_COUNT:
            damage.append(f"the index of texts of {name!r} has the number {slot}")
        slots.add(slot)
        if state == LEAVING:
            continue
        if not rows(_HAS_TABLE, (table_of(slot),)):
            damage.append(f"the index of texts of {name!r} has no table")
            continue
        limit = through if state == BUILDING else None
        if _sum_of_entries(rows, table_of(slot)) != _sum_of_texts(rows, key, limit):
            damage.append(
                f"the index of texts of {name!r} has other entries than the values have texts"
            )
    return damage


def _sum_of_entries(rows: Rows, table: str) -> int:
    for kind in ("row", "instance"):
        rows(
            f"create virtual table temp.text_{kind} using fts5vocab('main', '{table}', '{kind}')",
            (),
        )
    total = 0
    for (term,) in rows("select term from temp.text_row", ()):
        weights = f"select sum(doc % {_PRIME} + 1) from temp.text_instance where term = ?"
        ((weight,),) = rows(weights, (term,))
        total += hash(term) * weight
    for kind in ("row", "instance"):
        rows(f"drop table temp.text_{kind}", ())
    return total % _SUM_END


def _sum_of_texts(rows: Rows, key: int | None, limit: int | None) -> int:
    total, after = 0, ("", 0)
    while page := rows(_LIST_TEXTS, (key, *after, _PAGE_COUNT)):
        for typed, ino in page:
            if limit is None or ino <= limit:
                total += sum(map(hash, grams_of(fold_text(typed)))) * (ino % _PRIME + 1)
        after = page[-1]
    return total % _SUM_END


def _find_wrong_pages(rows: Rows) -> list[str]:
    """Return what SQLite itself finds wrong with its file."""
    leaving = rows("select slot from text_index where state = ?", (LEAVING,))
    # Later versions of SQLite look into them as well (3.51 does).
    half = [re.compile(rf"\b{table_of(slot)}\b") for (slot,) in leaving]
    return [
        f"the database file is damaged: {told}"
        for (told,) in rows(f"pragma integrity_check({SENTENCE_COUNT_MAX})", ())
        if told != "ok" and not any(name.search(told) for name in half)
    ]


def find_damage(
    rows: Rows, totals: Usage, next_id: int, *, has_all_bytes: bool = True
) -> list[str]:
    """Return a sentence for each thing that is wrong.

    Args:
        rows: Runs a query on the database.
        totals: The totals as counted along.
        next_id: No number in use may reach it.
        has_all_bytes: No other node may have what is neither here nor in a store.
    """
    damage = _find_wrong_pages(rows)
    for sentence, query in (*_CHECKS, *_BYTES_CHECKS * has_all_bytes):
        found = rows(f"{query} limit {SENTENCE_COUNT_MAX}", ())
        damage += [sentence.format(*row) for row in found]
    damage += _find_wrong_values(rows)
    damage += _find_wrong_elements(rows)
    damage += _find_wrong_texts(rows)
    counted = Usage._make(totals_of(rows(RECOUNT, ())[0]))
    damage += [
        f"{name} is kept as {kept}, but counts {count}"
        for name, kept, count in zip(Usage._fields, totals, counted, strict=True)
        if kept != count
    ]
    damage += [
        f"{what} {number} is beyond the numbers handed out"
        for what, number in rows(_BEYOND_LEASE, (next_id,))
    ]
    return damage
