"""Questions to a mount as users ask them: by the command, and from Python."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memfs.client.mount import Mount as Client
from memfs.control.client import ControlError, ControlUnavailableError, call_door
from memfs.filesystem.querying import HINT_COUNT_MAX
from tests import documents
from tests.mounting import MountError, run_memfs
from tests.processes import ALICE, ALICE_IN_TEAM, TEAM_GID, run_as
from tests.tiers.tiering import pin, told
from tests.waiting import wait_for

if TYPE_CHECKING:
    from memfs.control.methods.queries import QueryReport
    from tests.conftest import MountFactory
    from tests.mounting import Mount

CONFIG = '[policy]\ninterval = "100ms"\n'


@pytest.fixture
def mount(mount_factory: MountFactory, driver: str) -> Mount:
    return mount_factory(driver=driver, config=CONFIG)


def write(path: Path, content: bytes = b"x", **tags: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    for name, value in tags.items():
        os.setxattr(path, f"user.{name}", str(value).encode())
    return path


def ask(mount: Mount, filter_: object, *options: str) -> list[str]:
    """Return paths from the root of the mount, by name where they are not sorted.

    Numbers of inodes are taken ahead, so that their order is not that of creation.
    """
    lines = run_memfs("query", mount.root, json.dumps(filter_), *options).splitlines()
    paths = [os.path.relpath(line, mount.root) for line in lines]
    return paths if "--sort" in options else sorted(paths)


def shown_json(mount: Mount, filter_: object, *options: str) -> list[dict[str, Any]]:
    told = run_memfs("query", mount.root, json.dumps(filter_), "--json", *options)
    return [json.loads(line) for line in told.splitlines()]


def test_files_are_found_by_what_was_just_set(mount: Mount) -> None:
    """The words of the seed of this project: a place, and a date from which on."""
    root = mount.root
    write(root / "a/one", location="San Francisco", date="2025-02-15", source="sentinel-2")
    write(root / "a/two", location="San Francisco", date="2024-12-31")
    write(root / "three", location="Ulm", date="2025-03-01")
    wanted = {"location": "San Francisco", "date": {"$gte": "2025-01-01"}}
    assert ask(mount, wanted) == ["a/one"]
    os.setxattr(root / "a/two", "user.date", b"2025-01-01")
    assert ask(mount, wanted) == ["a/one", "a/two"]
    (root / "a/two").rename(root / "moved")
    os.removexattr(root / "a/one", "user.date")
    assert ask(mount, wanted) == ["moved"]
    (root / "moved").unlink()
    assert ask(mount, wanted) == []
    assert ask(mount, {"location": {"$regex": "^San"}}) == ["a/one"]
    assert ask(mount, {"location": {"$exists": True}}, "--sort", "-location") == ["three", "a/one"]


@pytest.mark.any_driver
def test_every_way_to_show_the_found(mount: Mount) -> None:
    for number in range(5):
        write(mount.root / f"file {number}", b"x" * number, number=number, odd=number % 2)
    found = {"number": {"$exists": True}}
    assert run_memfs("query", mount.root, json.dumps(found), "--count") == "5\n"
    assert ask(mount, found, "--sort", "-number", "--limit", "2") == ["file 4", "file 3"]
    [shown] = shown_json(mount, {"number": 3})
    assert shown["path"] == str(mount.root / "file 3")
    assert shown["attributes"] == {"number": "3", "odd": "1"}
    assert shown["ino"] == (mount.root / "file 3").stat().st_ino
    memfs = Path(sys.executable).with_name("memfs")
    stream = subprocess.check_output(
        [memfs, "query", mount.root, json.dumps(found), "--arrow", "--sort", "number"]
    )
    rows = pa.ipc.open_stream(stream).read_all().to_pylist()
    assert [row["path"] for row in rows] == [f"{mount.root}/file {number}" for number in range(5)]
    assert [row["size"] for row in rows] == [0, 1, 2, 3, 4]
    assert dict(rows[3]["xattrs"]) == {"number": "3", "odd": "1"}
    paths = run_memfs("query", mount.root, '{"odd": 1}', "--paths0", "--sort", "number")
    assert paths == "".join(f"{mount.root}/file {number}\0" for number in (1, 3))
    told = run_memfs("query", mount.root, '{"odd": 1}', "--explain")
    assert told.startswith("led by: the index of user.odd\nfound: by the daemon itself")
    told = run_memfs("query", mount.root, '{"odd": {"$regex": "x"}}', "--explain")
    assert "found: by the reader process" in told


@pytest.mark.any_driver
def test_what_memfs_knows_is_asked_for_as_well(mount: Mount) -> None:
    root = mount.root
    cold = write(root / "old/cold.bin", b"c" * 5000, kind="scan")
    write(root / "new/warm.bin", b"w" * 100, kind="scan")
    pin(cold, "glacier")
    wait_for(lambda: told(cold, "tier") == "glacier", lambda: told(cold, "why"))
    assert ask(mount, {"kind": "scan", "$tier": "glacier"}) == ["old/cold.bin"]
    assert ask(mount, {"kind": "scan", "$pin": "auto"}) == ["new/warm.bin"]
    assert ask(mount, {"$path": "old/**", "$state": "remote"}) == ["old/cold.bin"]
    assert ask(mount, {"$size": {"$gte": 5000}, "$path": "*.bin"}) == ["old/cold.bin"]
    assert ask(mount, {"$digest": told(cold, "digest")}) == ["old/cold.bin"]
    assert ask(mount, {"$not": {"$tier": "glacier"}, "kind": "scan"}) == ["new/warm.bin"]
    assert ask(mount, {"$tier": "glacier", "kind": {"$regex": "^s"}}) == ["old/cold.bin"]
    told_count = run_memfs("query", root, '{"$not": {"$tier": "glacier"}}', "--count")
    assert told_count == "4\n"
    assert run_memfs("query", root, "{}", "--count") == "5\n"


def test_a_user_finds_what_find_and_getfattr_find(mount: Mount) -> None:
    """Counts, pages and notes included; the control socket is not for users."""
    root = mount.root
    for directory, mode in (("all", 0o755), ("team", 0o750), ("shut", 0o700), ("blind", 0o711)):
        write(root / directory / "file", kind="scan", owner=directory)
        (root / directory).chmod(mode)
        os.chown(root / directory, 0, TEAM_GID)
    write(root / "all/unread", kind="scan").chmod(0o600)
    os.link(root / "shut/file", root / "all/twice")
    write(root / "shut/only", hidden=1)
    client = Client.of(root)

    def ask_as_user(
        filter_: object,
        limit: int = 1000,
        token: str | None = None,
        *,
        names: bool = True,
        attributes: bool = False,
    ) -> tuple[list[str], QueryReport]:
        page = client.query(
            json.dumps(filter_), limit=limit, token=token, names=names, attributes=attributes
        )
        return sorted(file["path"] for file in page["files"]), page

    scans = {"kind": "scan"}
    found, page = run_as(ALICE, ask_as_user, scans, attributes=True)
    assert found == ["all/file", "all/twice"]
    assert (page["count"], page["driver"], page["place"]) == (2, "", "reader")
    owners = [(file["attributes"] or {})["owner"] for file in page["files"]]
    assert sorted(owners) == ["all", "shut"]
    assert run_as(ALICE_IN_TEAM, ask_as_user, scans)[0] == ["all/file", "all/twice", "team/file"]
    # What cannot be read is found by no negation either.
    assert run_as(ALICE, ask_as_user, {"$not": scans})[0] == ["", "all"]
    seen = ["", "all", "all/file", "all/twice", "all/unread", "blind", "shut", "team"]
    assert run_as(ALICE, ask_as_user, {})[0] == seen
    assert run_as(ALICE, ask_as_user, {"$path": "shut/*"})[0] == []
    assert run_as(ALICE, ask_as_user, {"$tier": {"$in": ["warm", "cold"]}})[0] == found
    _, page = run_as(ALICE, ask_as_user, {"hiden": 1}, names=False)
    assert (page["count"], page["notes"], page["token"]) == (0, [], None)
    first, page = run_as(ALICE, ask_as_user, scans, limit=1)
    second, page = run_as(ALICE, ask_as_user, scans, limit=1, token=page["token"])
    assert sorted(first + second) == found
    with pytest.raises(ControlUnavailableError):
        run_as(ALICE, client.query_index)
    root.chmod(0o711)
    with pytest.raises(ControlUnavailableError):
        run_as(ALICE, ask_as_user, scans)


def test_a_ticket_is_for_the_user_who_read_it_and_good_once(mount: Mount) -> None:
    root = mount.root
    told = json.loads(os.getxattr(root, "user.memfs.ask"))
    write(root / "f")
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(root / "f", "user.memfs.ask")
    params = {"filter": "{}", "ticket": told["token"]}

    def call_as_user(params: dict[str, Any]) -> int:
        answer = call_door(told["socket"], mount.state, "query_as_user", params)
        assert isinstance(answer, dict)
        assert isinstance(answer["count"], int)
        return answer["count"]

    with pytest.raises(ControlError, match="the token is of user 0, not of"):
        run_as(ALICE, call_as_user, params)
    # Root is nothing special there: a container's root may lack the right to read all.
    assert call_as_user(params) == 2
    with pytest.raises(ControlError, match="was used before"):
        call_as_user(params)
    with pytest.raises(ControlError, match="not a token of this mount"):
        call_as_user({**params, "ticket": "forged"})
    with pytest.raises(ControlError, match="there is no method"):
        call_door(told["socket"], mount.state, "status", {})


def test_a_snapshot_is_asked_for_what_was_then(mount: Mount) -> None:
    root = mount.root
    write(root / "a/kept", kind="scan", date="2025-01-01")
    write(root / "a/gone", kind="scan")
    run_memfs("snapshot", "create", "monday", "--mount", root)
    os.setxattr(root / "a/kept", "user.kind", b"map")
    (root / "a/gone").unlink()
    (root / "a").rename(root / "b")
    write(root / "b/new", kind="scan")
    assert ask(mount, {"kind": "scan"}) == ["b/new"]
    # Now another file has the name of then.
    write(root / "a/kept", b"another")
    past = ".memfs/snapshots/monday"
    found = ask(mount, {"kind": "scan"}, "--at", "monday")
    assert found == [f"{past}/a/gone", f"{past}/a/kept"]
    assert [(root / path).read_bytes() for path in found] == [b"x", b"x"]
    told = run_memfs("query", root, '{"kind": "scan"}', "--at", "monday", "--paths0")
    assert sorted(told.split("\0")) == ["", *(f"{root}/{path}" for path in found)]
    assert ask(mount, {"kind": "map"}, "--at", "monday") == []
    [shown] = shown_json(mount, {"date": {"$gte": "2025"}}, "--at", "monday")
    assert shown["path"] == f"{root}/{past}/a/kept"
    assert shown["attributes"] == {"kind": "scan", "date": "2025-01-01"}
    counted = run_memfs("query", root, '{"$path": "a/*"}', "--at", "monday", "--count")
    assert counted == "2\n"
    with pytest.raises(MountError, match=r"a snapshot does not know \$tier"):
        ask(mount, {"$tier": "warm"}, "--at", "monday")
    with pytest.raises(MountError, match="there is no snapshot 'sunday'"):
        ask(mount, {}, "--at", "sunday")


@pytest.mark.any_driver
def test_a_mistake_is_told_with_its_place(mount: Mount) -> None:
    with pytest.raises(MountError, match=r"at a\.\$gtt \(line 1, column 8\): unknown operator"):
        ask(mount, {"a": {"$gtt": 1}})
    with pytest.raises(MountError, match=r"not JSON: .*; a filter looks like"):
        run_memfs("query", mount.root, "odd")
    with pytest.raises(MountError, match=r"not JSON: [^;]*$"):
        run_memfs("query", mount.root, "{a: 1}")
    with pytest.raises(MountError, match=r"\$regex cannot be in one \$or or \$not with \$tier"):
        ask(mount, {"$or": [{"$tier": "hot"}, {"a": {"$regex": "(a+)+$"}}]})
    with pytest.raises(MountError, match=r"'\$tier' cannot be sorted by"):
        ask(mount, {}, "--sort", "$tier")
    write(mount.root / "f", location="Ulm")
    told = run_memfs("query", mount.root, '{"lcoation": "Ulm"}', "--explain")
    assert "note: no file has the xattr user.lcoation: did you mean user.location?" in told


@pytest.mark.any_driver
def test_a_mount_is_an_argument_an_option_or_around(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rule for all commands about a whole mount; the former ways to write it still hold."""
    found = write(mount.root / "d" / "a", note="ships at sea")
    filter_ = '{"note": {"$exists": true}}'
    inside = found.parent
    for options in (("--mount", inside), ("--mount", mount.root)):
        assert run_memfs("query", *options, filter_) == f"{found}\n"
        assert run_memfs("query", *options, "--text", "A") == f"{found}\n"
        assert "xattrs: complete" in run_memfs("index", "list", *options)
    run_memfs("index", "add", "--mount", inside, "size", "$mtime")
    monkeypatch.chdir(inside)
    assert run_memfs("query", filter_) == f"{found}\n"
    run_memfs("index", "add", "--text", "note")
    run_memfs("index", "drop", "mtime")
    listed = run_memfs("index", "list")
    assert listed == run_memfs("index", "list", mount.root)
    assert "$size: complete" in listed
    assert "texts of user.note: complete" in listed
    assert "$mtime" not in listed
    run_memfs("index", "drop", ".." + os.sep, "size")
    run_memfs("index", "drop", mount.root, "--text", "note")
    assert "complete" not in run_memfs("index", "list").replace("xattrs: complete", "")
    assert json.loads(run_memfs("catalog", "--ncdu"))[3][0]["name"] == os.fspath(mount.root)
    for words in (("query", mount.root, filter_), ("index", "list", mount.root)):
        with pytest.raises(MountError, match="name the mount once"):
            run_memfs(*words, "--mount", mount.root)
    with pytest.raises(MountError, match="single quotes"):
        run_memfs("query", mount.root, "{", "}")
    with pytest.raises(MountError, match=r"Missing argument 'FIELD\.\.\.'"):
        run_memfs("index", "add", mount.root)
    with pytest.raises(MountError, match="it lies in the mount"):
        run_memfs("index", "add", inside, "size")


