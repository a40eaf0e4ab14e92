"""Places beside the default store that an export names: named stores, and sources of files.

Invariant: no secret and no key is among what is written here; what is read is of the types that it
must have, or `ValueError`, `TypeError` or `KeyError` is raised.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from memfs.content.sources import FILE_SYSTEM_OPTION, STORE_OPTION
from memfs.metadata.foreign import Source, WhenGone
from memfs.types import InodeNo, SourceId
from memfs.urls import CLOUDS, options_without_secrets, url_without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memfs.config import NamedStoreConfig

_HARMLESS_OPTIONS = frozenset({"anon", "region", "requester_pays", "use_ssl"})
"""Options of a source that lead nowhere else."""

_STORE_NAME = re.compile(r"[a-z0-9_-]{1,31}")
_NUMBER_END = 1 << 63


class StoreAddress(NamedTuple):
    """Where a named store is."""

    name: str
    url: str
    """Without secrets."""
    options: Mapping[str, object] = {}
    """Options of the file system that are no secrets."""
    settings: Mapping[str, str] = {}
    """Further settings of the section that say how objects are stored: `codec`, for instance."""
    key_id: str = ""
    """That of the key which encrypts what goes there; empty: nothing does."""

    @classmethod
    def of(cls, name: str, config: NamedStoreConfig, key_id: str) -> StoreAddress:
        """Return what may be told of a configured store."""
        settings = {
            "codec": config.codec,
            **({"storage_class": config.storage_class} if config.storage_class else {}),
        }
        options = options_without_secrets(config.options)
        return cls(name, url_without_secrets(config.url or ""), options, settings, key_id)

    def encode(self) -> dict[str, Any]:
        """Return it as the description has it."""
        return {
            **self._asdict(),
            "options": dict(self.options),
            "settings": dict(self.settings),
        }

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> StoreAddress:
        """Return what `encode` gave."""
        name, url, key_id = (text_of(fields, key) for key in ("name", "url", "key_id"))
        if not _STORE_NAME.fullmatch(name):
            raise ValueError(f"the store {name!r}")
        options = options_without_secrets(dict(fields["options"]))
        settings = {key: text_of(fields["settings"], key) for key in fields["settings"]}
        told = {key: settings[key] for key in ("codec", "storage_class") if key in settings}
        return cls(name, url, options, told, key_id)

    def section(self, key_ids: Sequence[str] = ()) -> str:
        """Return the section of a configuration that names it, in TOML.

        Args:
            key_ids: Those of the keys that encrypt what is there.
        """
        lines = [f"[stores.{self.name}]", f"url = {_toml(self.url)}"]
        lines += [f"{key} = {_toml(value)}" for key, value in self.settings.items()]
        if wanted := sorted({*key_ids, self.key_id} - {""}):
            lines.append(f"# keys = [...]    what is there needs the key {', '.join(wanted)}")
        if self.options:
            lines += ["", f"[stores.{self.name}.options]"]
            lines += [f"{key} = {_toml(value)}" for key, value in self.options.items()]
        return "\n".join(lines)


def encode_source(source: Source) -> dict[str, Any]:
    """Return a source as the description has it."""
    fields = source._asdict()
    fields["deleted"] = source.deleted.value
    # What the last listing has said is of no use to a later one.
    del fields["problem"]
    return fields


def decode_source(fields: Mapping[str, Any]) -> Source:
    """Return what `encode_source` gave."""
    options = text_of(fields, "options")
    if not isinstance(json.loads(options), dict):
        raise ValueError(f"options are {options!r}")
    return Source(
        SourceId(number_of(fields, "source")),
        url_without_secrets(text_of(fields, "url")),
        InodeNo(number_of(fields, "root")),
        number_of(fields, "watch_s"),
        WhenGone(text_of(fields, "deleted")),
        number_of(fields, "listed_ns"),
        "",
        options,
    )


def without_times(source: Source) -> Source:
    """Return a source as its user has made it: without what each listing changes."""
    return source._replace(listed_ns=0, problem="")


def needs_trust(source: Source) -> bool:
    """Return whether a source may lead to what is on this machine or in its network.

    Anybody who may write to a bucket can name one in an export in clear.
    """
    options: dict[str, Any] = json.loads(source.options).get(FILE_SYSTEM_OPTION, {})
    return urlsplit(source.url).scheme not in CLOUDS or not _HARMLESS_OPTIONS.issuperset(options)


def store_of_source(source: Source) -> str:
    """Return the name of the store whose credentials a source is read with; empty: no named one."""
    return str(json.loads(source.options).get(STORE_OPTION, ""))


def number_of(fields: Mapping[str, Any], name: str) -> int:
    """Return a whole number from 0 on, below 2**63."""
    value = fields[name]
    if type(value) is not int or not 0 <= value < _NUMBER_END:
        raise ValueError(f"{name} is {value!r}")
    return value


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """Return a text."""
    value = fields[name]
    if type(value) is not str:
        raise ValueError(f"{name} is {value!r}")
    return value


def _toml(value: object) -> str:
    # Strings, whole numbers and truth are written alike in JSON and TOML, but for DEL.
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")
