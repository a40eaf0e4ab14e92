"""A method of the control socket: its name, what it takes and what it answers.

Invariant: a call whose parameters are not those of its method never reaches the method.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypedDict, TypeVar

P = TypeVar("P")
R = TypeVar("R")


class Method(NamedTuple, Generic[P, R]):
    """One method."""

    name: str
    parameters: type[P]
    """A `TypedDict`; those that are not required have their default in the method itself."""
    report: type[R]
    """What it answers."""


class Nothing(TypedDict):
    """No parameters."""


class NameParameters(TypedDict):
    """The name of something."""

    name: str


class WorkParameters(TypedDict):
    """Work of a client."""

    work: str
