"""Plain values: bytes, text, JSON, MessagePack, and pickles where they are allowed."""

from __future__ import annotations

import json
import pickle
from typing import Any, BinaryIO

from memfs.manager.errors import ValueFormatError
from memfs.manager.values.value import (
    Content,
    Mime,
    Wanted,
    bounds,
    refuse_device,
    refuse_name,
    write_all,
)


class Bytes:
    """Bytes as they are."""

    name = "bytes"
    types: tuple[str, ...] = ("application/octet-stream",)

    def accepts(self, value: Any) -> bool:  # noqa: ANN401
        """Buffers of bytes; arrays of numbers are values of their own."""
        return isinstance(value, bytes | bytearray | memoryview)

    def write(self, value: Any, file: BinaryIO) -> Mime:  # noqa: ANN401
        """Write them."""
        try:
            view = memoryview(value)
            write_all(file, view if view.c_contiguous else view.tobytes())
        except TypeError as error:
            raise ValueFormatError(f"{type(value).__name__} is not bytes: {error}") from None
        return Mime(self.types[0])

    def read(self, content: Content, wanted: Wanted) -> bytes | memoryview:
        """Return all, or the bytes `start` to `end`; without a copy as a view of the page cache."""
        refuse_name(content, wanted, "bytes")
        refuse_device(content, wanted, "bytes")
        start, end = bounds(wanted, content.size_bytes)
        if not wanted.copy and content.size_bytes:
            return memoryview(content.map())[start:end]
        return content.read(start, end - start)

    def recognises(self, begin: bytes, name: str) -> bool:
        """Nothing: it is what remains."""
        return False


class Text:
    """Text in UTF-8."""

    name = "str"
    types: tuple[str, ...] = ("text/plain",)

    def accepts(self, value: Any) -> bool:  # noqa: ANN401
        """Texts."""
        return isinstance(value, str)

    def write(self, value: Any, file: BinaryIO) -> Mime:  # noqa: ANN401
        """Write it."""
        if not isinstance(value, str):
            raise ValueFormatError(f"{type(value).__name__} is not a text")
        try:
            write_all(file, value.encode())
        except UnicodeEncodeError as error:
            raise ValueFormatError(f"half of a surrogate pair in the text: {error}") from None
        return Mime(self.types[0], {"charset": "utf-8"})

    def read(self, content: Content, wanted: Wanted) -> str:
        """Return all, or the characters that lie whole within the bytes `start` to `end`."""
        refuse_name(content, wanted, "a text")
        refuse_device(content, wanted, "a text")
        start, end = bounds(wanted, content.size_bytes)
        data = content.read(start, end - start)
        if wanted.partial:
            return _without_torn_ends(data, begins=start == 0)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ValueFormatError(f"{content.name} is not UTF-8: {error}") from None

    def recognises(self, begin: bytes, name: str) -> bool:
        """By the name."""
        return name.endswith((".txt", ".md"))


class Json:
    """Lists, dictionaries with texts as names, texts, numbers, true, false and None."""

    name = "json"
    types: tuple[str, ...] = ("application/json",)

    def accepts(self, value: Any) -> bool:  # noqa: ANN401
        """What comes back as it was: the writer sees the rest."""
        return value is None or isinstance(value, bool | int | float | list | dict)

    def write(self, value: Any, file: BinaryIO) -> Mime:  # noqa: ANN401
        """Write it; tuples and names that are no texts, which JSON would change, are refused."""
        _check_json(value, "the value", 0)
        try:
            write_all(file, json.dumps(value, ensure_ascii=False).encode())
        except (ValueError, RecursionError) as error:
            raise ValueFormatError(f"it cannot be JSON: {error}") from None
        return Mime(self.types[0])

    def read(self, content: Content, wanted: Wanted) -> Any:  # noqa: ANN401
        """Return all, or some elements of a list; the whole file is read for both."""
        refuse_device(content, wanted, "JSON")
        try:
            value = json.loads(content.read(0, content.size_bytes))
        except (ValueError, RecursionError) as error:
            raise ValueFormatError(f"{content.name} is not JSON: {error}") from None
        return part_of(value, content, wanted)

    def recognises(self, begin: bytes, name: str) -> bool:
        """By the name."""
        return name.endswith(".json")


