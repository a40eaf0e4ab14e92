"""The configuration as users write it: a TOML file and `-o section.key=value`.

Invariant: what leaves this module is a complete, checked `Config`; every refusal names the place,
the key and the remedy, and never shows a value of `[glacier.options]`, where secrets live.

A key is the field's name without its unit: `WarmConfig.size_bytes` is written `warm.size`. Stores
have sections by their names: `[stores.archive]`.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import os
import re
import stat
import types
import typing
from typing import NamedTuple

from memfs.addresses import DEFAULT_NAME
from memfs.config import (
    GIB,
    KIB,
    MIB,
    UPLOADS,
    Config,
    NamedStoreConfig,
    PolicyConfig,
    SnapshotRule,
)
from memfs.errors import InvalidValueError, UsageError
from memfs.sizes import parse_duration, parse_size
from memfs.types import DRIVERS, READER, ROLES
from memfs.urls import split_address

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


class KeyKind(enum.Enum):
    """How a key's value is written."""

    SIZE = "size"
    DURATION = "duration"
    NUMBER = "number"
    COUNT = "count"
    SWITCH = "true or false"
    TEXT = "text"
    TEXTS = "texts"
    TABLE = "table"
    RULES = "rules"


class Key(NamedTuple):
    """One key of the configuration."""

    section: str
    name: str
    """As users write it, without the unit."""
    field: str
    """Name of the dataclass field."""
    kind: KeyKind
    optional: bool
    """True if None is a value; it is written by leaving the key out."""
    default: object

    @property
    def dotted(self) -> str:
        """`section.name`."""
        return f"{self.section}.{self.name}"

    @property
    def general(self) -> str:
        """The same for all stores: `stores.NAME.name`; else as `dotted`."""
        if self.section.startswith(STORES):
            return f"{STORES}{STORE_WORD}.{self.name}"
        return self.dotted


class Range(NamedTuple):
    """Bounds of a numeric key, both inclusive."""

    low: float
    high: float


STORE_WORD = "NAME"
"""Stands for the name of a store, where its keys are described."""

STORES = "stores."
"""What sections of named stores begin with."""

_STORE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")

_DAY_S = 86400.0
_AGE_S = Range(0, 3650 * _DAY_S)
_SHARE = Range(0.01, 1.0)
_SIZE = Range(0, 1 << 60)
_PRICE = Range(0.0, 1e9)

RANGES: dict[str, Range] = {
    # From one page to what fs.fuse.max_pages_limit can at most be raised to (65535 pages).
    "mount.request_max": Range(4 * KIB, 256 * MIB - 4 * KIB),
    "mount.readahead": Range(0, 256 * MIB),
    "mount.linger": Range(0.1, 3650 * _DAY_S),
    "metadata.cache": Range(1 * MIB, 64 * GIB),
    "metadata.inode_cache_count": Range(100, 100_000_000),
    "nodes.commit_timeout": Range(0.1, 3600.0),
    "nodes.keep_changes": Range(1.0, 30 * _DAY_S),
    "nodes.keep_objects": Range(0.0, 30 * _DAY_S),
    "query.name_count_max": Range(1, 1_000_000),
    "snapshots.open_copy_max": _SIZE,
    "hot.size": _SIZE,
    "hot.reserve": _SIZE,
    "hot.high_watermark": _SHARE,
    "hot.low_watermark": _SHARE,
    "hot.admission_share": _SHARE,
    "hot.snapshot_share": _SHARE,
    "warm.size": _SIZE,
    "warm.high_watermark": _SHARE,
    "warm.low_watermark": _SHARE,
    "cold.size": _SIZE,
    "cold.reserve": _SIZE,
    "cold.wait_for_room": Range(0, 3600.0),
    "cold.high_watermark": _SHARE,
    "cold.low_watermark": _SHARE,
    # Frames are held in memory whole; below 4 KiB the seek table outgrows the gain.
    "cold.frame": Range(4 * KIB, 64 * MIB),
    "cold.hydrate_max": _SIZE,
    "glacier.timeout": Range(0.1, 3600.0),
    "glacier.transfer_count_max": Range(1, 256),
    "glacier.buffer": Range(8 * MIB, 1 << 40),
    # A batch lies on the local disk twice while it is made and verified.
    "glacier.batch_file_max": Range(0, 64 * MIB),
    "glacier.batch_size": Range(64 * KIB, 1 * GIB),
    "glacier.batch_idle": Range(0.0, 3600.0),
    "glacier.restore_days": Range(1, 365),
    "quotas.upload_rate": Range(1 * KIB, 1 << 50),
    "quotas.download_rate": Range(1 * KIB, 1 << 50),
    "quotas.requests_per_day": Range(0, 1 << 50),
    "quotas.upload_per_day": _SIZE,
    "quotas.egress_per_day": _SIZE,
    "quotas.disk_writes_per_day": _SIZE,
    "publish.quiet": Range(0.0, _DAY_S),
    "trace.size_max": Range(1 * MIB, 1 << 50),
    "prices.hot": _PRICE,
    "prices.warm": _PRICE,
    "prices.cold": _PRICE,
    "prices.stored": _PRICE,
    "prices.requests": _PRICE,
    "prices.received": _PRICE,
    "prices.sent": _PRICE,
    "snapshots.export": Range(0, 365 * _DAY_S),
    "snapshots.export_keep_count": Range(1, 100),
    "policy.hot_to_warm": _AGE_S,
    "policy.warm_to_cold": _AGE_S,
    "policy.pack_after": _AGE_S,
    "policy.cold_to_glacier": _AGE_S,
    "policy.promote_count": Range(1, 1_000_000),
    "policy.promote_window": Range(1.0, 3650 * _DAY_S),
    "policy.interval": Range(0.01, 3600.0),
    "policy.retry_min": Range(0.01, _DAY_S),
    "policy.retry_max": Range(0.01, _DAY_S),
}
"""Bounds by dotted key: bytes, seconds or plain numbers."""