def test_python_asks_page_by_page(mount: Mount) -> None:
    for number in range(7):
        write(mount.root / f"f{number}", number=number)
    client = Client.of(mount.root)
    page = client.query({"number": {"$gte": 0}}, limit=3, attributes=True)
    found = [file["path"] for file in page["files"]]
    while page["token"] is not None:
        page = client.query({"number": {"$gte": 0}}, limit=3, token=page["token"])
        found += [file["path"] for file in page["files"]]
    assert found == [f"f{number}" for number in range(7)]
    page = client.query({"nmuber": 1})
    assert page["notes"] == ["no file has the xattr user.nmuber: did you mean user.number?"]
    # The nearest of many names is not found at once, so not for each of many.
    hints = client.query({f"nmuber{index}": 1 for index in range(9)})["notes"]
    assert (len(hints), sum("did you mean" in hint for hint in hints)) == (9, HINT_COUNT_MAX)
    first = client.query({"number": {"$gte": 0}}, limit=3)
    with pytest.raises(ControlError, match="the token is of another query") as refused:
        client.query({"number": 1}, token=first["token"])
    assert refused.value.errno == errno.EINVAL
    assert first["token"] is not None
    mark, driver, *_ = json.loads(base64.urlsafe_b64decode(first["token"]))
    for forged in ([mark, driver, 0, 10**30, 1], [mark, driver, 0, None, 1 << 63]):
        token = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode()
        with pytest.raises(ControlError, match="the token is damaged"):
            client.query({"number": {"$gte": 0}}, limit=3, token=token)
    index = client.query_index()
    assert index["index"].is_whole
    assert index["names"] == ["user.number"]


