"""Costs: what a month like the span costs, for each part that has a price.

Invariant: a part without a price has an amount and no cost, and is in no sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.report.gathering import Gathered

MONTH_S = 30 * 86_400.0
_GIB = float(1 << 30)

PRICES = {
    "hot": "a GiB of GPU memory for a month",
    "warm": "a GiB of RAM for a month",
    "cold": "a GiB of the disk for a month",
    "stored": "a GiB in the object store for a month",
    "requests": "a thousand requests to it",
    "received": "a GiB from it",
    "sent": "a GiB to it",
}
"""What can have a price, and what it is for."""

_LOCAL = ("hot", "warm", "cold")


class Cost(NamedTuple):
    """One part of what a month costs."""

    name: str
    """One of `PRICES`."""
    tier: str
    """The tier that it is for."""
    amount: float
    """In the unit of the price: GiB, or thousands of requests."""
    price: float | None
    """For one; None: not known."""

    @property
    def cost(self) -> float | None:
        """In the currency of the prices; None: it has no price."""
        return None if self.price is None else self.amount * self.price


def costs_of(gathered: Gathered) -> list[Cost]:
    """Return the parts of a month like the span, by tier.

    A local tier costs what it may hold, since that is bought or rented; one without a limit costs
    what is in it. The object store costs what it holds now, and requests and bytes as of the span.
    """
    prices = gathered.status.prices.amounts()
    amounts = {
        tier.tier: (tier.capacity_bytes or tier.used_bytes) / _GIB
        for tier in gathered.status.tiers
        if tier.tier in _LOCAL
    }
    if gathered.periods and gathered.status.store is not None:
        months = MONTH_S / gathered.span_s
        amounts |= {
            "stored": gathered.periods[-1].numbers.get("remote_bytes", 0) / _GIB,
            "requests": gathered.total("store_requests") / 1000 * months,
            "received": gathered.total("store_received_bytes") / _GIB * months,
            "sent": gathered.total("store_sent_bytes") / _GIB * months,
        }
    return [
        Cost(name, name if name in _LOCAL else "glacier", amounts[name], prices.get(name))
        for name in PRICES
        if name in amounts
    ]


def cost_by_tier(costs: Sequence[Cost]) -> dict[str, float]:
    """Return what a month costs for each tier that has a price."""
    sums: dict[str, float] = {}
    for each in costs:
        if each.cost is not None:
            sums[each.tier] = sums.get(each.tier, 0.0) + each.cost
    return sums


def money(cost: float, currency: str = "") -> str:
    """Return an amount of money for people."""
    number = f"{cost:.2f}" if cost >= 0.01 or not cost else "less than 0.01"
    return f"{number} {currency}".rstrip()
