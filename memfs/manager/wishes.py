"""Wishes: what a manager wants of its mount, compared with what the mount has.

Invariant: comparing changes nothing, and a wish that cannot be compared is not met.
"""

from __future__ import annotations

import errno
import json
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.config_file import keys, load_config
from memfs.config_text import hidden_options
from memfs.control.client import ControlUnavailableError
from memfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.client.mount import Mount
    from memfs.config import Config

GB = 1 << 30
"""Sizes of the API are in GB of 2^30 bytes, as those of `HotMemory`."""

_TOLERATED = 1.001
"""A mount's size is in whole pages; a wish may be so much larger."""

_STORE_OPTION = "glacier.options."


class Wishes(NamedTuple):
    """What a manager wishes of its mount; None: nothing."""

    hot_gb: float | None = None
    warm_gb: float | None = None
    cold_gb: float | None = None
    glacier: bool = True
    options: Mapping[str, object] = {}
    """Keys of a mount's configuration, from the dictionaries of the tiers."""


def unmet(mount: Mount, wishes: Wishes) -> str | None:
    """Return which wish a mount does not meet, with the key of its configuration; None: it does."""
    return (
        _unmet_options(mount, wishes.options)
        or _unmet_sizes(mount, wishes)
        or _store(mount, wishes)
    )


def _unmet_sizes(mount: Mount, wishes: Wishes) -> str | None:
    wished = {"hot": wishes.hot_gb, "warm": wishes.warm_gb, "cold": wishes.cold_gb}
    sizes = {name: size for name, size in wished.items() if size is not None}
    if not sizes:
        # Nothing is asked: another user than that of the mount may not ask its daemon.
        return None
    try:
        tiers = {tier.tier: tier for tier in mount.status().tiers}
    except ControlUnavailableError as error:
        if error.errno != errno.EACCES:
            raise
        asked = ", ".join(f"{name}_memory_size" for name in sizes)
        return f"{asked}: {error}; leave it out"
    for name, gigabytes in sizes.items():
        if name == "hot" and "hot" not in tiers:
            # Without a device values are in RAM and on the disk all the same.
            continue
        capacity = tiers[name].capacity_bytes if name in tiers else 0
        if capacity is not None and gigabytes * GB > capacity * _TOLERATED:
            return (
                f"{name}_memory_size={gigabytes:g}: the mount at {mount.mountpoint} has "
                f"{capacity / GB:.3g} GiB; raise {name}.size in its configuration"
            )
    return None


def _store(mount: Mount, wishes: Wishes) -> str | None:
    if wishes.glacier or mount.status().store_url is None:
        return None
    return (
        f"glacier_enabled=False: the mount at {mount.mountpoint} has an object store; unset "
        "glacier.enabled in its configuration"
    )


def _unmet_options(mount: Mount, options: Mapping[str, object]) -> str | None:
    if not options:
        return None
    place = mount.mountpoint / ".memfs" / "config.toml"
    try:
        text = place.read_text()
        present = load_config(place)
    except (OSError, UsageError) as error:
        return (
            f"{', '.join(options)}: what the mount at {mount.mountpoint} has cannot be read "
            f"({error}); leave it out, or ask the owner of the mount"
        )
    wanted = _config_of(options)
    for key in keys():
        if key.dotted not in options:
            continue
        there = getattr(getattr(present, key.section), key.field)
        wish = getattr(getattr(wanted, key.section), key.field)
        # A codec without a level is met by any level.
        is_codec = key.name == "codec" and ":" not in wish
        if wish != (there.partition(":")[0] if is_codec else there):
            return (
                f"{key.dotted} = {options[key.dotted]!r}: the mount at {mount.mountpoint} has "
                f"{there!r}; set {key.dotted} in its configuration"
            )
    for option, value in options.items():
        name = option.removeprefix(_STORE_OPTION)
        if name != option and not _has_store_option(present, text, name, value):
            return (
                f"{option}: the mount at {mount.mountpoint} has no such value; set it in "
                "its configuration"
            )
    return None


def options_of(mount: Mount, given: Mapping[str, object]) -> dict[str, object] | None:
    """Return the configuration of a mount as options; None: it has secrets that it does not tell.

    Args:
        given: Options that are known anyway.
    """
    try:
        text = (mount.mountpoint / ".memfs" / "config.toml").read_text()
    except OSError:
        return None
    if any(name not in given for name in hidden_options(text)):
        return None
    return {
        f"{section}.{name}": value
        for section, content in tomllib.loads(text).items()
        for name, value in content.items()
        if value != {}
    }


def _has_store_option(present: Config, text: str, name: str, value: object) -> bool:
    told = present.glacier.options
    # What may be a secret is only told to be there.
    return told[name] == value if name in told else _STORE_OPTION + name in hidden_options(text)


def _config_of(options: Mapping[str, object]) -> Config:
    with tempfile.NamedTemporaryFile("w", prefix="memfs-", suffix=".toml") as file:
        file.write(toml_of(options))
        file.flush()
        return load_config(Path(file.name))


def toml_of(options: Mapping[str, object]) -> str:
    """Return keys and values as a file of the configuration."""
    lines = []
    for key, value in options.items():
        section, _, name = key.partition(".")
        # Dotted keys may stand alone (TOML 1.0.0, "Keys"), and JSON's values are TOML's but for
        # null and objects.
        path = ".".join(json.dumps(part) for part in (section, *name.split(".", 1)))
        if isinstance(value, dict):
            lines += [
                f"{path}.{json.dumps(inner)} = {json.dumps(each)}" for inner, each in value.items()
            ]
        else:
            lines.append(f"{path} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"
