"""SIGKILL at every step of publishing: memfs knows its own object again, and nobody else's."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import trio

from memfs.config import PublishConfig
from memfs.metadata.published import PublishProblem
from memfs.moves.faults import PUBLISH_POINTS, FaultPoints
from memfs.moves.outcome import MoveOutcome
from memfs.moves.publish_source import PIECE_BYTES
from memfs.moves.publishing import Publication
from memfs.stores.remote import open_public_store
from memfs.stores.store import PART_BYTES
from memfs.types import ROOT_INODE
from tests.crash.moves_scenario import KillAt
from tests.moving import SMALL_FRAMES, State, compressible
from tests.processes import in_child, outlived
from tests.servers.lying_s3 import running_lying_s3
from tests.servers.process import READY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.lying_s3 import LyingS3
    from tests.servers.seaweedfs import S3Server

CONFIG = replace(SMALL_FRAMES, publish=PublishConfig(delete=True))
FIRST, SECOND = compressible(20_000, 1), compressible(20_000, 2)


async def publish(
    state_dir: Path,
    url: str,
    options: dict[str, object],
    faults: FaultPoints,
    content: bytes,
    *,
    ends: bool = False,
    part_bytes: int = 0,
) -> str:
    """Publish a file; with `ends`, remove the object again. Returns what keeps it from that.

    With `part_bytes` it is sent in parts of so many.
    """
    state = State(state_dir, CONFIG, faults)
    await state.recovery.begin()
    store = open_public_store(url, options, 60.0)
    if part_bytes:
        store.part_bytes = part_bytes  # type: ignore[attr-defined]
    place = Publication(state.parts, store, url, in_parts_above_bytes=part_bytes or PART_BYTES)
    try:
        await place.end_uploads()
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


class There:
    """The object, behind the back of memfs.

    Args:
        url: What it is published below.
        server: Has it; None: it is a file.
    """

    def __init__(self, url: str, server: S3Server | None) -> None:
        self.url = url
        self.options = {} if server is None else server.options
        self._server = server
        self._path = Path(urlsplit(url).path)

    def put(self, data: bytes) -> None:
        if self._server is None:
            (self._path / "new").write_bytes(data)
            (self._path / "new").rename(self._path / "f")
        else:
            self._ask("put_object", Key="f", Body=data)

    def content(self) -> bytes:
        if self._server is None:
            return (self._path / "f").read_bytes()
        found: bytes = self._ask("get_object", Key="f")["Body"].read()
        return found

    def left_over(self) -> list[str]:
        """Return what is there besides the object."""
        if self._server is None:
            return [name for name in os.listdir(self._path) if name != "f"]
        found = self._ask("list_objects_v2", Prefix="").get("Contents", ())
        uploads = self._ask("list_multipart_uploads", Prefix="").get("Uploads", ())
        prefix = self._path.as_posix().strip("/")
        keys = [item["Key"].removeprefix(f"{prefix}/") for item in (*found, *uploads)]
        return [key for key in keys if key != "f"] + ["f" for _ in uploads]

    def _ask(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401  botocore has no types
        assert self._server is not None
        prefix = self._path.as_posix().strip("/")
        for field in arguments.keys() & {"Key", "Prefix"}:
            arguments[field] = f"{prefix}/{arguments[field]}"
        with contextlib.closing(self._server.client()) as client:
            answer = getattr(client, name)(Bucket=READY, **arguments)
            if "Body" in answer:
                answer["Body"] = io.BytesIO(answer["Body"].read())
            return answer


@pytest.fixture
def lying() -> Iterator[LyingS3]:
    with running_lying_s3(READY) as server:
        yield server


CASES = [
    *(
        ("file", point, had, meddled)
        for point in PUBLISH_POINTS
        for had in (0, 1)
        for meddled in (0, 1)
    ),
    # Each needs some dozen requests.
    *(("moto", f"publishing.{point}", 1, meddled) for point in ("stored",) for meddled in (0, 1)),
]


@pytest.mark.parametrize(("kind", "point", "had_object", "meddled"), CASES)
def test_a_kill_leaves_an_object_that_is_known_again(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    point: str,
    had_object: bool,
    meddled: bool,
) -> None:
    """Unless somebody has written another one since: that stays."""
    state_dir = tmp_path / "state"
    if kind == "file":
        (tmp_path / "there").mkdir()
        there = There(f"file://{tmp_path}/there", None)
    else:
        server = request.getfixturevalue("moto_server")
        there = There(f"s3://{READY}/{tmp_path.name}", server)

    def live(faults: FaultPoints, content: bytes, *, ends: bool = False) -> str:
        async def run() -> str:
            return await publish(state_dir, there.url, there.options, faults, content, ends=ends)

        return trio.run(run)

    if had_object:
        assert in_child(live, FaultPoints(), FIRST) == ""
    ends = point == "publishing.removed"
    ended = outlived(lambda: live(KillAt(point, 1), SECOND, ends=ends))
    assert ended == signal.SIGKILL, f"{point} was never reached"
    if meddled:
        there.put(b"theirs")
    problem = in_child(live, FaultPoints(), SECOND)
    if meddled and point != "publishing.published":
        assert problem == PublishProblem.TAKEN
        assert there.content() == b"theirs"
    elif meddled:
        # It was whole, and nobody looks before the file changes again.
        assert problem == ""
        assert there.content() == b"theirs"
    else:
        assert problem == ""
        assert there.content() == SECOND
    assert there.left_over() == []


@pytest.mark.parametrize(
    ("point", "count"),
    [
        ("publishing.begun", 1),
        # Between two rounds of parts.
        ("publishing.piece", 5),
        ("publishing.sent", 1),
        ("publishing.stored", 1),
    ],
)
def test_a_kill_amid_an_upload_in_parts_leaves_none_and_no_half_object(
    lying: LyingS3, tmp_path: Path, point: str, count: int
) -> None:
    """They would be kept, and paid for, for ever; what had the name before is there until then."""
    there = There(f"s3://{READY}/{tmp_path.name}", lying.server)
    former, content = compressible(30_000, 3), os.urandom(7 * PIECE_BYTES)

    def live(faults: FaultPoints, content: bytes) -> str:
        async def run() -> str:
            return await publish(
                *(tmp_path / "state", there.url, there.options, faults, content),
                part_bytes=PIECE_BYTES,
            )

        return trio.run(run)

    assert in_child(live, FaultPoints(), former) == ""
    assert outlived(lambda: live(KillAt(point, count), content)) == signal.SIGKILL
    assert there.content() == (content if point == "publishing.stored" else former)
    parts = [len(data) for upload in lying.uploads.values() for data in upload.parts.values()]
    sent_count = 4 if point in ("publishing.piece", "publishing.sent") else 0
    assert parts == [PIECE_BYTES] * sent_count
    assert in_child(live, FaultPoints(), content) == ""
    assert there.content() == content
    assert there.left_over() == []
