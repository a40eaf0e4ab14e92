"""`memfs web` at a mount: what its server answers, and what a browser makes of the page."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys

from memfs.escaping import escape_text
from memfs.exit_codes import ExitCode
from memfs_tools.web.serving import CONNECTIONS_MAX
from tests.hostile import HOSTILE
from tests.lifecycle.daemons import refused
from tests.mounting import UNDISTURBED, run_memfs
from tests.processes import ALICE
from tests.waiting import WAIT_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.browser import Browser
    from tests.mounting import Mount

pytestmark = [pytest.mark.mount, pytest.mark.any_driver]

MARKUP = "<img src=x onerror=alert(1)> &amp; \"quoted\" 'and' {{braces}}"
NOT_TEXT = os.fsdecode(b"caf\xe9\xff")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - of JSON, anything
        return json.loads(self.body)


class Server:
    """A server of the page, and how it is asked."""

    def __init__(self, process: subprocess.Popen[str], first: str) -> None:
        self.process = process
        self.first = first
        parts = urlsplit(first)
        self.host, self.port, self.root = parts.hostname or "", parts.port or 0, parts.path
        self.token = parts.query.removeprefix("token=")

    def ask(self, path: str, method: str = "GET", body: object = None, **headers: str) -> Answer:
        """Ask as a program does that has the token; `headers` say otherwise."""
        given = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            place = path if path.startswith("/") else self.root + path
            connection.request(method, place, data, given)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, told, answer.read())


@contextlib.contextmanager
def serving(mount: Mount, *options: str | Path) -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, "-m", "memfs_tools", "web", *options, mount.root],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline().strip()
            assert first.startswith("http://"), first
            yield Server(process, first)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(WAIT_S) == 0
            finally:
                process.kill()


@pytest.fixture
def started(mount: Mount) -> Mount:
    mount.options = (*UNDISTURBED, "-o", "policy.interval=100ms")
    mount.start()
    return mount


@pytest.fixture
def server(started: Mount) -> Iterator[Server]:
    with serving(started) as server:
        yield server


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Browser]:
    """The page, live; at the end its console has said nothing, and nobody else was asked."""
    browser.driver.get(server.first)
    browser.see("#state", "live")
    yield browser
    assert browser.take_errors() == []
    hosts = {urlsplit(each).netloc for each in browser.take_requests() if each.startswith("http")}
    assert hosts == {f"{server.host}:{server.port}"}


# --- the server ----------------------------------------------------------------------------------
def test_the_token_is_in_the_first_address_and_then_a_strict_cookie(server: Server) -> None:
    first = server.ask(f"?token={server.token}", authorization="")
    cookie = first.headers["set-cookie"]
    assert first.status == 200
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert f"Path={server.root}" in cookie
    assert b"token" not in first.body
    page = server.ask("", authorization="", cookie=cookie.partition(";")[0])
    assert page.status == 200
    assert b"page.js" in page.body
    assert server.token.encode() not in page.body


def test_a_wrong_token_host_or_method_is_refused(server: Server, started: Mount) -> None:
    file = started.root / "file"
    file.write_bytes(b"x" * 10_000)
    body = {"path": "file", "tier": "glacier"}
    cookie = {"authorization": "", "cookie": f"memfs_web={server.token}"}
    assert server.ask("", authorization="Bearer wrong").status == 403
    assert server.ask("tree", authorization="").status == 403
    assert server.ask("tree", host="evil.example").status == 421
    assert server.ask("/").status == 404
    assert server.ask("pin", "PUT", body).status == 405
    assert server.ask("pin").status == 405
    assert server.ask("tree", "POST", body).status == 405
    assert server.ask("pin", "POST", body, **cookie).status == 403
    assert server.ask("pin", "POST", body, content_type="text/plain").status == 415
    assert server.ask("pin", "POST", b"{").status == 400
    assert server.ask("pin", "POST", []).status == 400
    assert server.ask("pin", "POST", b"[" * 60_000).status == 400
    assert server.ask("pin", "POST", b" " * 100_000).status == 413
    assert server.ask("pin", "POST", {"path": "file", "tier": "lukewarm"}).status == 400
    assert server.ask("pin", "POST", {"tier": "warm"}).status == 400
    assert server.ask("pin", "POST", {"path": "../file", "tier": "warm"}).status == 400
    assert server.ask("pin", "POST", {"path": "none", "tier": "warm"}).status == 404
    assert os.getxattr(file, "user.memfs.pin") == b"auto"
    assert server.ask("pin", "POST", body).status == 200
    assert os.getxattr(file, "user.memfs.pin") == b"glacier"
    assert server.ask("unpin", "POST", body).json["pin"] == "auto"
    assert os.getxattr(file, "user.memfs.pin") == b"auto"


def test_what_the_page_asks_is_answered(server: Server, started: Mount) -> None:
    (started.root / "directory").mkdir()
    (started.root / "directory" / NOT_TEXT).write_bytes(b"x" * 5000)
    (started.root / MARKUP.replace("/", "")).write_bytes(b"x")
    run_memfs("snapshot", "create", "--mount", started.root, "monday")
    tree = server.ask("tree").json
    assert {each["name"] for each in tree["entries"]} == {"directory", MARKUP}
    below = server.ask("tree?path=directory").json
    [entry] = below["entries"]
    assert below["above"] == [{"name": "directory", "id": "directory"}]
    assert (entry["name"], entry["id"]) == (escape_text(NOT_TEXT), "directory/caf%E9%FF")
    why = server.ask("why?path=directory/caf%25E9%25FF").json
    assert (why["path"], why["is_directory"]) == (f"/directory/{escape_text(NOT_TEXT)}", False)
    [snapshot] = server.ask("snapshots").json["snapshots"]
    assert snapshot["name"] == "monday"
    for at in ("", "&at=monday"):
        [found] = server.ask(f"search?filter=%7B%22%24size%22:5000%7D{at}").json["files"]
        assert found["path"] == f"directory/{escape_text(NOT_TEXT)}"
        assert server.ask(f"why?path={found['id'].replace('%', '%25')}").status == 200
    assert server.ask("search?filter=%7B").status == 400
    empty = server.ask("search?filter=%20")
    assert (empty.status, empty.json["error"].split(",")[0]) == (400, "write words of a name")
    assert server.ask("tree?path=none").status == 404
    assert server.ask("tree?order=size").status == 400
    assert b"\nmemfs_tier_used_bytes{" in server.ask("metrics").body
    assert server.ask("nothing.js").status == 404


def test_a_search_goes_on_where_the_first_files_are_not_meant(
    server: Server, started: Mount
) -> None:
    """Each file is looked at for its pin: a hundred that have another one are no answer."""
    for number in range(250):
        (started.root / f"{number}").touch()
    os.setxattr(started.root / "249", "user.memfs.tier", b"cold")
    answer = server.ask("search?filter=%7B%22%24pin%22:%22cold%22%7D").json
    assert [each["path"] for each in answer["files"]] == ["249"]
    assert answer["token"] is None


def test_no_link_in_the_mount_leads_a_pin_out_of_it(
    server: Server, started: Mount, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_bytes(b"")
    (started.root / "link").symlink_to(tmp_path / "outside")
    answer = server.ask("pin", "POST", {"path": "link", "tier": "warm"})
    assert answer.status == 409
    assert os.listxattr(tmp_path / "outside") == []


def test_a_server_ends_with_pages_open(started: Mount) -> None:
    """And takes its socket along; a dead one that another server left is no obstacle."""
    path = started.base / "web.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(started, "--listen", f"unix:{path}") as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        root = urlsplit(server.first.partition(" ")[0]).path
        [token] = re.findall(r"token=(\S+)", server.first)
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(WAIT_S)
            wait_for(lambda: asking.connect_ex(str(path)) == 0, "the socket")
            asking.sendall(
                f"GET {root}events HTTP/1.1\r\nHost: localhost\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            data = b""
            while data.count(b"data: {") < 2:
                data += asking.recv(65536)
            code, line = refused("web", "--listen", f"unix:{path}", started.root)
            assert code == ExitCode.USAGE
            assert "listens at" in line
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(WAIT_S) == 0
    assert not path.exists()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_connections_of_other_users_that_ask_nothing_make_room(server: Server, sent: bytes) -> None:
    """Every user of the machine can connect; what asks nothing, or never to the end, is idle."""
    with contextlib.ExitStack() as stack:
        for _ in range(2 * CONNECTIONS_MAX):
            place = (server.host, server.port)
            idle = stack.enter_context(socket.create_connection(place, timeout=WAIT_S))
            idle.sendall(sent)
        # That the last ones were heard as well.
        if sent.endswith(b"\r\n\r\n"):
            assert idle.recv(1)
        assert server.ask("page.css").status == 200


def test_a_server_ends_although_a_call_of_the_mount_hangs(started: Mount) -> None:
    (started.root / "file").write_bytes(b"x")
    [pid] = started.daemon_pids()
    with serving(started) as server, socket.create_connection((server.host, server.port)) as asking:
        try:
            os.kill(pid, signal.SIGSTOP)
            asking.sendall(
                f"GET {server.root}why?path=file HTTP/1.1\r\nHost: localhost\r\n"
                f"Authorization: Bearer {server.token}\r\n\r\n".encode()
            )
            # This one asks nothing of the mount, and is answered.
            assert server.ask("page.css").status == 200
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(WAIT_S) == 0
        finally:
            os.kill(pid, signal.SIGCONT)


def test_what_would_be_unsafe_is_refused(started: Mount) -> None:
    shared = started.base / "shared"
    shared.write_text("0123456789abcdef0123456789")
    shared.chmod(0o644)
    short = started.base / "short"
    short.write_text("secret")
    short.chmod(0o600)
    (started.base / "plain").write_text("")
    # Who made it knows the token, and nobody may ever write to the other one.
    others, pipe = started.base / "others", started.base / "pipe"
    others.write_text("0123456789abcdef0123456789")
    others.chmod(0o600)
    os.chown(others, ALICE.uid, ALICE.gid)
    os.mkfifo(pipe, 0o600)
    for words, told in {
        ("--listen", "0.0.0.0:0"): "say --remote",
        ("--listen", "localhost"): "is no address",
        ("--listen", "127.0.0.1:99999"): "is no address",
        ("--listen", f"unix:{started.base / 'plain'}"): "is no socket",
        ("--token-file", str(shared)): "others than its owner may use it",
        ("--token-file", str(others)): f"belongs to user {ALICE.uid}",
        ("--token-file", str(pipe)): "not a plain file",
        ("--token-file", str(short)): "holds no token",
    }.items():
        code, line = refused("web", *words, started.root)
        assert code == ExitCode.USAGE
        assert told in line


def test_prices_and_a_trace_are_told_on_the_page(started: Mount) -> None:
    run_memfs("trace", "start", started.base / "trace", started.root)
    (started.root / "file").write_bytes(b"x" * 1000)
    for _ in range(150):
        (started.root / "file").read_bytes()
    run_memfs("trace", "stop", started.root)
    with serving(
        started, "--price", "stored=5", "--price", "warm=2", "--currency", "EUR"
    ) as server:
        report = server.ask("report?span=hour").json
        texts = " ".join(each["text"] for each in report["sentences"])
        assert "a month like the last" in texts
        assert "EUR (warm " in texts
        assert "More RAM than" in texts or "of RAM instead of" in texts
        again = server.ask("report?span=hour").json
        [sizes] = [each for each in again["charts"] if each["name"] == "sizes"]
        assert sizes["rows"]
    code, line = refused("web", "--price", "gold=1", started.root)
    assert code == ExitCode.USAGE
    assert "is no price" in line


def test_a_token_file_keeps_the_address(started: Mount) -> None:
    file = started.base / "token"
    with serving(started, "--token-file", file) as server:
        first = urlsplit(server.first)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with serving(started, "--token-file", file) as server:
        again = urlsplit(server.first)
        assert (again.path, again.query) == (first.path, first.query)
        assert server.ask("tree").status == 200


# --- the page ------------------------------------------------------------------------------------
def list_again(page: Browser) -> None:
    """List the directory anew, and wait for that."""
    page.press("#files .tools", "Look again")
    page.see("#listed", "names")


_TABLE = "return document.querySelector(`#frame-${arguments[0]} tbody`)?.textContent ?? ''"
"""JavaScript: what the table of a chart says."""


def list_log(page: Browser) -> bool:
    """Whether the list of events has a pin to the glacier tier."""
    return any("pin" in row and "glacier" in row for row in page.text("#log").split("\n"))


def open_why(page: Browser, name: str) -> None:
    """Press `Why?` in the row of a file."""
    list_again(page)
    page.see("#tree", name)
    for row in page.driver.find_elements("css selector", "#tree tbody tr"):
        if row.text.startswith(name):
            # Not at a place in the window, as `Browser.press`.
            button = row.find_element("css selector", "td:last-child button")
            page.run("arguments[0].focus(); arguments[0].click()", button)
            break
    page.see("#why-title", name)


def test_clicking_a_pin_moves_the_file(page: Browser, started: Mount) -> None:
    file = started.root / "a file"
    file.write_bytes(os.urandom(300_000))
    assert os.getxattr(file, "user.memfs.tier") != b"glacier"
    open_why(page, "a file")
    page.press("#pins", "Pin glacier")
    page.see("#change", "pinned to glacier")
    wait_for(lambda: os.getxattr(file, "user.memfs.tier") == b"glacier", "the file to move")
    # The panel and the tables follow by themselves.
    wait_for(lambda: re.search(r"tier\s+glacier", page.text("#placement")), "the page to tell")
    wait_for(lambda: re.search(r"glacier .* 1\b", page.text("#tiers")), "the tier to have it")
    page.see("#flows", "cold glacier")
    assert page.run("return document.querySelector('#pins [aria-pressed=true]').textContent") == (
        "Pin glacier"
    )
    wait_for(lambda: list_log(page), "the event")
    page.press("#pins", "Unpin")
    page.see("#change", "unpinned")
    assert os.getxattr(file, "user.memfs.pin") == b"auto"
    page.press("#why", "Close")
    assert not page.find("#why").is_displayed()


def test_a_directory_is_told_of_and_sorted_by_heat(page: Browser, started: Mount) -> None:
    for name, size, count in (("large", 9000, 1), ("hot", 10, 9)):
        (started.root / name / "below").mkdir(parents=True)
        (started.root / name / "below" / "file").write_bytes(b"x" * size)
        for _ in range(count):
            (started.root / name / "below" / "file").read_bytes()

    def names(order: str) -> list[str]:
        page.run(
            "const order = document.querySelector('#order'); order.value = arguments[0];"
            "order.dispatchEvent(new Event('change'));",
            order,
        )
        page.see("#listed", "names")
        rows = page.driver.find_elements("css selector", "#tree tbody tr")
        return [row.text.split("/")[0] for row in rows]

    wait_for(lambda: names("bytes") == ["large", "hot"], lambda: page.text("#tree"))
    # Opens are counted every ten seconds.
    wait_for(lambda: names("heat") == ["hot", "large"], lambda: page.text("#tree"))
    open_why(page, "hot")
    page.see("#decision", "a directory has no place: each file below it has its own")
    page.press("#pins", "Pin cold")
    page.see("#decision", "files below it are pinned to cold")


def test_the_page_is_for_everybody_and_fits_at_any_width(page: Browser, started: Mount) -> None:
    """In both colour schemes: rules of accessibility, labels with room, nothing that scrolls."""
    for name in ("a directory with a long name of many words", "b" * 200):
        (started.root / name).mkdir()
        (started.root / name / "file").write_bytes(b"x" * 100_000)
        (started.root / name / "file").read_bytes()
    run_memfs("snapshot", "create", "--mount", started.root, "monday")
    run_memfs("pin", "glacier", started.root / ("b" * 200))
    page.driver.refresh()
    wait_for(lambda: page.run("return document.querySelector('#charts').dataset.drawn"), "charts")
    open_why(page, "bbb")
    page.see("#snapshots", "monday")
    page.see("#log", "pinned")
    note = "lies on the disk of the state directory"
    page.see("#sentences", note)
    wait_for(lambda: note not in page.text("#notes"), "what is told above not to be told twice")
    for scheme, width in (("light", 390), ("light", 900), ("dark", 1600)):
        page.set_colours(scheme)
        page.set_width(width)
        wait_for(lambda: page.misplaced() == [], page.misplaced)
        if width != 900:
            assert page.violations() == [], (scheme, width)


def test_a_refusal_is_told_where_the_button_is(page: Browser, started: Mount) -> None:
    file = started.root / "gone"
    file.write_bytes(b"x")
    open_why(page, "gone")
    file.unlink()
    page.press("#pins", "Pin warm")
    page.see("#change", "No such file")
    # The browser tells of each answer that is a refusal, those to the open panel as well.
    page.driver.get("about:blank")
    errors = page.take_errors()
    assert errors
    assert all(" 404 " in each for each in errors)


def test_directories_that_look_the_same_are_told_apart(page: Browser, started: Mount) -> None:
    """A list that is as before stays as it is; its buttons are those of other files."""
    (started.root / "d/d/d").mkdir(parents=True)
    (started.root / "d/d/d/file").write_bytes(b"x" * 100)
    # All was used in the future, 0 seconds ago.
    page.run("Date.now = () => 0;")
    list_again(page)
    for depth in range(3):
        page.see("#tree", "d/")
        page.press("#tree", "d/")
        wait_for(
            lambda: len(page.driver.find_elements("css selector", "#above li")) == depth + 2,  # noqa: B023 - called at once
            lambda: (page.text("#above"), page.text("#listed"), page.text("#tree")),
        )
        page.see("#listed", "names")
    open_why(page, "file")
    page.see("#why-title", "/d/d/d/file")


def test_names_of_any_bytes_are_shown_and_do_nothing(page: Browser, started: Mount) -> None:
    names = [HOSTILE.replace("/", "")[:100], MARKUP, NOT_TEXT]
    for name in names:
        (started.root / name).mkdir()
        (started.root / name / name).write_bytes(b"x" * 100)
        os.setxattr(started.root / name / name, "user.label", MARKUP.encode())
    run_memfs("snapshot", "create", "--mount", started.root, MARKUP)
    for name in names:
        list_again(page)
        page.see("#tree", escape_text(name))
        page.press("#tree", f"{escape_text(name)}/")
        page.see("#above", escape_text(name))
        open_why(page, escape_text(name))
        page.see("#why-title", escape_text(f"/{name}/{name}"))
        page.press("#pins", "Pin cold")
        page.see("#change", "pinned to cold")
        assert os.getxattr(started.root / name / name, "user.memfs.pin") == b"cold"
        page.press("#above", "root")
        page.see("#listed", "3 names")
    page.see("#snapshots", escape_text(MARKUP))
    page.find("#filter").send_keys("onerror")
    page.find("#at").send_keys(MARKUP[:4])
    page.press("#search", "Search")
    page.see("#listed", "2 found")
    assert page.run("return document.getElementById('pins').hidden") is False
    page.run("document.querySelector('#tree tbody button').click()")
    page.see("#why-title", "/.memfs/snapshots/")
    assert page.run("return document.getElementById('pins').hidden"), "the past cannot be pinned"
    assert page.run("return document.querySelectorAll('img, script:not([src])').length") == 0


def test_what_a_report_tells_is_drawn_and_has_its_tables(page: Browser, started: Mount) -> None:
    """By the library of the report; in both colour schemes, and again when there is more."""
    names = [MARKUP, NOT_TEXT]
    for name in names:
        (started.root / name).mkdir()
        (started.root / name / name).write_bytes(b"x" * 100_000)
        os.setxattr(started.root / name, "user.memfs.tier", b"glacier")
        (started.root / name / name).read_bytes()
    page.find("#span").send_keys("hour")

    wanted = {
        "hottest": escape_text(NOT_TEXT),
        "use": "UTC",
        "flows": "glacier",
        "opens": "%",
    }

    def told() -> dict[str, str]:
        page.run("document.querySelector('#span').dispatchEvent(new Event('change'))")
        return {name: page.run(_TABLE, name) for name in wanted}

    wait_for(lambda: all(wanted[name] in text for name, text in told().items()), told)
    page.see("#sentences", " ")
    for scheme in ("dark", "light"):
        page.set_colours(scheme)
        drawn = page.run(
            """
            return [...document.querySelectorAll(".chart:not([hidden])")].map((each) =>
              [each.id, each.querySelectorAll("svg path").length, each.getAttribute("aria-label")]);
            """
        )
        assert {"chart-use", "chart-flows", "chart-opens", "chart-hottest"} <= {
            name for name, _, _ in drawn
        }
        assert [name for name, count, label in drawn if not count or not label] == []
    tables = page.run(
        """
        return [...document.querySelectorAll("#charts figure")].filter((each) =>
          !each.querySelector(".chart").hidden && !each.querySelector("details tbody tr"))
          .map((each) => each.id);
        """
    )
    assert tables == []
    assert page.run("return document.querySelectorAll('img').length") == 0


def test_a_daemon_that_goes_away_is_told_and_the_page_comes_back_with_it(
    page: Browser, started: Mount
) -> None:
    started.kill_daemon()
    page.see("#state", "no answer")
    assert page.run("return document.body.classList.contains('stale')")
    started.start()
    page.see("#state", "live")
    (started.root / "after").write_bytes(b"x")
    open_why(page, "after")
    run_memfs("umount", started.root)
    page.see("#state", "nothing is mounted there")
    started.start()
    page.see("#state", "live")
    page.driver.get("about:blank")
    errors = page.take_errors()
    assert all(" 503 " in each for each in errors), errors


def test_a_server_that_is_gone_is_told(started: Mount, browser: Browser) -> None:
    with serving(started) as server:
        browser.driver.get(server.first)
        browser.see("#state", "live")
    browser.see("#state", "the server of this page does not answer")
    browser.driver.get("about:blank")
    browser.take_errors()


def test_the_page_can_be_used_with_the_keyboard_and_read_aloud(
    page: Browser, started: Mount
) -> None:
    (started.root / "directory").mkdir()
    list_again(page)
    page.see("#tree", "directory/")
    nameless = page.run(
        """
        const named = (each) => each.textContent.trim() || each.getAttribute("aria-label")
          || each.labels?.length;
        const used = [...document.querySelectorAll("button, a, select, input")];
        const bad = used.filter((each) => !named(each));
        const heads = [...document.querySelectorAll("th")].filter((e) => !e.scope);
        const sections = [...document.querySelectorAll("section, aside, nav")].filter((e) =>
          !(e.getAttribute("aria-label")
            || document.getElementById(e.getAttribute("aria-labelledby"))?.textContent));
        return [...bad, ...heads, ...sections].map((e) => e.outerHTML);
        """
    )
    # The panel has its title when it is opened.
    assert [each for each in nameless if "why-title" not in each] == []
    page.driver.refresh()
    page.see("#tree", "directory/")
    reached = []
    for _ in range(12):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(page.run("const e = document.activeElement; return e.id || e.textContent"))
    assert reached[0] == "To the files"
    assert {"order", "refresh", "filter", "at"} <= {*reached}
    assert "directory/" in reached


def test_the_page_fits_and_its_texts_stand_out_in_both_schemes(page: Browser) -> None:
    for scheme in ("light", "dark"):
        page.set_colours(scheme)
        ratios = page.run(
            """
            const style = getComputedStyle(document.documentElement);
            const light = (name) => {
              const hex = style.getPropertyValue(name).trim().slice(1);
              const part = (at) => {
                const c = parseInt(hex.slice(at, at + 2), 16) / 255;
                return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
              };
              return 0.2126 * part(0) + 0.7152 * part(2) + 0.0722 * part(4);
            };
            const ratio = (a, b) => {
              const [x, y] = [light(a), light(b)].sort((m, n) => n - m);
              return (x + 0.05) / (y + 0.05);
            };
            const pairs = [["--text", "--card"], ["--quiet", "--card"], ["--accent", "--card"],
              ["--bad", "--card"], ["--good", "--card"], ["--warn-text", "--warn-back"]];
            const fills = ["--hot", "--warm", "--cold", "--glacier", "--accent"];
            return [pairs.map(([a, b]) => ratio(a, b)), fills.map((a) => ratio(a, "--track"))];
            """
        )
        # WCAG 2.2: 1.4.3 for texts, 1.4.11 for what a bar shows.
        assert min(ratios[0]) >= 4.5, (scheme, ratios)
        assert min(ratios[1]) >= 3.0, (scheme, ratios)
    page.set_colours("light")
    for width in (1300, 420):
        page.driver.set_window_size(width, 1400)
        wide = page.run(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, width
    page.driver.set_window_size(1300, 1500)