@pytest.mark.any_driver
def test_an_index_that_is_switched_on_later_finds_what_was_there(
    mount_factory: MountFactory, driver: str
) -> None:
    mount = mount_factory(driver=driver, config="[query]\nenabled = false\n")
    for number in range(20):
        write(mount.root / f"f{number}", number=number)
    with pytest.raises(MountError, match=r"not indexed on this mount: set query\.enabled"):
        ask(mount, {"number": 3})
    mount.stop()
    mount.config = CONFIG
    mount.start()
    client = Client.of(mount.root)
    wait_for(lambda: client.query_index()["index"].is_whole, client.query_index)
    assert ask(mount, {"number": 3}) == ["f3"]
    assert run_memfs("index", "list", mount.root) == "user.number\nxattrs: complete\n"
    report = json.loads(run_memfs("index", "list", "--json", mount.root))
    assert (report["names"], report["index"]["is_whole"]) == (["user.number"], True)


@pytest.mark.any_driver
def test_files_are_found_by_words_of_their_names(mount: Mount) -> None:
    for name in ("holidays/Ulm 2024.tif", "holidays/Bonn.tif", "HOLIDAY.txt", "other.txt"):
        write(mount.root / name, kind=Path(name).suffix)

    def find(words: str, *options: str) -> list[str]:
        lines = run_memfs("query", mount.root, "--text", words, *options).splitlines()
        return sorted(os.path.relpath(line, mount.root) for line in lines)

    assert find("holiday") == ["HOLIDAY.txt", "holidays"]
    assert run_memfs("query", mount.root, "--text", "ulm", "--explain").startswith(
        "led by: the dir"
    )
    run_memfs("index", "add", mount.root, "name")
    assert find("holiday") == ["HOLIDAY.txt", "holidays"]
    assert find("2024 ULM") == ["holidays/Ulm 2024.tif"]
    led = "led by: the index of $name"
    assert run_memfs("query", mount.root, "--text", "ulm", "--explain").startswith(led)
    (mount.root / "other.txt").rename(mount.root / "my holiday.txt")
    (mount.root / "HOLIDAY.txt").unlink()
    write(mount.root / "holidays/new holiday")
    assert find("holiday") == ["holidays", "holidays/new holiday", "my holiday.txt"]
    lines = run_memfs("query", mount.root, '{"kind": ".txt"}', "--text", "holiday").splitlines()
    assert lines == [f"{mount.root}/my holiday.txt"]
    mount.kill()
    mount.start()
    assert find("holiday") == ["holidays", "holidays/new holiday", "my holiday.txt"]
    run_memfs("index", "drop", mount.root, "name")
    assert find("holiday") == ["holidays", "holidays/new holiday", "my holiday.txt"]
    with pytest.raises(MountError, match=r"expected a word at least"):
        find(" ")


