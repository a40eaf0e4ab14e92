"""The file system: what every FUSE request means, free of any protocol.

Invariant: it implements `operations.Operations`; drivers, and the mover beside it, see no other way
to the namespace.
"""

from __future__ import annotations

from memfs.content.sealing import SEALS_A_STEP_MAX
from memfs.filesystem.xattrs import XattrRequests


class Filesystem(XattrRequests):
    """One mounted file system.

    The groups of requests build on each other, a module each: `names` < `writing` < `attributes` <
    `content` < `xattrs`. All run in one thread; none suspends before `caller.detach()`.
    """

    async def recover(self) -> None:
        """Take over what an earlier daemon left; before the first request."""
        await self.reap_left_over()
        await self._sealer.adopt_unsealed()
        await self._sealer.adopt_doubtful()

    async def settle(self) -> bool:
        """Do what follows from requests but need not be waited for: reap, seal, keep access times.

        Called by the mover between two rounds. Every part is bounded.

        Returns:
            True if more is waiting.
        """
        await self.reap()
        sealed_count = await self._sealer.step()
        await self.store_atimes()
        return sealed_count == SEALS_A_STEP_MAX
