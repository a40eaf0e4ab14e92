"""Arguments of calls: looked at before anything is done, so that a mistake is told as what it is.

Invariant: what is refused here has changed nothing, and the message names the argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from memfs.manager.errors import FilterError, ValueFormatError

if TYPE_CHECKING:
    from memfs.manager.batches import ERRORS

GB_MAX = float(1 << 30)
"""The largest size that a mount can be configured with is 1 EiB."""

PRIORITY_MAX = 100


def size_gb(name: str, value: object) -> float:
    """Return a size in GB.

    Raises:
        ValueError: It is no number, negative or beyond `GB_MAX`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= GB_MAX:
        raise ValueError(f"{name} = {value!r} is no size in GB: a number from 0 to {GB_MAX:.0f}")
    return float(value)


def size_mb(name: str, value: object) -> float:
    """Return a size in MB; raises as `size_gb`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < GB_MAX:
        raise ValueError(f"{name} = {value!r} is no size in MB: a number above 0")
    return float(value)


def priority_of(value: object) -> int:
    """Return a priority.

    Raises:
        ValueError: It is no whole number from 0 to 100.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= PRIORITY_MAX:
        raise ValueError(
            f"priority = {value!r}: it can be a whole number from 0 to {PRIORITY_MAX}; what has a "
            "higher one leaves a full tier last"
        )
    return value


def metadata_given(metadata: object) -> Mapping[str, Any]:
    """Return metadata; for None an empty dictionary.

    Raises:
        ValueFormatError: It is no dictionary.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ValueFormatError(
            f"metadata is {type(metadata).__name__}; it can be a dictionary of values by name"
        )
    return metadata


def filter_given(condition: object) -> dict[str, Any]:
    """Return a filter; None is an empty one, which finds all.

    Raises:
        FilterError: It is no dictionary.
    """
    if condition is None:
        return {}
    if not isinstance(condition, Mapping):
        raise FilterError(
            f"a filter is a dictionary, such as {{'city': 'Ulm'}}, and not {condition!r:.80}"
        )
    return dict(condition)


def limit_given(limit: int | None) -> int | None:
    """Return how many entries are wanted at the most; None: all.

    Raises:
        ValueError: It is no number, or a negative one.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise ValueError(f"limit = {limit!r}: it can be a whole number of 0 or more, or None")
    return limit


def several(name: str, given: Iterable[Any]) -> Iterable[Any]:
    """Return what is given for many; one text is one, and not its letters.

    Raises:
        TypeError: It is one text, or cannot be iterated.
    """
    if isinstance(given, str | bytes):
        raise TypeError(f"{name} is one text; put it in a list: [{given[:80]!r}]")
    if not isinstance(given, Iterable):
        raise TypeError(f"{name} is {type(given).__name__}, and no list or iterator")
    return given


def check_threshold(name: str, value: object) -> None:
    """See that a time of a policy is one.

    Raises:
        ValueError: It is no number, negative or endless.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name}={value!r}: a time is 0 or more")


def errors_given(errors: ERRORS) -> ERRORS:
    """Return what is to become of errors of a batch.

    Raises:
        ValueError: It is neither.
    """
    if errors not in ("raise", "return"):
        raise ValueError(f"errors = {errors!r}: it can be 'raise' or 'return'")
    return errors


def items_given(
    given: Iterable[Any] | Mapping[str, Any], options: Mapping[str, Any]
) -> Iterable[dict[str, Any]]:
    """Return items of `batch_store` as arguments of `store`; a list of a list, which has a length.

    Args:
        given: Dictionaries of arguments, pairs of key and value, or a dictionary of values by key.
        options: Arguments for all of them.

    Raises:
        TypeError: An item is neither a dictionary nor a pair; from an iterator, when it is taken.
    """
    several("items", given)
    if isinstance(given, Mapping):
        given = list(given.items())
    made = (_item(each, options) for each in given)
    return list(made) if isinstance(given, list) else made


def _item(item: object, options: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return {**options, **item}
    if isinstance(item, tuple) and len(item) == 2:
        return {**options, "key": item[0], "value": item[1]}
    raise TypeError(
        f"an item of a batch is {type(item).__name__}; it can be a pair (key, value), or a "
        "dictionary of the arguments of store"
    )