@pytest.mark.any_driver
def test_an_index_of_sizes_is_added_and_dropped(mount: Mount) -> None:
    for number in range(9):
        write(mount.root / f"f{number}", b"x" * number)
    large = {"$size": {"$gt": 6}, "$path": "f*"}
    run_memfs("index", "add", mount.root, "size", "$mtime")
    listed = run_memfs("index", "list", mount.root)
    assert listed == "$mtime: complete\n$size: complete\nxattrs: complete\n"
    # A size is known once the file is closed, which the kernel tells a moment later.
    wait_for(lambda: ask(mount, large) == ["f7", "f8"], "two large files")
    told = run_memfs("query", mount.root, json.dumps(large), "--explain")
    assert told.startswith("led by: the index of $size\n")
    told = run_memfs("query", mount.root, '{"$path": "f*"}', "--sort", "-$mtime", "--explain")
    assert told.startswith("led by: the index of $mtime\n")
    mount.stop()
    mount.start()
    write(mount.root / "f6", b"xxxxxxxxxxxx")
    wait_for(lambda: ask(mount, large, "--sort", "$size") == ["f7", "f8", "f6"], "the third one")
    run_memfs("index", "drop", mount.root, "size")
    report = json.loads(run_memfs("index", "list", "--json", mount.root))
    assert [(each["field"], each["state"]) for each in report["fields"]] == [("$mtime", "whole")]
    told = run_memfs("query", mount.root, json.dumps(large), "--explain")
    assert told.startswith("led by: the directories, one after the other\n")
    with pytest.raises(
        MountError, match=r"\$tier cannot have an index: \$size, \$mtime, \$name can"
    ):
        run_memfs("index", "add", mount.root, "tier")


