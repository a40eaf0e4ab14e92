"""Publishing without credentials: the first message names them and where they are to be written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.errors import InvalidValueError
from memfs.jobs.publishing import Places, PublishMethods
from memfs.moves.publish_uploads import list_uploads
from memfs.placement.quotas import Quotas
from memfs.stores.gcs_publishing import GcsPublicStore
from memfs.stores.remote import open_public_store
from memfs.stores.s3_publishing import S3PublicStore
from memfs.types import ROOT_INODE
from tests.moving import SMALL_FRAMES, State
from tests.servers.fake_gcs import GcsServer, find_fake_gcs
from tests.servers.guarded_gcs import running_guarded_gcs
from tests.servers.lying_s3 import LyingS3, running_lying_s3
from tests.servers.process import READY
from tests.servers.seaweedfs import ACCESS_KEY, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from memfs.stores.publishing import PublicStore

TIMEOUT_S = 60.0
PLACE = r"the options of the store in the same bucket, \[glacier\] or \[stores\.NAME\]"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither in the environment, nor in a file, nor from a machine of a cloud."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "NO_GCE_CHECK": "true",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)


class Publisher:
    """A state with a file, and what publishes it."""

    def __init__(self, directory: Path) -> None:
        self.state = State(directory / "state", SMALL_FRAMES)
        self.open: Callable[[str, Mapping[str, object], float], PublicStore] = open_public_store
        self.places = Places(self.state.parts, {}, lambda *each: self.open(*each))
        quotas = Quotas(self.state.config.quotas, self.state.engine)
        self.methods = PublishMethods(self.state.parts, quotas, self.places)

    async def publish(self, url: str) -> tuple[str, str]:
        """Return the outcome of a file, and why."""
        name = f"f{self.state.engine.reserve_ids()[0]}"
        ino = await self.state.create(name, name.encode())
        report = await self.methods.publish([int(ino)], int(ROOT_INODE), url)
        [outcome] = report["outcomes"]
        return outcome, "".join(reason for _, reason in report["left"].values())


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[Publisher]:
    made = Publisher(tmp_path)
    yield made
    await made.places.aclose()
    made.state.close()


@pytest.fixture
def bucket() -> Iterator[LyingS3]:
    with running_lying_s3("bucket") as server:
        yield server


async def test_s3_names_keys_and_their_places_and_goes_on_when_they_come(
    publisher: Publisher, bucket: LyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tried in vain is recorded once, and gone afterwards."""
    options = {"endpoint_url": bucket.server.endpoint_url}
    publisher.open = lambda url, _options, timeout_s: S3PublicStore(
        url, options, timeout_s, 4, renew_pause_s=0.0
    )
    for _ in range(3):
        _, reason = await publisher.publish("s3://bucket/x")
        assert "Unable to locate credentials; set key and secret in the options of" in reason
        assert "AWS_ACCESS_KEY_ID" in reason
        assert len(await list_uploads(publisher.state.engine)) == 1
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    outcomes = [(await publisher.publish("s3://bucket/x"))[0] for _ in range(2)]
    assert outcomes[-1] == "done"
    assert await list_uploads(publisher.state.engine) == []
    assert all(".memfs-trial" not in key for key in bucket.objects)


@pytest.mark.skipif(find_fake_gcs() is None, reason="fake-gcs-server is not installed")
async def test_google_names_a_token_and_its_places(
    publisher: Publisher, gcs_server: GcsServer
) -> None:
    with running_guarded_gcs(gcs_server) as guarded:
        options = {"endpoint_url": guarded.endpoint_url, "project": "tests"}
        publisher.open = lambda url, _options, timeout_s: GcsPublicStore(url, options, timeout_s, 4)
        for _ in range(2):
            _, reason = await publisher.publish(f"gs://{READY}/x")
            assert "401; set token in the options of the store" in reason
            assert "GOOGLE_APPLICATION_CREDENTIALS" in reason
        await publisher.places.aclose()


async def test_azure_names_the_account_and_its_places(publisher: Publisher) -> None:
    with pytest.raises(InvalidValueError, match=rf"^az://cont/x: .*account_name.*{PLACE}"):
        await publisher.publish("az://cont/x")
