"""Spans: which values of an index a condition leads to, and which of them are outside of arrays.

Invariant: a span has values of one class, numbers or texts, so that a walk does not leave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.query.filters import RANGES, Condition, Operator
from memfs.query.prefixes import end_of_prefix, literal_prefix

if TYPE_CHECKING:
    from memfs.query.values import Value

SYMBOLS = {
    Operator.GREATER: ">",
    Operator.GREATER_EQUAL: ">=",
    Operator.LESS: "<",
    Operator.LESS_EQUAL: "<=",
}
UPWARDS = frozenset({Operator.GREATER, Operator.GREATER_EQUAL})

_NUMBERS_END, _TEXTS_END = "''", "x''"
"""Between the classes of SQLite's order: null, numbers, texts, blobs."""

_ARRAYS_BEGIN, _ARRAYS_END = "[", "\\"
"""Texts that may be arrays are between."""


class End(NamedTuple):
    """One end of a span."""

    symbol: str
    value: Value


class Span(NamedTuple):
    """Values between two ends; None: up to the end of their class."""

    is_text: bool
    lower: End | None
    upper: End | None

    def text(self, column: str) -> str:
        """Return the condition that a column has a value in it; `arguments` are bound."""
        parts = [f"{column} {end.symbol} ?" for end in self[1:] if end is not None]
        if self.lower is None and self.is_text:
            parts.append(f"{column} >= ''")
        if self.upper is None:
            parts.append(f"{column} < {_TEXTS_END if self.is_text else _NUMBERS_END}")
        return " and ".join(parts)

    @property
    def arguments(self) -> tuple[Value, ...]:
        """Those of `text`."""
        return tuple(end.value for end in self[1:] if end is not None)

    @property
    def outside_arrays(self) -> tuple[Span, ...]:
        """The parts without texts that may be arrays."""
        if not self.is_text:
            return (self,)
        parts = []
        if self.lower is None or str(self.lower.value) < _ARRAYS_BEGIN:
            is_below = self.upper is not None and str(self.upper.value) < _ARRAYS_BEGIN
            parts.append(self if is_below else self._replace(upper=End("<", _ARRAYS_BEGIN)))
        if self.upper is None or str(self.upper.value) >= _ARRAYS_END:
            is_above = self.lower is not None and str(self.lower.value) >= _ARRAYS_END
            parts.append(self if is_above else self._replace(lower=End(">=", _ARRAYS_END)))
        return tuple(parts)


TEXTS = Span(True, None, None)


def span_of(condition: Condition) -> Span | None:
    """Return the values that a range or a pattern with a prefix asks for; None: it has no span."""
    operator = condition.operator
    if operator in RANGES:
        (operand,) = condition.operands
        end = End(SYMBOLS[operator], operand)
        upwards = operator in UPWARDS
        return Span(isinstance(operand, str), end if upwards else None, None if upwards else end)
    if operator is not Operator.REGEX or not (prefix := literal_prefix(str(condition.operands[0]))):
        return None
    beyond = end_of_prefix(prefix)
    return Span(True, End(">=", prefix), None if beyond is None else End("<", beyond))