RANGES |= {
    key.replace("glacier", f"{STORES}{STORE_WORD}"): bounds
    for key, bounds in RANGES.items()
    if key.startswith("glacier.")
} | {
    f"{STORES}{STORE_WORD}.{name}": RANGES[f"quotas.{name}"]
    for name in ("upload_rate", "download_rate")
}

_ORDERED = (
    ("hot.low_watermark", "hot.high_watermark"),
    ("warm.low_watermark", "warm.high_watermark"),
    ("cold.low_watermark", "cold.high_watermark"),
    ("policy.retry_min", "policy.retry_max"),
)
"""Pairs of keys of which the first must not be the larger."""

_FORMER_SECTIONS = {"budgets": "quotas"}
"""Former names of sections; they go on working."""


def load_config(file: Path | None, overrides: Mapping[str, str] | None = None) -> Config:
    """Return the configuration in force.

    Args:
        file: TOML file; None: defaults only.
        overrides: Texts by dotted key; they win over the file.

    Raises:
        UsageError: The file cannot be read or parsed; a key is unknown; a value is of the wrong
            kind or out of range.
    """
    read = _read_file(file)
    stores = _store_names([*read, *(overrides or {})])
    known = {key.dotted: key for key in keys(stores)}
    values: dict[str, object] = {}
    for dotted, value in read.items():
        values[dotted] = _convert(_find_key(known, dotted, str(file)), value, str(file))
    for dotted, text in (overrides or {}).items():
        former, dot, name = dotted.partition(".")
        current = f"{_FORMER_SECTIONS.get(former, former)}{dot}{name}"
        key = _find_key(known, current, f"-o {dotted}")
        values[current] = _convert(key, _from_text(key, text), f"-o {dotted}")
    _check_order(values, known)
    sections: dict[str, typing.Any] = {"stores": {}}
    for section in dict.fromkeys(key.section for key in known.values()):
        chosen = {
            key.field: values[key.dotted]
            for key in known.values()
            if key.section == section and key.dotted in values
        }
        made = _section_type(section)(**chosen)
        if section.startswith(STORES):
            sections["stores"][section.removeprefix(STORES)] = made
        else:
            sections[section] = made
    _check_stores(sections["stores"])
    config = Config(**sections)
    _check_role(config)
    return config


def _store_names(dotted: Iterable[str]) -> list[str]:
    """Return the names of stores in dotted keys, in the order in which they are told."""
    found = (key.removeprefix(STORES).partition(".") for key in dotted if key.startswith(STORES))
    return list(dict.fromkeys(name for name, dot, _ in found if dot))


