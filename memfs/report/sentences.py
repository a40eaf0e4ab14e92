"""The sentences of a report: what is too small, what waits, what costs, and what to do.

Invariant: a sentence tells what was measured, and where something is to be done, it says what. No
sentence is a guess: without numbers nothing is told.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from memfs.metrics.rings import BY_RESOLUTION
from memfs.metrics.traffic import Level
from memfs.report.costs import cost_by_tier, costs_of, money
from memfs.report.gathering import SPANS
from memfs.report.latencies import latencies_of
from memfs.sizes import format_count, format_duration, format_size
from memfs.types import PendingCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.control.report import TierReport
    from memfs.report.gathering import Gathered

FULL = 0.9
"""A tier that is filled to this share counts as full."""
RELIEVED = 0.78
"""A tier whose files leave because it is full stays above: the low watermark is 0.8 by default."""
OPENS_MIN = 50
"""Fewer opens tell nothing."""
SLOW_OPEN_S = 0.25
PRECISION_MIN = 0.3
STALLED_SHARE = 0.001
"""A thousandth of the time: less is not felt."""
_SPAN_S = {name: BY_RESOLUTION[resolution_s].span_s for name, resolution_s in SPANS.items()}


class Weight(enum.StrEnum):
    """What a sentence asks of its reader; the most urgent first."""

    ACT = "act"
    """Something is wrong, or too small."""
    KNOW = "know"
    """It may be as it is meant."""
    GOOD = "good"


class Sentence(NamedTuple):
    """What the report begins with."""

    weight: Weight
    text: str
    remedy: str = ""
    """What to do; empty: nothing."""


def sentences(gathered: Gathered) -> list[Sentence]:
    """Return what there is to say, the most urgent first."""
    told = [
        *_store(gathered),
        *_tiers(gathered),
        *_opens(gathered),
        *_trials(gathered),
        *_pending(gathered),
        *_latency(gathered),
        *_stalls(gathered),
        *_quotas(gathered),
        *_safety(gathered),
        *_lost_objects(gathered),
        *_prefetch(gathered),
        *_costs(gathered),
        *_compression(gathered),
        *_snapshots(gathered),
    ]
    weights = list(Weight)
    told.sort(key=lambda sentence: weights.index(sentence.weight))
    if not told or told[0].weight != Weight.ACT:
        told.insert(0, Sentence(Weight.GOOD, "Nothing needs attention."))
    return told


def _span(gathered: Gathered) -> str:
    return f"In the last {_span_words(gathered)}"


def _span_words(gathered: Gathered) -> str:
    if gathered.span_s >= 0.99 * _SPAN_S[gathered.span]:
        return gathered.span
    return format_duration(gathered.span_s)


def _tier(gathered: Gathered, name: str) -> TierReport | None:
    return next((tier for tier in gathered.status.tiers if tier.tier == name), None)


def _is_full(tier: TierReport | None) -> bool:
    return tier is not None and bool(
        tier.capacity_bytes and tier.used_bytes >= FULL * tier.capacity_bytes
    )


def _is_mostly_full(gathered: Gathered, name: str) -> bool:
    """Return whether a tier was so full in half of the span that files had to leave it."""
    used, size = f"used.{name}", f"capacity.{name}"
    full_count = sum(
        each.numbers.get(used, 0) >= RELIEVED * each.numbers[size]
        for each in gathered.periods
        if each.numbers.get(size)
    )
    return 2 * full_count >= len(gathered.periods) > 0 or _is_full(_tier(gathered, name))


def _store(gathered: Gathered) -> Iterator[Sentence]:
    store = gathered.status.store
    if store is not None and store.well is False:
        lasts = f" for {format_duration(store.lasts_s)}" if store.lasts_s is not None else ""
        yield Sentence(
            Weight.ACT,
            f"The object store fails{lasts}: {store.reason}.",
            "Files that are only there cannot be read. Mend the store, its keys or the network; "
            "memfs tries again by itself.",
        )
        return
    errors, requests = gathered.total("store_errors"), gathered.total("store_requests")
    if errors:
        yield Sentence(
            Weight.KNOW,
            f"{_span(gathered)}, {format_count(errors, 'call')} of the object store failed, beside "
            f"{format_count(requests, 'request')}; they were tried again.",
        )


def _tiers(gathered: Gathered) -> Iterator[Sentence]:
    for tier in gathered.status.tiers:
        if tier.note is not None and tier.is_on:
            weight = Weight.ACT if _is_full(tier) else Weight.KNOW
            yield Sentence(weight, f"About the {tier.tier} tier: {tier.note}.")


def _opens(gathered: Gathered) -> Iterator[Sentence]:
    counts = {level: gathered.total(f"opens.{level}") for level in Level}
    # An attach to tensors in GPU memory goes through an open, which counts as well.
    attaches = counts.pop(Level.HOT)
    total = sum(counts.values())
    if attaches:
        yield Sentence(
            Weight.GOOD,
            f"{_span(gathered)}, GPU memory served tensors {format_count(attaches, 'time')}.",
        )
    if total < OPENS_MIN:
        yield Sentence(
            Weight.KNOW,
            f"{_span(gathered)}, files were opened {format_count(total, 'time')} for reading: too "
            "few to say whether the tiers are large enough.",
        )
        return
    near = counts[Level.WARM]
    far, packed = counts[Level.GLACIER], counts[Level.PACKED]
    if far >= 0.05 * total:
        size = format_size(gathered.total("opened_bytes.glacier"))
        text = (
            f"{_span(gathered)}, {far / total:.0%} of the opens waited for the object store "
            f"({format_count(far, 'file')}, {size})."
        )
        if _has_trials(gathered, "cold"):
            yield Sentence(Weight.KNOW, text)
        elif _is_mostly_full(gathered, "cold"):
            yield Sentence(
                Weight.ACT,
                f"The disk tier is too small. {text}",
                "Raise cold.size, use a larger disk, or pin what is used often. "
                f"{_rule_of_thumb(gathered)}",
            )
        else:
            yield Sentence(
                Weight.KNOW,
                f"{text} The disk has room, so these files had not been used for long.",
                "If they will be used again, fetch them before: `memfs prefetch PATH...`.",
            )
    if packed >= 0.2 * total:
        yield Sentence(
            Weight.KNOW,
            f"{_span(gathered)}, {packed / total:.0%} of the opens had to unpack the file first.",
            "Raise policy.pack_after, so that files stay plain for longer.",
        )
    if _has_trials(gathered, "warm"):
        return
    if _is_mostly_full(gathered, "warm") and near < 0.5 * total:
        yield Sentence(
            Weight.ACT,
            f"The RAM tier is too small: it is full, and served {near / total:.0%} of the opens.",
            f"Raise warm.size. {_rule_of_thumb(gathered)}",
        )
    elif near >= 0.5 * total:
        yield Sentence(
            Weight.GOOD, f"{_span(gathered)}, RAM served {near / total:.0%} of the opens."
        )


def _has_trials(gathered: Gathered, tier: str) -> bool:
    """Return whether a trace tells more of a tier than what was measured does."""
    trials = gathered.tried.trials
    return trials is not None and tier in trials.trials


def _rule_of_thumb(gathered: Gathered) -> str:
    if gathered.tried.reason:
        return f"This is a rule of thumb: the trace cannot be replayed ({gathered.tried.reason})."
    return (
        "This is a rule of thumb; with a trace (`memfs trace start DIRECTORY MOUNTPOINT`) the "
        "report tells how much is enough."
    )


_SERVED = {"warm": ("RAM", "served from RAM"), "cold": ("disk", "local")}


def _trials(gathered: Gathered) -> Iterator[Sentence]:
    trials = gathered.tried.trials
    if trials is None:
        return
    source = (
        f"By a replay of the trace {trials.path}, of which "
        f"{format_count(trials.open_count, 'open')} count."
    )
    for tier, (name, served) in _SERVED.items():
        if tier not in trials.trials:
            continue
        now, present = trials.share(tier), format_size(trials.sizes[tier])
        if (larger := trials.larger(tier)) is not None:
            yield Sentence(
                Weight.ACT,
                f"With {format_size(larger.size_bytes)} of {name} instead of {present}, "
                f"{larger.share:.0%} instead of {now:.0%} of the opens would be {served}.",
                f"Raise {tier}.size. {source}",
            )
        elif (smaller := trials.smaller(tier)) is not None:
            yield Sentence(
                Weight.KNOW,
                f"{format_size(smaller.size_bytes)} of {name} instead of {present} would do: "
                f"{smaller.share:.0%} instead of {now:.0%} of the opens would be {served}.",
                source,
            )
        else:
            yield Sentence(
                Weight.GOOD,
                f"More {name} than {present} would bring next to nothing: {now:.0%} of the opens "
                f"are {served}.",
                source,
            )


# Sentences about open files and a full RAM tier have their remedy.
_REMEDIES = {
    PendingCode.QUOTA: (
        "They go on when the quota has room; raise it in [quotas] if that is too late."
    ),
    PendingCode.ARCHIVED: "Archived objects are being restored, which takes hours.",
    PendingCode.DISK: "Remove files from the disk of the state directory, or use a larger one.",
    PendingCode.KEY: "Name the missing key in encryption.keys.",
    PendingCode.DAMAGE: "Run `memfs scrub`, and `memfs fsck` after the next unmount.",
    PendingCode.STORE: "They go on when the object store serves again.",
}
_BAD = {
    PendingCode.DISK,
    PendingCode.KEY,
    PendingCode.DAMAGE,
    PendingCode.STORE,
    PendingCode.RAM,
}
"""What does not pass by itself."""


def _pending(gathered: Gathered) -> Iterator[Sentence]:
    for code, moves in gathered.pending_by_code().items():
        is_bad = code in _BAD
        count = format_count(len(moves), "move")
        verb, such_as = ("waits", "that of") if len(moves) == 1 else ("wait", "such as that of")
        yield Sentence(
            Weight.ACT if is_bad else Weight.KNOW,
            f"{count} {verb} ({code}), {such_as} {moves[0].path}: {moves[0].reason}.",
            _REMEDIES.get(code, ""),
        )


def _latency(gathered: Gathered) -> Iterator[Sentence]:
    for each in latencies_of(gathered):
        if each.kind == "open" and each.request_count >= OPENS_MIN and each.p99_s >= SLOW_OPEN_S:
            yield Sentence(
                Weight.KNOW,
                f"One open in a hundred took {format_duration(each.p99_s / 2)} or more; half of "
                f"them took less than {format_duration(each.p50_s)}.",
                "Such opens wait for a file that is fetched or unpacked: see the opens by level.",
            )


def _stalls(gathered: Gathered) -> Iterator[Sentence]:
    count, total_ms = gathered.total("stalls"), gathered.total("stalled_ms")
    if total_ms >= STALLED_SHARE * gathered.span_s * 1000 and count:
        yield Sentence(
            Weight.KNOW,
            f"{_span(gathered)}, the daemon was busy with one thing for more than 50 ms "
            f"{format_count(count, 'time')}, {format_duration(total_ms / 1000)} in all.",
            "The machine has too few processors for its load, or this is a defect of memfs.",
        )


def _quotas(gathered: Gathered) -> Iterator[Sentence]:
    for quota in gathered.status.quotas:
        if quota.limit and quota.used + quota.reserved >= FULL * quota.limit:
            share = (quota.used + quota.reserved) / quota.limit
            yield Sentence(
                Weight.KNOW,
                f"The quota {quota.quota} is used to {share:.0%}.",
                "What it bounds waits from here on; raise it in [quotas] if that is too early.",
            )


def _safety(gathered: Gathered) -> Iterator[Sentence]:
    export = gathered.status.export
    if export is None:
        return
    if (trouble := export.error or export.refusal or export.lost) is not None:
        yield Sentence(
            Weight.ACT,
            f"The metadata are not exported: {trouble}.",
            "Without an export, the object store alone cannot bring the files back.",
        )
    elif export.missing_count:
        yield Sentence(
            Weight.KNOW,
            f"With this disk, {format_count(export.missing_count, 'file')} would be lost: their "
            f"{format_size(export.missing_bytes)} are not in the object store.",
            "Bring them there: `memfs barrier --level remote PATH`.",
        )


def _lost_objects(gathered: Gathered) -> Iterator[Sentence]:
    export = gathered.status.export
    for each in () if export is None else export.lost_objects:
        count = format_count(each.lost_count - each.mended_count, "object")
        yield Sentence(
            Weight.ACT,
            f"The store {each.store} has lost {count} that files need, such as {each.example}.",
            "Bring them back from versions of the bucket, if it keeps some; `memfs scrub` tells "
            "which files are damaged.",
        )


def _prefetch(gathered: Gathered) -> Iterator[Sentence]:
    hits, wasted = gathered.total("prefetch_hits"), gathered.total("prefetch_wasted")
    if hits + wasted >= OPENS_MIN:
        share = hits / (hits + wasted)
        yield Sentence(
            Weight.KNOW if share < PRECISION_MIN else Weight.GOOD,
            f"Prefetch was right for {share:.0%} of {format_count(hits + wasted, 'file')}.",
        )


def _costs(gathered: Gathered) -> Iterator[Sentence]:
    status = gathered.status
    if status.store is not None and gathered.periods:
        yield Sentence(
            Weight.KNOW,
            f"{_span(gathered)}, the object store got "
            f"{format_count(gathered.total('store_requests'), 'request')}, "
            f"{format_size(gathered.total('store_sent_bytes'))} were sent and "
            f"{format_size(gathered.total('store_received_bytes'))} received; it holds "
            f"{format_size(gathered.periods[-1].numbers.get('remote_bytes', 0))}.",
        )
    by_tier = cost_by_tier(costs_of(gathered))
    if by_tier:
        currency = status.prices.currency
        parts = [f"{tier} {money(cost, currency)}" for tier, cost in by_tier.items()]
        each = f" ({', '.join(parts)})" if len(parts) > 1 else ""
        yield Sentence(
            Weight.KNOW,
            f"At the given prices, a month like the last {_span_words(gathered)} costs "
            f"{money(sum(by_tier.values()), currency)}{each}.",
        )


def _compression(gathered: Gathered) -> Iterator[Sentence]:
    content = sum(codec.content_bytes for codec in gathered.status.codecs)
    stored = sum(codec.stored_bytes for codec in gathered.status.codecs)
    if stored and content > stored:
        yield Sentence(
            Weight.GOOD,
            f"Since the daemon started, compression made {format_size(stored)} of "
            f"{format_size(content)}.",
        )


def _snapshots(gathered: Gathered) -> Iterator[Sentence]:
    usage, cold = gathered.status.snapshots, _tier(gathered, "cold")
    if not usage.kept_bytes or cold is None:
        return
    is_much = usage.kept_bytes > 0.25 * max(1, cold.used_bytes) and _is_full(cold)
    yield Sentence(
        Weight.ACT if is_much else Weight.KNOW,
        f"{format_count(usage.snapshot_count, 'snapshot')} keep {format_size(usage.kept_bytes)} on "
        "the disk that nothing else shows.",
        "Delete those that are not needed: `memfs snapshot list --sizes` tells what each one holds."
        if is_much
        else "",
    )
