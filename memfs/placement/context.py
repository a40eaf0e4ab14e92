"""Context: what the parts of placement have in common, gathered once for a mount.

Invariant: it never changes; what changes is in the objects that it names.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memfs.config import UPLOAD_SEALED, QuotasConfig
from memfs.placement.breakers import StoreBreakers
from memfs.placement.queues import MoveQueues
from memfs.placement.quotas import Quotas
from memfs.placement.usage import TierUsage
from memfs.policy.access_stats import AccessStats
from memfs.policy.plugins import GuardedPlanner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.config import Config
    from memfs.content.activity import Activity
    from memfs.content.residency import Residency
    from memfs.metadata.engine import Engine
    from memfs.moves.attempt import MoveParts
    from memfs.moves.garbage import GarbageCollector
    from memfs.moves.recovery import Recovery
    from memfs.policy.pools import Pools


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What placement works with."""

    parts: MoveParts
    """The engine, the stores, the RAM tier and the throttle among them."""
    garbage: GarbageCollector
    recovery: Recovery
    """Looks for what an earlier daemon left."""
    activity: Activity
    """What programs did."""
    state_dir: Path
    """On the disk of the cold tier."""
    access_stats: AccessStats
    """What is known of the use of files; its pools are those of the RAM tier."""
    quotas: Quotas
    planner: GuardedPlanner
    """The policy in charge."""
    queues: MoveQueues
    usage: TierUsage
    breakers: StoreBreakers
    """Whether each object store is worth asking, as the moves have found."""
    rng: random.Random
    """Jitter of pauses; seeded by tests."""
    clock: Callable[[], int]
    """Wall clock, nanoseconds."""

    @classmethod
    def of(
        cls,
        parts: MoveParts,
        garbage: GarbageCollector,
        recovery: Recovery,
        activity: Activity,
        state_dir: Path,
        *,
        access_stats: AccessStats | None = None,
        quotas: Quotas | None = None,
        planner: GuardedPlanner | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> Context:
        """Gather the context of one mount; what is left out is as on a new one.

        Args:
            access_stats: None: nothing is known yet.
            quotas: None: nothing is limited.
            planner: None: the built-in one.
            rng: None: one that is not seeded.
        """
        policy = parts.config.policy
        rng = rng or random.Random()
        queues = MoveQueues(parts.config.stores)
        parts.progress.queue = queues
        return cls(
            parts=parts,
            garbage=garbage,
            recovery=recovery,
            activity=activity,
            state_dir=state_dir,
            access_stats=access_stats or AccessStats(policy.promote_count, policy.promote_window_s),
            quotas=quotas or Quotas(QuotasConfig(), parts.engine),
            planner=planner or GuardedPlanner(),
            queues=queues,
            usage=TierUsage(parts.config),
            breakers=StoreBreakers(parts.config, rng),
            rng=rng,
            clock=clock,
        )

    @property
    def config(self) -> Config:
        """That of the mount."""
        return self.parts.config

    @property
    def engine(self) -> Engine:
        """What is known of the files."""
        return self.parts.engine

    @property
    def residency(self) -> Residency:
        """The RAM tier."""
        return self.parts.residency

    @property
    def pools(self) -> Pools:
        """That of the RAM tier."""
        return self.access_stats.pools

    @property
    def uploads_sealed(self) -> bool:
        """True if each file is to have an object soon after its seal: other nodes may read it."""
        return (
            self.config.metadata.url is not None
            and self.parts.writes
            and self.config.nodes.upload == UPLOAD_SEALED
            and self.parts.remote is not None
        )

    @property
    def store_ready(self) -> bool:
        """True if a store is worth asking, and the quotas of the day leave something to ask."""
        return self.breakers.any_ready and self.quotas.store_refusal() is None

    def is_ready(self, store: str) -> bool:
        """Return whether one store is so."""
        return not self.breakers.of(store).wait_s and self.quotas.store_refusal() is None