@pytest.mark.any_driver
def test_files_are_found_by_the_texts_of_an_xattr(mount: Mount) -> None:
    for number in range(30):
        write(mount.root / f"f{number}", note=f"picture {number}x of the harbour")
    write(mount.root / "g", note='["K\\u00f6ln", "harbour"]')
    with pytest.raises(MountError, match=r"user\.note: xattrs are indexed as they are set; --text"):
        run_memfs("index", "add", mount.root, "user.note")
    run_memfs("index", "add", mount.root, "--text", "note", "$name")
    listed = run_memfs("index", "list", mount.root)
    assert listed.startswith("$name: complete\ntexts of user.note: complete\n")
    led = "led by: the index of texts of user.note\n"
    some = {"note": {"$contains": "ture 7x"}}

    def explained(filter_: object) -> str:
        return run_memfs("query", mount.root, json.dumps(filter_), "--explain")

    assert ask(mount, some) == ["f7"]
    assert explained(some).startswith(led)
    # A pattern is looked at in a process of its own, which reads the tables.
    pattern = {"note": {"$regex": "ture 1[23]x .*bour$"}}
    assert ask(mount, pattern) == ["f12", "f13"]
    assert explained({"note": {"$regex": "ture 12x"}}).startswith(led)
    assert ask(mount, {"note": {"$text": "KÖLN"}}) == ["g"]
    write(mount.root / "f8", note="picture 7x, a copy")
    (mount.root / "f7").rename(mount.root / "h7")
    mount.kill()
    mount.start()
    assert ask(mount, some) == ["f8", "h7"]
    assert explained(some).startswith(led)
    run_memfs("snapshot", "create", "then", "--mount", mount.root)
    run_memfs("clone", mount.root / "h7", mount.root / "cloned")
    assert ask(mount, some) == ["cloned", "f8", "h7"]
    for name in ("f8", "cloned", "h7"):
        os.removexattr(mount.root / name, "user.note")
    assert ask(mount, some) == []
    past = ".memfs/snapshots/then"
    assert ask(mount, some, "--at", "then") == [f"{past}/f8", f"{past}/h7"]
    run_memfs("snapshot", "restore", f"{mount.root / 'h7'}@then")
    assert ask(mount, some) == ["h7"]
    assert explained(some).startswith(led)
    (mount.root / "h7").unlink()
    assert ask(mount, some) == []
    run_memfs("index", "drop", mount.root, "user.note", "$name")
    assert json.loads(run_memfs("index", "list", "--json", mount.root))["fields"] == []
    assert not explained(some).startswith(led)
    with pytest.raises(MountError, match=r"texts of user\.note have no index"):
        run_memfs("index", "drop", mount.root, "--text", "note")


