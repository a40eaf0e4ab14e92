"""Single bad answers of an object store: they are asked again, and nobody gets what was wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import GlacierConfig
from memfs.content.forms import FormReader
from memfs.errors import MemfsError, ObjectMissingError, UsageError
from memfs.moves.batching import upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.outcome import MoveOutcome
from memfs.moves.uploading import upload
from memfs.stores.remote import _open_plain, open_remote_store
from memfs.stores.s3 import S3Store
from memfs.stores.settling import SETTLE_S, SettlingStore
from memfs.stores.store import ObjectStat
from memfs.types import FormKind
from tests.moving import State, compressible, incompressible
from tests.servers.lying_s3 import CHECKSUM_HEADER, Lie, LyingS3, running_lying_s3
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo

LIES = [Lie.SHORT, Lie.CUT, Lie.WHOLE, Lie.HTML, Lie.FLIP, Lie.OTHER]
SMALL, LARGE = compressible(30_000), incompressible(1_200_000)
"""Answered from one request, and from several."""


@pytest.fixture(scope="module")
def server() -> Iterator[LyingS3]:
    with running_lying_s3("bucket") as lying:
        yield lying


@pytest.fixture
def lying(server: LyingS3) -> LyingS3:
    server.objects = {"another": incompressible(2_000_000, 9)}
    server.refuses_checksums = False
    assert server.lies_left == 0
    return server


@pytest.fixture
def state(tmp_path: Path, lying: LyingS3) -> Iterator[State]:
    opened = State(tmp_path / "state")
    # Nothing here waits for it: a busy machine alone may.
    config = GlacierConfig(url="s3://bucket/memfs", options=lying.server.options, timeout_s=WAIT_S)
    opened.parts.remote = open_remote_store(config, tmp_path / "unused")
    yield opened
    opened.close()


async def stored(state: State, content: bytes) -> InodeNo:
    ino = await state.create("f", content)
    assert (await upload(state.parts, ino)).outcome == MoveOutcome.DONE
    await drop_raw(state.parts, ino)
    assert await state.forms(ino) == {FormKind.REMOTE}
    return ino


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("lie", LIES)
async def test_one_bad_answer_is_asked_again(
    state: State, lying: LyingS3, lie: Lie, content: bytes
) -> None:
    """At the table, at a frame, and while all is fetched."""
    ino = await stored(state, content)
    assert state.parts.remote is not None
    for _ in range(2):
        reader = FormReader(state.engine, state.packed_store, state.parts.remote, state.raw_store)
        inode = await state.engine.get_inode(ino)
        for offset in (100, len(content) // 2):
            lying.lie("GET", lie)
            assert await reader.read(inode, offset, 9000) == content[offset : offset + 9000]
            lying.forget_lies()
    lying.lie("GET", lie)
    assert await state.content(ino) == content
    assert lying.lies_left == 0


@pytest.mark.parametrize("lie", LIES)
async def test_an_upload_is_not_given_up_for_one_bad_answer(
    state: State, lying: LyingS3, lie: Lie
) -> None:
    ino = await state.create("f", LARGE)
    lying.lie("GET", lie)
    assert (await upload(state.parts, ino)).outcome == MoveOutcome.DONE
    inos = [await state.create(f"{number}", SMALL) for number in range(3)]
    lying.lie("GET", lie)
    results = await upload_batch(state.parts, inos)
    assert {result.outcome for result in results.values()} == {MoveOutcome.DONE}
    assert lying.lies_left == 0
    assert len(lying.objects) == 3, "nothing was uploaded twice"


async def test_a_second_bad_answer_is_an_error(state: State, lying: LyingS3) -> None:
    ino = await stored(state, SMALL)
    lying.lie("GET", Lie.FLIP, times=2)
    with pytest.raises(MemfsError):
        await state.content(ino)
    assert lying.lies_left == 0


async def test_a_new_object_may_come_late(state: State, lying: LyingS3) -> None:
    """It is waited for, and not uploaded again."""
    ino = await state.create("f", SMALL)
    lying.lie("GET", Lie.MISSING, times=2)
    assert (await upload(state.parts, ino)).outcome == MoveOutcome.DONE
    assert lying.lies_left == 0
    assert len(lying.objects) == 2


class LateStore:
    """Shows an object some time after it was stored."""

    url = "late://"

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self._shown_s: dict[str, float] = {}
        self.look_count = 0

    async def put_file(self, key: str, source: object) -> None:
        self._shown_s[key] = trio.current_time() + self._late_s

    put_stream = put_file

    async def stat(self, key: str) -> ObjectStat:
        self.look_count += 1
        if trio.current_time() < self._shown_s.get(key, float("inf")):
            raise ObjectMissingError(key)
        return ObjectStat(key, 1)


@pytest.mark.parametrize("put", ["put_file", "put_stream"])
@pytest.mark.parametrize("late_s", [0.0, 0.05, 1.0, SETTLE_S - 4, SETTLE_S + 1])
async def test_waiting_for_a_new_object_is_bounded(
    tmp_path: Path, put: str, late_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    late = LateStore(late_s)
    store = SettlingStore(late)  # type: ignore[arg-type]  # it has what is called here
    await getattr(store, put)("a", tmp_path)
    begin_s = trio.current_time()
    if late_s <= SETTLE_S:
        assert (await store.stat("a")).size == 1
    else:
        with pytest.raises(ObjectMissingError):
            await store.stat("a")
    assert trio.current_time() - begin_s <= SETTLE_S
    assert late.look_count <= 15
    begin_s = trio.current_time()
    with pytest.raises(ObjectMissingError):
        await store.stat("never stored")
    assert trio.current_time() == begin_s


@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
async def test_a_store_that_refuses_newer_checksums_can_be_used(
    tmp_path: Path, lying: LyingS3, checksums: str
) -> None:
    """By the switch, and by itself when the error names the header; time-outs stay."""
    lying.refuses_checksums = True
    lying.headers.clear()
    config = GlacierConfig(
        url="s3://bucket/memfs",
        options={**lying.server.options, "config_kwargs": {"max_pool_connections": 7}},
        timeout_s=9.0,
        checksums=checksums,
    )
    store = open_remote_store(config, tmp_path / "unused")
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    for key in ("a", "b"):
        await store.put_file(key, source)
        assert await store.get_range(key, 5, 10) == LARGE[5:10]
    refused = [
        operation
        for operation, headers in lying.headers
        if CHECKSUM_HEADER in headers or "x-amz-trailer" in headers
    ]
    assert len(refused) == (1 if checksums == "when_supported" else 0)
    plain = _open_plain(config, tmp_path)
    assert isinstance(plain, S3Store)
    plain._do_without_checksums()
    plain._fs.connect()
    settings = plain._fs._s3.meta.config
    assert (settings.read_timeout, settings.connect_timeout) == (9.0, 9.0)
    assert settings.retries["total_max_attempts"] == 1
    assert settings.max_pool_connections == 7
    assert settings.request_checksum_calculation == "when_required"
    for opened in (store, plain):
        await opened.aclose()


def test_an_unknown_switch_is_refused(tmp_path: Path, lying: LyingS3) -> None:
    config = GlacierConfig(url="s3://bucket/x", options=lying.server.options, checksums="never")
    with pytest.raises(UsageError, match="no 'never'"):
        open_remote_store(config, tmp_path)
