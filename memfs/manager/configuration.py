"""The configuration dictionaries of the four tiers, as a mount's configuration and as habits.

Invariant: each key is honoured, or refused by its name with the reason; nothing is ignored.
"""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.manager.arguments import size_gb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Options = dict[str, object]
    Taker = Callable[[str, object, Options, dict[str, Any]], None]

INDEX_IN_MEMORY_CACHE = "512MiB"
"""Page cache of the database with `index_in_memory`: the tables of a million files have 284 MiB."""

_GPU_CONTROL = "/dev/nvidiactl"


class Habits(NamedTuple):
    """What a manager does by itself; the mount knows nothing of it."""

    precision: str | None = None
    """Type that floating-point tensors are retrieved as; None: as stored."""
    fallback_format: str | None = None
    """For values that have no file format of their own."""
    views: bool = False
    """Values are views of shared memory, unless a copy is asked for."""
    table_format: str = "parquet"


class Configuration(NamedTuple):
    """What the dictionaries come to."""

    options: Mapping[str, object]
    """Keys of the mount's configuration."""
    habits: Habits
    sizes_gb: Mapping[str, float]
    """By tier."""
    state: str | None
    """The state directory that they name."""


def configure(
    hot: Mapping[str, Any] | None = None,
    warm: Mapping[str, Any] | None = None,
    cold: Mapping[str, Any] | None = None,
    glacier: Mapping[str, Any] | None = None,
) -> Configuration:
    """Return what four dictionaries come to; None is an empty one.

    Raises:
        ValueError: A key is unknown, or cannot be honoured; the message says why.
    """
    options: Options = {}
    found: dict[str, Any] = {}
    sizes: dict[str, float] = {}
    for tier, given, known in (
        ("hot", hot, _HOT),
        ("warm", warm, _WARM),
        ("cold", cold, _COLD),
        ("glacier", glacier, _GLACIER),
    ):
        for key, value in (given or {}).items():
            place = f"{tier}_config[{key!r}]"
            if key == "size_gb" and tier != "glacier":
                sizes[tier] = size_gb(place, value)
                continue
            if key not in known:
                names = list(known) if tier == "glacier" else ["size_gb", *known]
                near = difflib.get_close_matches(str(key), names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
                raise ValueError(f"{place} is not a key of it{hint}")
            known[key](place, value, options, found)
    if glacier:
        _glacier_url(glacier, options)
    warm_codec = found.pop("warm_codec", None)
    if warm_codec not in (None, "none", options.get("cold.codec")):
        raise ValueError(
            f"warm_config['compression'] = {warm_codec!r}: pages in RAM are never compressed, "
            "since programs map them; leave it out, or set the same cold_config['compression'], "
            "which is for the disk"
        )
    state = found.pop("state", None)
    return Configuration(options, Habits(**found), sizes, state)


def has_gpu() -> bool:
    """Return whether this machine has a GPU with NVIDIA's driver."""
    return os.path.exists(_GPU_CONTROL)


def _one_of(place: str, value: object, *allowed: object) -> None:
    if value not in allowed:
        raise ValueError(f"{place} = {value!r}: it can be {', '.join(map(repr, allowed))}")


def _device(place: str, value: object, options: Options, _: dict[str, Any]) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{place} = {value!r} is no name of a device, such as 'cuda:0'")
    options["hot.devices"] = [value]


def _precision(place: str, value: object, _: Options, found: dict[str, Any]) -> None:
    _one_of(place, value, "float32", "float16", "bfloat16")
    found["precision"] = value


def _threshold(place: str, value: object, options: Options, _: dict[str, Any]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 1:
        raise ValueError(f"{place} = {value!r} is no share between 0.01 and 1")
    options["hot.high_watermark"] = float(value)
    options["hot.low_watermark"] = max(0.01, round(value - 0.1, 4))


def _serialization(place: str, value: object, _: Options, found: dict[str, Any]) -> None:
    _one_of(place, value, "json", "msgpack", "pickle")
    found["fallback_format"] = value


def _warm_compression(place: str, value: object, _: Options, found: dict[str, Any]) -> None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place} = {value!r} is no codec, such as 'none' or 'zstd'")
    found["warm_codec"] = value


def _shared(place: str, value: object, _: Options, found: dict[str, Any]) -> None:
    _one_of(place, value, True, False)
    found["views"] = value


def _storage_path(place: str, value: object, _: Options, found: dict[str, Any]) -> None:
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{place} = {value!r} is no path")
    found["state"] = os.path.abspath(os.path.expanduser(value))


def _file_format(place: str, value: object, _: Options, found: dict[str, Any]) -> None:
    if value in ("hdf5", "zarr"):
        raise ValueError(
            f"{place} = {value!r}: write such files by their own library to `manager.path(key)`, "
            "which is an ordinary path; tables are stored as 'parquet'"
        )
    _one_of(place, value, "parquet")
    found["table_format"] = value


def _cold_compression(place: str, value: object, options: Options, _: dict[str, Any]) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{place} = {value!r} is no codec, such as 'zstd' or 'zstd:9'")
    options["cold.codec"] = value


def _index_in_memory(place: str, value: object, options: Options, _: dict[str, Any]) -> None:
    _one_of(place, value, True, False)
    if value:
        options["metadata.cache"] = INDEX_IN_MEMORY_CACHE


def _text(place: str, value: object, _: Options, __: dict[str, Any]) -> None:
    """See that it is a text; `_glacier_url` takes it."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{place} = {value!r} is no text")


def _region(place: str, value: object, options: Options, _: dict[str, Any]) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{place} = {value!r} is no region")
    options["glacier.options.client_kwargs"] = {"region_name": value}


def _encryption(place: str, value: object, options: Options, _: dict[str, Any]) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{place} = {value!r} is no encryption, such as 'AES256'")
    options["glacier.server_side_encryption"] = value


def _options(place: str, value: object, options: Options, _: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{place} = {value!r} is no dictionary")
    for name, each in value.items():
        options[f"glacier.options.{name}"] = each


_HOT: dict[str, Taker] = {
    "device": _device,
    "precision": _precision,
    "garbage_collection_threshold": _threshold,
}
_WARM: dict[str, Taker] = {
    "serialization_format": _serialization,
    "compression": _warm_compression,
    "shared_memory": _shared,
}
_COLD: dict[str, Taker] = {
    "storage_path": _storage_path,
    "file_format": _file_format,
    "compression": _cold_compression,
    "index_in_memory": _index_in_memory,
}
_GLACIER: dict[str, Taker] = {
    "provider": _text,
    "bucket": _text,
    "prefix": _text,
    "storage_path": _text,
    "region": _region,
    "encryption": _encryption,
    "options": _options,
}

_SCHEMES = {"s3": "s3", "gcs": "gs", "azure": "abfs"}


def _glacier_url(config: Mapping[str, Any], options: Options) -> None:
    provider = config.get("provider", "local")
    if provider == "local":
        for key in ("bucket", "region", "encryption"):
            if key in config:
                raise ValueError(
                    f"glacier_config[{key!r}] is for a bucket, and provider is 'local'"
                )
        if "storage_path" in config:
            path = os.path.abspath(os.path.expanduser(config["storage_path"]))
            options["glacier.url"] = f"file://{path}"
        return
    if provider not in _SCHEMES:
        known = ", ".join(map(repr, ("local", *_SCHEMES)))
        raise ValueError(f"glacier_config['provider'] = {provider!r}: it can be {known}")
    if "bucket" not in config:
        raise ValueError(f"glacier_config['bucket'] is missing: provider is {provider!r}")
    if "storage_path" in config:
        raise ValueError("glacier_config['storage_path'] is for provider 'local'")
    prefix = str(config.get("prefix", "")).strip("/")
    url = f"{_SCHEMES[provider]}://{config['bucket']}"
    options["glacier.url"] = f"{url}/{prefix}" if prefix else url
    if provider != "s3":
        for key in ("region", "encryption"):
            if key in config:
                raise ValueError(
                    f"glacier_config[{key!r}] is for provider 's3'; set it on the bucket"
                )