@pytest.mark.any_driver
def test_tags_are_set_by_words_trees_and_tables(mount: Mount, tmp_path: Path) -> None:
    root = mount.root
    for name in ("scans/a.tif", "scans/deep/b.tif", "c=d.tif"):
        write(root / name)
    run_memfs("tag", root / "scans/a.tif", "city=Ulm", "user.note=x = y")
    assert os.getxattr(root / "scans/a.tif", "user.note") == b"x = y"
    run_memfs("tag", "-r", root / "scans", "source=sentinel-2")
    tagged = ask(mount, {"source": "sentinel-2"})
    assert tagged == ["scans", "scans/a.tif", "scans/deep", "scans/deep/b.tif"]
    run_memfs("tag", "--remove", "city", "--remove", "gone", root / "scans/a.tif")
    assert ask(mount, {"city": {"$exists": True}}) == []
    run_memfs("tag", root / "c=d.tif", "city=Bonn")
    table = tmp_path / "tags.csv"
    table.write_text("city,path,cloud\nUlm,scans/a.tif,3.5\n,scans/deep/b.tif,7\n")
    assert run_memfs("tag", "--csv", table, "--base", root) == "2 files tagged\n"
    assert ask(mount, {"city": "Ulm", "cloud": {"$lt": 5}}) == ["scans/a.tif"]
    assert ask(mount, {"cloud": {"$gt": 5}}) == ["scans/deep/b.tif"]
    with pytest.raises(MountError, match=r"1 file tagged, 1 not|missing"):
        run_memfs("tag", root / "missing", root / "c=d.tif", "city=Köln")
    assert ask(mount, {"city": "Köln"}) == ["c=d.tif"]
    with pytest.raises(MountError, match=r"'memfs\.tier' cannot be the name of a tag"):
        run_memfs("tag", root / "c=d.tif", "memfs.tier=hot")
    with pytest.raises(MountError, match="does not lie in a mount of memfs"):
        run_memfs("tag", tmp_path, "city=Ulm")