def _check_role(config: Config) -> None:
    """See that a node that reads can learn names and fetch bytes."""
    if config.nodes.role != READER:
        return
    glacier = config.glacier
    missing = [
        key
        for key, value in (
            ("metadata.url", config.metadata.url),
            ("glacier.url", glacier.url if glacier.enabled else None),
        )
        if value is None
    ]
    if missing:
        raise UsageError(
            f"nodes.role = {READER} needs {' and '.join(missing)}: a node that reads has the names "
            "from the database of the node that writes, and the bytes from its object store"
        )


def _check_stores(stores: Mapping[str, NamedStoreConfig]) -> None:
    urls: dict[str, str] = {}
    for name, store in stores.items():
        if not _STORE_NAME.fullmatch(name) or name == DEFAULT_NAME:
            raise UsageError(
                f"[{STORES}{name}]: not a name for a store: write up to 31 of a-z, 0-9, - and _, "
                f"and another one than {DEFAULT_NAME}, which is that of [glacier]"
            )
        if store.url is None:
            raise UsageError(f'[{STORES}{name}] needs url, such as url = "s3://bucket/prefix"')
        other = urls.setdefault(store.url.rstrip("/"), name)
        if other != name:
            raise UsageError(
                f"[{STORES}{name}] and [{STORES}{other}] have the same url: give each its own "
                "prefix"
            )


def with_policy(policy: PolicyConfig, texts: Mapping[str, str]) -> PolicyConfig:
    """Return a policy with other values.

    Args:
        policy: Has the others.
        texts: By name without `policy.`, as on the command line of `memfs mount`.

    Raises:
        UsageError: There is no such key, or it cannot have that value.
    """
    known = {key.dotted: key for key in keys() if key.section == "policy"}
    chosen: dict[str, typing.Any] = {}
    for name, text in texts.items():
        key = _find_key(known, f"policy.{name}", "memfs policy set")
        chosen[key.field] = _convert(key, _from_text(key, text), "memfs policy set")
    return dataclasses.replace(policy, **chosen)


def keys(stores: Sequence[str] = (STORE_WORD,)) -> list[Key]:
    """Return every key, by section in the order of `Config`.

    Args:
        stores: Names of stores; each has the same keys.
    """
    found = []
    names: list[str] = []
    for field in dataclasses.fields(Config):
        is_many = field.name == "stores"
        names += [f"{STORES}{name}" for name in stores] if is_many else [field.name]
    for section in names:
        section_type = _section_type(section)
        hints = typing.get_type_hints(section_type)
        for field in dataclasses.fields(section_type):
            hint = hints[field.name]
            options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            plain = next(option for option in options if option is not type(None))
            default = (
                field.default_factory()
                if field.default_factory is not dataclasses.MISSING
                else field.default
            )
            name, kind = _name_and_kind(field.name, plain)
            found.append(Key(section, name, field.name, kind, len(options) > 1, default))
    return found


def _name_and_kind(field: str, plain: type) -> tuple[str, KeyKind]:
    words = field.split("_")
    for unit, kind in (("bytes", KeyKind.SIZE), ("s", KeyKind.DURATION)):
        if unit in words:
            words.remove(unit)
            return "_".join(words), kind
    kinds: dict[object, KeyKind] = {
        bool: KeyKind.SWITCH,
        int: KeyKind.COUNT,
        float: KeyKind.NUMBER,
        str: KeyKind.TEXT,
        tuple[str, ...]: KeyKind.TEXTS,
        tuple[SnapshotRule, ...]: KeyKind.RULES,
    }
    return field, kinds.get(plain, KeyKind.TABLE)


def _section_type(name: str) -> type:
    if name.startswith(STORES):
        return NamedStoreConfig
    section_type = typing.get_type_hints(Config)[name]
    assert isinstance(section_type, type)
    return section_type


