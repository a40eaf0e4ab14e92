"""The gate before the page: what is let through, and what is refused, without a server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from memfs_tools.web.feed import read_moved
from memfs_tools.web.gate import COOKIE, LOOPBACK_NAMES, PAGE_HEADER, Gate, Secrets

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

KEYS = Secrets("a" * 43)
ROOT = f"/{KEYS.place}/"
COOKIES = {"cookie": f"other=1; {COOKIE}={KEYS.token}"}
PAGE = {PAGE_HEADER: KEYS.page_key}


def ask(
    method: str = "GET",
    path: str = ROOT,
    query: str = "",
    *,
    host: str | list[str] = "127.0.0.1:80",
    **headers: str,
) -> tuple[int, dict[str, str], bool]:
    """Return status and headers of an answer, and whether the application was asked."""
    asked, sent = [], []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    hosts = [host] if isinstance(host, str) else host
    pairs = [("host", each) for each in hosts]
    pairs += [(name.replace("_", "-"), value) for name, value in headers.items()]
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
    }
    asyncio.run(Gate(app, KEYS, [*LOOPBACK_NAMES, "Files.Example"])(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, bool(asked)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:99", "[::1]:8765", "files.example:443"])
def test_its_own_names_are_known(host: str) -> None:
    status, headers, asked = ask(host=host, **COOKIES)
    assert (status, asked) == (200, True)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", ["localhost", "localhost"], []]
)
def test_a_name_that_is_not_its_own_is_refused(host: str | list[str]) -> None:
    """A page of somebody else may have its name lead to this machine."""
    status, headers, asked = ask(host=host, **COOKIES)
    assert (status, asked) == (421, False)
    assert "content-security-policy" in headers


def test_the_token_opens_once_in_the_address_and_then_as_a_cookie() -> None:
    assert ask(query=f"token={KEYS.token}")[0] == 200
    assert ask(**COOKIES)[0] == 200
    assert ask(path=f"{ROOT}tree", **COOKIES)[0] == 200
    assert ask(path=f"{ROOT}metrics", authorization=f"Bearer {KEYS.token}")[0] == 200


@pytest.mark.parametrize(
    ("path", "query", "headers"),
    [
        (ROOT, "", {}),
        (ROOT, f"token={KEYS.token}x", {}),
        (ROOT, f"token={KEYS.token[:-1]}", {}),
        (ROOT, f"token={KEYS.token}&token={KEYS.token}", {}),
        (f"{ROOT}tree", f"token={KEYS.token}", {}),
        (ROOT, "", {"cookie": f"{COOKIE}={KEYS.page_key}"}),
        (ROOT, "", {"cookie": "=;;\xff"}),
        (ROOT, "", {"authorization": KEYS.token}),
        (ROOT, "", {"authorization": "Bearer \xff"}),
        (ROOT, "", {PAGE_HEADER: KEYS.page_key}),
    ],
    ids=range(10),
)
def test_without_the_token_nothing_is_told(path: str, query: str, headers: dict[str, str]) -> None:
    status, told, asked = ask(path=path, query=query, **headers)
    assert (status, asked) == (403, False)
    assert "set-cookie" not in told


@pytest.mark.parametrize(
    "path", ["/", "/page.js", f"/{KEYS.place}", f"/x{ROOT}", "/" + "0" * 16 + "/"]
)
def test_other_paths_are_not_there(path: str) -> None:
    """Who does not know the place does not learn that there is one."""
    assert ask(path=path, **COOKIES)[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(method: str) -> None:
    status, headers, asked = ask(method, **COOKIES)
    assert (status, headers["allow"], asked) == (405, "GET, HEAD, POST", False)


@pytest.mark.parametrize(
    "headers",
    [
        COOKIES,
        COOKIES | {PAGE_HEADER: "x"},
        COOKIES | PAGE | {"origin": "http://evil.example"},
        COOKIES | PAGE | {"origin": "null"},
        COOKIES | PAGE | {"origin": "http://127.0.0.1:81"},
        COOKIES | PAGE | {"sec-fetch-site": "same-site"},
        PAGE,
    ],
    ids=range(7),
)
def test_only_the_page_changes_something(headers: dict[str, str]) -> None:
    """A form of another site brings no header, and says where it comes from."""
    status, _, asked = ask("POST", f"{ROOT}pin", **headers)
    assert (status, asked) == (403, False)


@pytest.mark.parametrize(
    "headers",
    [
        COOKIES | PAGE,
        COOKIES | PAGE | {"origin": "http://127.0.0.1:80", "sec-fetch-site": "same-origin"},
        {"authorization": f"Bearer {KEYS.token}"},
    ],
    ids=range(3),
)
def test_the_page_and_programs_may_change_something(headers: dict[str, str]) -> None:
    assert ask("POST", f"{ROOT}pin", **headers)[0] == 200


def test_the_token_cannot_be_guessed_from_what_a_page_knows() -> None:
    made = {Secrets.make().token for _ in range(10)}
    assert len(made) == 10
    assert all(len(token) >= 43 for token in made)
    assert len({KEYS.token, KEYS.place, KEYS.page_key}) == 3


def test_flows_are_read_out_of_the_metrics() -> None:
    text = (
        "# TYPE memfs_moved_bytes_total counter\n"
        'memfs_moved_bytes_total{mount=",source=\\\\"hot\\\\"",source="cold",target="warm"} 1024\n'
        'memfs_moves_total{source="cold",target="warm"} 3\n'
        'memfs_moved_bytes_total{source="cold",target="glacier",mount="/a"} 1e+06\n'
    )
    assert read_moved(text) == {("cold", "warm"): 1024.0, ("cold", "glacier"): 1e6}