class MessagePack:
    """As JSON, in fewer bytes, and with bytes among its values."""

    name = "msgpack"
    types: tuple[str, ...] = (
        "application/vnd.msgpack",
        "application/msgpack",
        "application/x-msgpack",
    )

    def accepts(self, value: Any) -> bool:  # noqa: ANN401
        """Nothing without being named."""
        return False

    def write(self, value: Any, file: BinaryIO) -> Mime:  # noqa: ANN401
        """Write it."""
        try:
            write_all(file, _msgpack().packb(value))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueFormatError(f"it cannot be MessagePack: {error}") from None
        return Mime(self.types[0])

    def read(self, content: Content, wanted: Wanted) -> Any:  # noqa: ANN401
        """Return all, or some elements of a list; the whole file is read for both."""
        msgpack = _msgpack()
        refuse_device(content, wanted, "MessagePack")
        try:
            value = msgpack.unpackb(content.read(0, content.size_bytes), strict_map_key=False)
        except (ValueError, msgpack.UnpackException, RecursionError) as error:
            raise ValueFormatError(f"{content.name} is not MessagePack: {error}") from None
        return part_of(value, content, wanted)

    def recognises(self, begin: bytes, name: str) -> bool:
        """By the name."""
        return name.endswith(".msgpack")


class Pickle:
    """Any object of Python. The manager lets it in only where that is allowed."""

    name = "pickle"
    types: tuple[str, ...] = ("application/x-python-pickle",)

    def accepts(self, value: Any) -> bool:  # noqa: ANN401
        """Nothing without being named."""
        return False

    def write(self, value: Any, file: BinaryIO) -> Mime:  # noqa: ANN401
        """Write it, large buffers without a copy."""
        try:
            pickle.dump(value, _Whole(file), protocol=5)
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
            raise ValueFormatError(f"{type(value).__name__} cannot be pickled: {error}") from None
        return Mime(self.types[0])

    def read(self, content: Content, wanted: Wanted) -> Any:  # noqa: ANN401
        """Return all; running what the file says."""
        refuse_device(content, wanted, "a pickle")
        try:
            value = pickle.loads(content.read(0, content.size_bytes))
        except Exception as error:
            # A pickle raises what it likes.
            raise ValueFormatError(f"{content.name} cannot be unpickled: {error!r}") from error
        return part_of(value, content, wanted)

    def recognises(self, begin: bytes, name: str) -> bool:
        """Nothing: a file that was not stored as one is never run."""
        return False


class _Whole:
    """A file whose `write` writes all of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes | memoryview) -> int:
        write_all(self._file, data)
        return memoryview(data).nbytes


def part_of(value: Any, content: Content, wanted: Wanted) -> Any:  # noqa: ANN401
    """Return the elements of a list, or one field of a dictionary, if they are asked for."""
    if wanted.name is not None:
        if not isinstance(value, dict) or wanted.name not in value:
            raise ValueFormatError(f"{content.name} has no field {wanted.name!r}")
        value = value[wanted.name]
    if not wanted.partial:
        return value
    if not isinstance(value, list | str | bytes | tuple):
        raise ValueFormatError(f"{content.name} holds {type(value).__name__}, which has no parts")
    start, end = bounds(wanted, len(value))
    return value[start:end]


_SCALARS = frozenset((type(None), bool, int, float, str))
"""What most values are made of: to tell the place of each takes longer than to write it."""


def _check_json(value: object, place: str, depth: int) -> None:
    if depth > 200:
        raise ValueFormatError(f"{place} is nested more than 200 deep")
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise ValueFormatError(
                    f"{place} has the name {name!r}, and JSON has texts as names only; "
                    "store it with format='msgpack'"
                )
            if type(each) not in _SCALARS:
                _check_json(each, f"{place}[{name!r}]"[:200], depth + 1)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            if type(each) not in _SCALARS:
                _check_json(each, f"{place}[{number}]"[:200], depth + 1)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise ValueFormatError(
            f"{place} is {type(value).__name__}, which JSON does not have; store it by a key of "
            "its own, or all of it with format='msgpack' or format='pickle'"
        )


def _without_torn_ends(data: bytes, *, begins: bool) -> str:
    if not begins:
        # Continuation bytes are 10xxxxxx (RFC 3629); a character has three of them at most.
        torn = 0
        while torn < min(3, len(data)) and data[torn] & 0xC0 == 0x80:
            torn += 1
        data = data[torn:]
    return data.decode(errors="ignore")


def _msgpack() -> Any:  # noqa: ANN401 - a module
    try:
        import msgpack
    except ImportError:
        raise ValueFormatError(
            "MessagePack needs the package msgpack: pip install 'memfs-tiers[values]'"
        ) from None
    return msgpack
