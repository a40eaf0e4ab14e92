"""Ages: how long files go unused before they move on, where a mark says so for some of them.

Invariant: what a mark does not name is as the configuration has it.
"""

from __future__ import annotations

import difflib
import json
from typing import NamedTuple

from memfs.errors import InvalidValueError
from memfs.sizes import format_duration, parse_duration

AGE_SETTING = "policy.shortest_age_ns"
"""Setting of the engine: the shortest age of any mark that was ever set; until the next import."""

AGE_S_MAX = 3650 * 86400.0
"""As that of the keys of the configuration."""

_NS = 1_000_000_000


class Ages(NamedTuple):
    """Times without use; None: as the configuration has it."""

    warm_to_cold_ns: int | None = None
    pack_after_ns: int | None = None
    cold_to_glacier_ns: int | None = None
    hot_to_warm_ns: int | None = None

    @property
    def shortest_ns(self) -> int | None:
        """The shortest of them; None: it names not one."""
        return min((age for age in self if age is not None), default=None)

    def text(self) -> str:
        """Return what `parse_ages` reads."""
        return json.dumps(
            {
                name.removesuffix("_ns"): _duration_text(age)
                for name, age in self._asdict().items()
                if age is not None
            }
        )


NO_AGES = Ages()


def _duration_text(age_ns: int) -> str | float:
    text = format_duration(age_ns / _NS)
    return text if int(parse_duration(text) * _NS) == age_ns else age_ns / _NS


_KEYS = tuple(name.removesuffix("_ns") for name in Ages._fields)


def parse_ages(text: str) -> Ages:
    """Return the ages of a mark: `{"warm_to_cold": "72h", "cold_to_glacier": "30d"}`.

    Raises:
        InvalidValueError: It is no such object; the message tells the key.
    """
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise InvalidValueError(
            f'policy {text[:80]!r} is no object such as {{"warm_to_cold": "72h"}}; its keys are '
            f"{', '.join(_KEYS)}"
        )
    ages = {}
    for key, value in told.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_KEYS)}"
            raise InvalidValueError(f"policy has no key {key[:80]!r}; {hint}")
        try:
            age_s = parse_duration(value)
        except InvalidValueError as error:
            raise InvalidValueError(f"policy {key}: {error}") from None
        if age_s > AGE_S_MAX:
            raise InvalidValueError(f"policy {key}: {value!r} is longer than ten years")
        ages[f"{key}_ns"] = int(age_s * _NS)
    return Ages(**ages)
