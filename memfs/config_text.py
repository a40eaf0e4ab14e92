"""The text of a configuration: as TOML that is read as the same, and its policy by name.

Invariant: no secret is in a text; `hidden_options` tells which options are left out for that.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from memfs.config import PolicyConfig
from memfs.config_file import STORES, KeyKind, keys, value_of
from memfs.errors import InvalidValueError
from memfs.sizes import format_duration, format_size
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from memfs.config import Config, SnapshotRule
    from memfs.config_file import Key

_HIDDEN = "# hidden: "
"""Begins the line of an option in `config_text` that may be a secret."""

OPTIONS_TOLD = ("anon", "endpoint_url", "region", "region_name", "use_ssl")
"""Options of the object store that hold no secret, and may be shown."""


def config_text(config: Config) -> str:
    """Return a configuration as TOML that `load_config` reads as the same, but for secrets.

    Options of the object store may be secrets: of all but `OPTIONS_TOLD` a comment has the name;
    see `hidden_options`.
    """
    lines: list[str] = []
    for section, fields in itertools.groupby(keys([*config.stores]), lambda key: key.section):
        tables: list[str] = []
        lines += [f"[{section}]"]
        values = (
            config.stores[section.removeprefix(STORES)]
            if section.startswith(STORES)
            else getattr(config, section)
        )
        for key in fields:
            value = getattr(values, key.field)
            if value is None:
                lines.append(f"# {key.name} is not set")
            elif key.kind is KeyKind.RULES:
                tables += [line for rule in value for line in _rule_lines(rule)]
            elif isinstance(value, dict):
                tables += [f"[{key.dotted}]", *map(_option_line, value.items())]
            else:
                lines.append(f"{key.name} = {_value_text(key, value)}")
        lines += [*tables, ""]
    return "\n".join(lines)


def hidden_options(text: str) -> list[str]:
    """Return what a text of `config_text` does not show, such as `glacier.options.key`."""
    found, table = [], ""
    for line in text.splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif line.startswith(_HIDDEN):
            found.append(f"{table}.{json.loads(line.removeprefix(_HIDDEN))}")
    return found


def policy_texts(policy: PolicyConfig = PolicyConfig()) -> dict[str, str]:  # noqa: B008 - frozen
    """Return the values of a policy by name, as `with_policy` takes them."""
    return {
        key.name: _value_text(key, getattr(policy, key.field)).strip('"')
        for key in keys()
        if key.section == "policy"
    }


def _option_line(option: tuple[str, object]) -> str:
    name, value = option
    if name in OPTIONS_TOLD and isinstance(value, str | int):
        told = _quoted(url_without_secrets(value)) if isinstance(value, str) else _plain(value)
        return f"{_quoted(name)} = {told}"
    return f"{_HIDDEN}{_quoted(name)}"


def _value_text(key: Key, value: object) -> str:
    """Return a value as TOML has it; quantities in units where that loses nothing."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_quoted, value))}]"
    if isinstance(value, str):
        return _quoted(url_without_secrets(value) if key.name == "url" else value)
    if isinstance(value, bool):
        return _plain(value)
    assert isinstance(value, int | float)
    text = format_size(int(value)) if key.kind is KeyKind.SIZE else format_duration(value)
    try:
        is_exact = key.kind in (KeyKind.SIZE, KeyKind.DURATION) and value_of(key, text) == value
    except InvalidValueError:
        is_exact = False
    return _quoted(text) if is_exact else _plain(value)


def _plain(value: float) -> str:
    return str(value).lower()


def _quoted(text: str) -> str:
    # A JSON text is a basic string of TOML, but for DEL.
    return json.dumps(text).replace("\x7f", "\\u007f")


def _rule_lines(rule: SnapshotRule) -> list[str]:
    labels = ", ".join(f"{_quoted(key)} = {_quoted(value)}" for key, value in rule.keep_label)
    return [
        "[[snapshots.rule]]",
        f"every = {_quoted(format_duration(rule.every_s))}",
        f"keep = {rule.keep}",
        f"keep_within = {_quoted(format_duration(rule.keep_within_s))}",
        f"keep_label = {{ {labels} }}",
    ]
