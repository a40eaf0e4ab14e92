"""Retention: which automatic snapshots are due, and which ones rules keep; pure.

Time is a grid of periods from 1970 on, in UTC: hours begin at the full hour, days at midnight. A
rule keeps the last snapshot of each of its newest periods that have one.

Invariant: what no rule has made is never removed, nor what is protected by its date or a label; and
to remove early and often leaves the same snapshots as to remove once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AUTOMATIC_LABEL = "memfs.automatic"
"""Key of a label: who has made a snapshot that no user has asked for, `BY_RULE` or a command."""
BY_RULE = "rule"

_NS = 1_000_000_000


class RetentionRule(NamedTuple):
    """What to make, and what to keep."""

    every_s: float
    """Period: a snapshot is made in each one in which something has changed."""
    keep: int = 0
    """So many periods, the newest ones that have a snapshot."""
    keep_within_s: float = 0.0
    """Also all periods that are not older than this."""


class KeptSnapshot(NamedTuple):
    """One snapshot as rules see it."""

    snap: int
    created_ns: int
    automatic: bool
    """A rule has made it."""
    kept_until_ns: int | None = None
    is_labelled: bool = False
    """It has a label that rules respect."""


def is_due(rules: Iterable[RetentionRule], last_ns: int, now_ns: int) -> bool:
    """Return whether a period of a rule has begun since the last automatic snapshot."""
    return any(_period(rule, now_ns) > _period(rule, last_ns) for rule in rules)


def next_due_ns(rules: Iterable[RetentionRule], now_ns: int) -> int | None:
    """Return when the next period of a rule begins; None: there is no rule."""
    starts = [(_period(rule, now_ns) + 1) * int(rule.every_s * _NS) for rule in rules]
    return min(starts, default=None)


def list_expired(
    rules: Sequence[RetentionRule], snapshots: Sequence[KeptSnapshot], now_ns: int
) -> list[int]:
    """Return the numbers of automatic snapshots that no rule keeps, oldest first."""
    ordered = sorted(snapshots, key=lambda each: (each.created_ns, each.snap))
    automatic = [each for each in ordered if each.automatic]
    kept = {each.snap for each in automatic if is_protected(each, now_ns)}
    for rule in rules:
        kept |= _kept_by(rule, automatic, now_ns)
    return [each.snap for each in automatic if each.snap not in kept]


def first_to_drop(snapshots: Sequence[KeptSnapshot], now_ns: int) -> int | None:
    """Return the automatic snapshot that goes first where the disk is full; None: no one may."""
    droppable = [each for each in snapshots if each.automatic and not is_protected(each, now_ns)]
    return min(droppable, key=lambda each: (each.created_ns, each.snap)).snap if droppable else None


def is_protected(snapshot: KeptSnapshot, now_ns: int) -> bool:
    """Return whether no rule may remove a snapshot."""
    until_ns = snapshot.kept_until_ns
    return snapshot.is_labelled or (until_ns is not None and until_ns > now_ns)


def _kept_by(rule: RetentionRule, automatic: Sequence[KeptSnapshot], now_ns: int) -> set[int]:
    """Return what a rule keeps of the automatic snapshots, which are in order."""
    last = {_period(rule, each.created_ns): each.snap for each in automatic}
    newest = sorted(last, reverse=True)[: rule.keep]
    within = now_ns - int(rule.keep_within_s * _NS)
    young = {
        last[_period(rule, each.created_ns)]
        for each in automatic
        if rule.keep_within_s and each.created_ns >= within
    }
    return {last[period] for period in newest} | young


def _period(rule: RetentionRule, instant_ns: int) -> int:
    return instant_ns // int(rule.every_s * _NS)