def _read_file(file: Path | None) -> dict[str, object]:
    """Return the values of a TOML file by dotted key."""
    if file is None:
        return {}
    # Imported here: most mounts have no file.
    import tomllib

    try:
        with file.open("rb") as opened:
            _require_trusted(file, os.fstat(opened.fileno()))
            document = tomllib.loads(opened.read().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}") from None
    sections = [section.name for section in dataclasses.fields(Config)]
    values: dict[str, object] = {}
    for written, content in document.items():
        section = _FORMER_SECTIONS.get(written, written)
        if section != written and section in document:
            raise UsageError(
                f"{file}: [{written}] is the former name of [{section}]; write one of the two"
            )
        if section not in sections:
            raise UsageError(f"{file}: unknown section [{section}]{_nearest(section, sections)}")
        if not isinstance(content, dict):
            raise UsageError(
                f"{file}: {section} is a section; write [{section}] and its keys below"
            )
        if section == "stores":
            for store, inner in content.items():
                if not isinstance(inner, dict):
                    raise UsageError(
                        f"{file}: {store!r} in [stores]: write [{STORES}{store}], and its keys "
                        "below"
                    )
                if not inner:
                    raise UsageError(f"{file}: [{STORES}{store}] is empty: it needs url")
                values.update({f"{STORES}{store}.{name}": each for name, each in inner.items()})
            continue
        values.update({f"{section}.{name}": value for name, value in content.items()})
    return values


def _require_trusted(file: Path, status: os.stat_result) -> None:
    """See that root does not do what another user wrote: a configuration names stores and keys.

    Raises:
        UsageError: Another user owns it, or may write to it.
    """
    if os.geteuid() != 0 or stat.S_ISCHR(status.st_mode):
        return
    if status.st_uid != 0:
        raise UsageError(
            f"the configuration {file} belongs to user {status.st_uid}, who can change it; "
            "chown it to root, or run memfs as that user"
        )
    foreign_group = stat.S_IWGRP if status.st_gid != 0 else 0
    if status.st_mode & (stat.S_IWOTH | foreign_group):
        raise UsageError(
            f"others may write to the configuration {file} (mode "
            f"{stat.S_IMODE(status.st_mode):04o}); chmod go-w {file}"
        )


def _find_key(known: Mapping[str, Key], dotted: str, place: str) -> Key:
    if (key := known.get(dotted)) is not None:
        return key
    section, _, name = dotted.partition(".")
    if dotted.startswith(STORES):
        store, _, name = name.partition(".")
        section = f"{STORES}{store}"
    of_section = {key.name: key for key in known.values() if key.section == section}
    by_field = {key.field: key.name for key in of_section.values()}
    if name.startswith("options.") and "options" in of_section:
        # Every user of the machine can read a command line (proc_pid_cmdline(5)).
        raise UsageError(f"{place}: write [{section}.options] into a file and pass it with -c")
    if not of_section:
        raise UsageError(f"{place}: unknown key {dotted!r}{_nearest(dotted, list(known))}")
    hint = f"; did you mean {by_field[name]!r}?" if name in by_field else ""
    hint = hint or _nearest(name, list(of_section))
    raise UsageError(f"{place}: unknown key {name!r} in [{section}]{hint}")


def _nearest(word: str, candidates: list[str]) -> str:
    near = difflib.get_close_matches(word, candidates, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(candidates)}"


def _from_text(key: Key, text: str) -> object:
    """Return a value of `-o` as TOML would have it."""
    if key.kind in (KeyKind.TABLE, KeyKind.RULES):
        raise UsageError(f"-o {key.dotted}: write [{key.dotted}] into a file and pass it with -c")
    if key.kind is KeyKind.SWITCH:
        return {"true": True, "false": False}.get(text, text)
    if key.kind in (KeyKind.COUNT, KeyKind.NUMBER):
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text


def _convert(key: Key, value: object, place: str) -> object:
    try:
        converted = value_of(key, value)
    except InvalidValueError as error:
        raise UsageError(f"{place}: {key.dotted}: {error}") from None
    if (bounds := RANGES.get(key.general)) is not None:
        assert isinstance(converted, int | float)
        if not bounds.low <= converted <= bounds.high:
            raise UsageError(
                f"{place}: {key.dotted} = {value} is out of range: "
                f"{_bound(key, bounds.low)} to {_bound(key, bounds.high)}"
            )
    if key.dotted == "mount.driver" and converted not in DRIVERS:
        raise UsageError(f"{place}: no driver {value!r}; use {', '.join(DRIVERS)}")
    if key.dotted == "nodes.upload" and converted not in UPLOADS:
        raise UsageError(f"{place}: nodes.upload = {value!r}; write {' or '.join(UPLOADS)}")
    if key.dotted == "nodes.listen":
        try:
            split_address(str(converted))
        except InvalidValueError as error:
            raise UsageError(f"{place}: nodes.listen: {error}") from None
    if key.dotted == "nodes.role" and converted not in ROLES:
        raise UsageError(f"{place}: no role {value!r}; use {' or '.join(ROLES)}")
    return converted


