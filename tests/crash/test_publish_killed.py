"""SIGKILL at every step of publishing: memfs knows its own object again, and nobody else's."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.config import PublishConfig
from memfs.moves.faults import PUBLISH_POINTS, FaultPoints
from memfs.moves.outcome import MoveOutcome
from memfs.moves.publishing import TAKEN, Publication
from memfs.stores.s3_publishing import S3PublicStore
from memfs.types import ROOT_INODE
from tests.crash.moves_scenario import KillAt
from tests.moving import SMALL_FRAMES, State, compressible
from tests.processes import in_child, outlived
from tests.servers.process import READY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.seaweedfs import S3Server

CONFIG = replace(SMALL_FRAMES, publish=PublishConfig(delete=True))
FIRST, SECOND = compressible(20_000, 1), compressible(20_000, 2)


async def publish(
    state_dir: Path, server: S3Server, url: str, faults: FaultPoints, content: bytes, *, ends: bool
) -> str:
    """Publish a file; with `ends`, remove the object again. Returns what keeps it from that."""
    state = State(state_dir, CONFIG, faults)
    await state.recovery.begin()
    store = S3PublicStore(url, server.options, 60.0, 4)
    place = Publication(state.parts, store, url)
    try:
        found = await state.engine.find(ROOT_INODE, b"f")
        ino = await state.create("f", content) if found is None else found.ino
        if await state.content(ino) != content:
            await state.rewrite(ino, content)
        result, problem = await place.publish(ino, "f")
        if problem:
            return problem
        assert result.outcome in (MoveOutcome.DONE, MoveOutcome.UNNEEDED)
        if ends:
            known = await state.engine.get_published(place.url_of("f"))
            assert known is not None
            return await place.remove(known)
        assert await state.leaks() == []
        return ""
    finally:
        await store.aclose()
        state.close()


@pytest.mark.parametrize("point", PUBLISH_POINTS)
@pytest.mark.parametrize("had_object", [False, True], ids=["new", "changed"])
@pytest.mark.parametrize("meddled", [False, True], ids=["alone", "meddled"])
def test_a_kill_leaves_an_object_that_is_known_again(
    moto_server: S3Server, tmp_path: Path, point: str, had_object: bool, meddled: bool
) -> None:
    """Unless somebody has written another one since: that stays."""
    state_dir, url = tmp_path / "state", f"s3://{READY}/{tmp_path.name}"
    target = {"Bucket": READY, "Key": f"{tmp_path.name}/f"}

    def live(faults: FaultPoints, content: bytes, *, ends: bool) -> str:
        async def run() -> str:
            return await publish(state_dir, moto_server, url, faults, content, ends=ends)

        return trio.run(run)

    if had_object:
        assert in_child(live, FaultPoints(), FIRST, ends=False) == ""
    ends = point == "publishing.removed"
    ended = outlived(lambda: live(KillAt(point, 1), SECOND, ends=ends))
    assert ended == signal.SIGKILL, f"{point} was never reached"
    with contextlib.closing(moto_server.client()) as client:
        made: Any = client
        if meddled:
            made.put_object(**target, Body=b"theirs")
        problem = in_child(live, FaultPoints(), SECOND, ends=False)
        stored = made.get_object(**target)["Body"].read()
    if meddled and point not in ("publishing.published",):
        assert problem == TAKEN
        assert stored == b"theirs"
    elif meddled:
        # It was whole, and nobody looks before the file changes again.
        assert problem == ""
        assert stored == b"theirs"
    else:
        assert problem == ""
        assert stored == SECOND