@pytest.mark.any_driver
def test_tags_are_taken_from_parquet(mount: Mount, tmp_path: Path) -> None:
    """Each value as queries compare it."""
    root = mount.root
    for name in ("one", "two"):
        write(root / name)
    moment = datetime(2025, 2, 15, 7, tzinfo=UTC)
    columns = {
        "path": ["one", "two"],
        "cloud": [3.5, None],
        "count": [7, 8],
        "done": [True, False],
        "at": [moment, moment],
        "day": [date(2025, 2, 15), None],
        "place": ["Köln", ""],
        "bands": [["B4", "B8"], []],
    }
    table = tmp_path / "tags.parquet"
    pq.write_table(pa.table(columns), table)
    assert run_memfs("tag", "--from", table, "--base", root) == "2 files tagged\n"
    tags = [name for name in columns if name != "path"]
    told = {name: os.getxattr(root / "one", f"user.{name}").decode() for name in tags}
    assert told == {
        "cloud": "3.5",
        "count": "7",
        "done": "true",
        "at": "2025-02-15T07:00:00+00:00",
        "day": "2025-02-15",
        "place": "Köln",
        "bands": '["B4", "B8"]',
    }
    assert sorted(os.listxattr(root / "two")) == [
        f"user.{name}" for name in ("at", "bands", "count", "done", "place")
    ]
    assert ask(mount, {"at": "2025-02-15T08:00:00+01:00", "count": {"$gt": 7}}) == ["two"]
    pq.write_table(pa.table({"name": ["one"]}), table)
    with pytest.raises(MountError, match="no column `path`"):
        run_memfs("tag", "--from", table)
    table.write_bytes(b"no table")
    with pytest.raises(MountError, match="cannot be read"):
        run_memfs("tag", "--from", table)


@pytest.mark.any_driver
def test_ncdu_reads_a_catalogue(mount: Mount) -> None:
    """The program itself, which writes what it has read."""
    root = mount.root
    write(root / "a/deep/one", b"x" * 5000)
    write(root / "a/two", b"x" * 100)
    os.link(root / "a/two", root / "link")
    os.symlink("a/two", root / "sym")
    (root / os.fsdecode(b'odd\xff "name"')).write_bytes(b"")
    text = subprocess.check_output(
        [Path(sys.executable).with_name("memfs"), "catalog", root, "--ncdu"]
    )
    done = subprocess.run(["ncdu", "-0", "-f-", "-o-"], input=text, check=True, capture_output=True)
    for content in (text, done.stdout):
        shown = json.loads(content.decode("utf-8", "surrogateescape"))
        tree = names_of(shown[3])
        assert tree == {
            str(root): {
                "a": {"deep": {"one": 5000}, "two": 100},
                "link": 100,
                "sym": 5,
                os.fsdecode(b'odd\xff "name"'): 0,
            }
        }