def value_of(key: Key, value: object) -> object:
    """Return the value of the dataclass field; `InvalidValueError` if it is of the wrong kind."""
    match key.kind, value:
        case KeyKind.SIZE, str() | int():
            return parse_size(value)
        case KeyKind.DURATION, str() | int() | float():
            return parse_duration(value)
        case KeyKind.SWITCH, bool():
            return value
        case (KeyKind.COUNT, bool()) | (KeyKind.NUMBER, bool()):
            pass
        case KeyKind.COUNT, int():
            return value
        case KeyKind.NUMBER, int() | float():
            return float(value)
        case (KeyKind.TEXT, str()) | (KeyKind.TABLE, dict()):
            return value
        case KeyKind.TEXTS, str():
            return (value,)
        case KeyKind.RULES, list():
            return tuple(map(_rule, value))
        case KeyKind.TEXTS, list() if all(isinstance(each, str) for each in value):
            return tuple(value)
    is_secret = key.section in ("glacier", "encryption") or key.section.startswith(STORES)
    shown = "" if is_secret else f", not {value!r}"
    raise InvalidValueError(f"must be {_KIND_WORDS[key.kind]}{shown}")


RULE_EVERY_S_MIN = 60.0


def _rule(value: object) -> SnapshotRule:
    """Return a rule for snapshots; `InvalidValueError` if it means nothing."""
    if not isinstance(value, dict):
        raise InvalidValueError("a rule is a table: write [[snapshots.rule]] and its keys below")
    known = ("every", "keep", "keep_within", "keep_label")
    if unknown := [name for name in value if name not in known]:
        raise InvalidValueError(f"unknown key {unknown[0]!r}{_nearest(unknown[0], list(known))}")
    every_s = parse_duration(value.get("every", ""))
    keep, labels = value.get("keep", 0), value.get("keep_label", {})
    if every_s < RULE_EVERY_S_MIN:
        raise InvalidValueError(f"every = {value['every']!r} is less than a minute")
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 0:
        raise InvalidValueError(f"keep = {keep!r}: write how many are kept")
    if not isinstance(labels, dict) or not all(isinstance(each, str) for each in labels.values()):
        raise InvalidValueError('keep_label is a table of texts, such as { release = "*" }')
    within_s = parse_duration(value.get("keep_within", 0))
    if not keep and not within_s:
        raise InvalidValueError("a rule that keeps nothing: write keep = 24, or keep_within")
    return SnapshotRule(every_s, keep, within_s, tuple(sorted(labels.items())))


_KIND_WORDS = {
    KeyKind.SIZE: "a size such as 512MiB",
    KeyKind.DURATION: "a duration such as 90s or 72h",
    KeyKind.NUMBER: "a number",
    KeyKind.COUNT: "a whole number",
    KeyKind.SWITCH: "true or false",
    KeyKind.TEXT: "a text in quotes",
    KeyKind.TEXTS: "a text in quotes, or a list of them",
    KeyKind.TABLE: "a table of its own",
    KeyKind.RULES: "tables of their own, each with [[ and ]]",
}


def _bound(key: Key, value: float) -> str:
    if key.kind is KeyKind.SIZE:
        for unit, factor in (("EiB", 1 << 60), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
            if value and value % factor == 0:
                return f"{int(value) // factor}{unit}"
    unit = "s" if key.kind is KeyKind.DURATION else ""
    return f"{value:g}{unit}"


def _check_order(values: Mapping[str, object], known: Mapping[str, Key]) -> None:
    for low, high in _ORDERED:
        low_value = values.get(low, known[low].default)
        high_value = values.get(high, known[high].default)
        assert isinstance(low_value, float)
        assert isinstance(high_value, float)
        if low_value > high_value:
            raise UsageError(
                f"{low} = {low_value:g} is above {high} = {high_value:g}; "
                f"lower {low} or raise {high}"
            )
