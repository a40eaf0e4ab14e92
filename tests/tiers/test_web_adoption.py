"""A web server is adopted at a mount; files whose headers make no sense hold up no other one."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.mounting import MountError, run_memfs
from tests.posix.capabilities import Capability
from tests.servers.web import WebServer, running_web_server
from tests.tiers.tiering import SMALL_FRAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.any_driver]


def adopt(*words: str | Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run_memfs("adopt", "--json", *words))
    return report


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    """It is there as long as the mount, which compares its files in the end."""
    with running_web_server() as server:
        yield server


@pytest.fixture(scope="module")
def tier_config(web: WebServer) -> str:
    """The mount ends before the server does."""
    assert web.url
    return SMALL_FRAMES


@pytest.mark.expects_log("1 object has no size that can be, deep/odd: left out")
def test_files_of_a_web_server_are_read_where_they_are(place: Path, web: WebServer) -> None:
    large, url = os.urandom(1 << 20), f"{web.url}/{place.name}"
    for key, data in {"a": b"one", "deep/large": large, "deep/odd": b"odd"}.items():
        web.files[f"{place.name}/{key}"] = data
    web.headers[f"{place.name}/deep/odd"] = {"Content-Length": "many"}
    adopt("--lazy", url, place / "lazy")
    assert sorted(os.listdir(place / "lazy")) == ["a", "deep"]
    assert os.listdir(place / "lazy/deep") == ["large"]
    assert (place / "lazy/deep/large").read_bytes() == large
    with pytest.raises(MountError, match="deep/odd: its source tells no size"):
        run_memfs("adopt", url, place / "whole")
    assert sorted(os.listdir(place / "whole/deep")) == ["large"]
    web.headers.clear()
    assert adopt("--refresh", place / "whole")["made_count"] == 1
    assert (place / "whole/deep/odd").read_bytes() == b"odd"
    assert os.getxattr(place / "whole/deep/odd", "user.mime_type") == b"text/csv"
    web.files[f"{place.name}/a"] = b"three"
    # A small one is fetched at its open, which finds out.
    assert (place / "whole/a").read_bytes() == b"three"
    assert adopt("--refresh", place / "lazy")["replaced_count"] == 1
    assert (place / "lazy/a").read_bytes() == b"three"


def test_a_second_directory_with_one_url_is_refused_by_the_name_of_the_first(
    place: Path, tmp_path: Path
) -> None:
    there, url = tmp_path / "there", f"file://{tmp_path}/there"
    there.mkdir()
    for name in ("one", "two"):
        (place / name).mkdir()
        (place / name / "same").write_text(name)
        (place / name / f"of-{name}").write_text(name)
    run_memfs("publish", "--deleted", "remove", place / "one", url)
    with pytest.raises(MountError, match=r"one/same is published there.*--replace"):
        run_memfs("publish", "--deleted", "remove", place / "two", url)
    assert sorted(os.listdir(there)) == ["of-one", "of-two", "same"]
    assert (there / "same").read_text() == "one"
    run_memfs("publish", "--replace", place / "two", url)
    assert (there / "same").read_text() == "two"
    (place / "one/of-one").unlink()
    with pytest.raises(MountError, match="two/same is published there"):
        run_memfs("publish", "--deleted", "remove", place / "one", url)
    assert sorted(os.listdir(there)) == ["of-two", "same"]