def names_of(shown: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return directories as dicts, and the sizes of files."""
    if isinstance(shown, dict):
        return {shown["name"]: shown.get("asize", 0)}
    below: dict[str, Any] = {}
    for each in shown[1:]:
        below |= names_of(each)
    return {shown[0]["name"]: below}


@pytest.mark.any_driver
def test_the_guide_says_what_happens(mount: Mount, tmp_path: Path) -> None:
    """Each command of its consoles, one after the other, prints what stands below it."""
    text = (documents.ROOT / "docs/guide/query.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    entries = [entry for block in blocks for entry in block.split("$ ")[1:]]
    # The dollars of filters are in the lines of commands, not at their beginning.
    assert "".join(f"$ {entry}" for entry in entries) == "".join(blocks)
    asked = 0
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for entry in entries:
        command, _, expected = entry.replace("/mnt/data", str(mount.root)).partition("\n")
        done = subprocess.run(
            command,
            shell=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
        )
        assert done.stdout == expected, command
        asked += 1
    assert asked > 10
    codes = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    printed = [
        subprocess.check_output(
            [sys.executable, "-c", code.replace("/mnt/data", str(mount.root))],
            text=True,
            cwd=tmp_path,
        )
        for code in codes
    ]
    assert printed == [
        f"{mount.root}/scans/2025/one.tif 3.5\n{mount.root}/scans/2025/two.tif 40\n",
        "scans/2025/one.tif San Francisco\n",
        " directory None\nscans directory None\nscans/2025 directory None\n"
        "scans/2025/one.tif file Oakland\nscans/2025/two.tif file None\n",
    ]


@pytest.mark.any_driver
def test_a_catalogue_has_every_name_as_it_is(mount: Mount, tmp_path: Path) -> None:
    root = mount.root
    first = write(root / "a/one", b"x" * 100, city="Ulm", number=7)
    os.setxattr(first, "user.raw", b"\xff")
    os.link(first, root / "two")
    os.symlink("a/one", root / "link")
    (root / os.fsdecode(b"odd\xff")).write_bytes(b"")
    other = write(root / "a/three", b"x", city="Bonn")
    gone = write(root / "gone", b"x", city="Rome")
    held = gone.open("rb")
    gone.unlink()
    pin(first, "glacier")
    wait_for(lambda: told(first, "tier") == "glacier", lambda: told(first, "why"))
    file = tmp_path / "catalog.parquet"
    assert run_memfs("catalog", root, "--parquet", file).endswith(f"{file}: 7 names\n")
    held.close()
    rows = {row["path"]: row for row in pq.read_table(file).to_pylist()}
    assert rows.keys() == {"", "a", "a/one", "a/three", "two", "link", "odd\\xff"}
    assert dict(rows["a/three"]["xattrs"]) == {"city": "Bonn"}
    assert rows["a/three"]["ino"] == other.stat().st_ino
    for path in ("a/one", "two"):
        row = rows[path]
        assert dict(row["xattrs"]) == {"city": "Ulm", "number": "7", "raw": "\\xff"}
        assert (row["ino"], row["nlink"], row["size"]) == (first.stat().st_ino, 2, 100)
        assert (row["has_raw"], row["has_remote"]) == (False, True)
        assert row["digest"] == told(first, "digest")
        assert row["mtime"].value == first.stat().st_mtime_ns
    assert (rows["link"]["type"], rows["link"]["target"]) == ("symlink", "a/one")
    assert rows[""]["type"] == "directory"
    assert os.listdir(tmp_path) == ["catalog.parquet"]
    with pytest.raises(MountError, match=r"there is no directory .*/nowhere\."):
        run_memfs("catalog", root, "--parquet", tmp_path / "nowhere/catalog.parquet")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MountError, match="is no regular file"):
        run_memfs("catalog", root, "--parquet", tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
