"""The page and what it asks for: routes, their parameters, and their answers in JSON.

Invariant: a mount that hangs holds `_AT_ONCE` threads at most, and a request is answered within
`_ANSWER_S_MAX`; every text of an answer is escaped.
"""

from __future__ import annotations

import contextlib
import errno
import html
import json
import threading
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount as Below
from starlette.routing import Route

from memfs.client import placement
from memfs.client.placement import TIERS
from memfs.errors import InvalidValueError, MemfsError, UsageError
from memfs.report.charts import charts
from memfs.report.gathering import SPANS, gather
from memfs.report.page import asset
from memfs.report.sentences import sentences
from memfs.report.trials import UNTRIED, try_sizes_of
from memfs_tools.mounts import require_mount
from memfs_tools.web.feed import Feed, TooManyViewersError
from memfs_tools.web.gate import COOKIE, Gate, Secrets
from memfs_tools.web.names import id_of, opened, path_of, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from memfs.client.mount import Mount
    from memfs.control.methods.mount import HotFileReport
    from memfs.control.methods.queries import TreeOrder
    from memfs.control.report import PricesReport, StatusReport
    from memfs.report.trials import Tried

T = TypeVar("T")

_AT_ONCE = 8
"""Calls of the mount at the same time; more of them wait."""

_ANSWER_S_MAX = 70.0
"""Longer than the daemon takes for any question of the page (`client.mount.FILES_S_MAX`)."""

_BODY_BYTES_MAX = 64 << 10
_ORDERS: dict[str, TreeOrder] = {"bytes": "bytes", "heat": "heat", "used": "heat", "name": "name"}
"""Orders of a directory, and those of the mount that they are made of: what is opened much was used
lately, too."""
_HEAT_COUNT = 1000
"""Files whose opens are known; some 20 ms."""
_ROW_COUNT_MAX = 100_000
"""Rows of a trace that are replayed for the page: some 3 s of processor time, once in a while."""
_GROWN = 1.2
"""A trace that has so many times the rows is replayed again."""

_NAMES_SHOWN = 300
"""Names of a directory; its sums are those of all."""
_FOUND_SHOWN = 100
_SEARCH_S = 5.0
"""A search that has found less goes on so long; guess."""
_EVENTS_SHOWN = 100
_FILTER_MAX = 20_000

_KINDS = {
    "page.js": "text/javascript",
    "page.css": "text/css",
    "charts.js": "text/javascript",
    "echarts.min.js": "text/javascript",
}
_SHARED = ("charts.js", "echarts.min.js")
"""Parts that the report has as well."""

_NOT_CHARTED = ("snapshots", "pending")
"""Charts of the report whose tables the page has, live."""

_STATUS = {
    errno.ENOENT: 404,
    errno.ENOTDIR: 404,
    errno.EINVAL: 400,
    errno.ETIMEDOUT: 504,
    errno.ENOTCONN: 503,
    errno.EACCES: 403,
    errno.EPERM: 403,
}
"""That of an answer, by the errno of what went wrong; 409 else: it cannot be done as things are."""


class Page:
    """Answers what a page asks.

    Args:
        mountpoint: What is mounted there is asked.
        keys: Those of the gate.
        feed: That of the live part.
        reprice: Returns the prices that costs are told by, out of those of the mount.
    """

    def __init__(
        self,
        mountpoint: Path,
        keys: Secrets,
        feed: Feed,
        reprice: Callable[[PricesReport], PricesReport],
    ) -> None:
        self._reprice = reprice
        self._trying = threading.Lock()
        self._tried: tuple[object, int, Tried] = (None, 0, UNTRIED)
        """What the last replay was of, its rows, and what came of it."""
        self._mountpoint = mountpoint
        self._keys = keys
        self._feed = feed
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)
        parts = files(__package__).joinpath("page")
        self._files = {
            name: asset(name).encode() if name in _SHARED else parts.joinpath(name).read_bytes()
            for name in _KINDS
        }
        self._html = parts.joinpath("page.html").read_text().replace("PAGE_KEY", keys.page_key)
        self.gate: Gate | None = None

    def routes(self) -> list[Route]:
        """Return the routes below the place of the page."""
        return [
            Route("/", self.page),
            Route("/events", self.events),
            Route("/tree", self.tree),
            Route("/why", self.why),
            Route("/snapshots", self.snapshots),
            Route("/search", self.search),
            Route("/log", self.log),
            Route("/report", self.report),
            Route("/metrics", self.metrics),
            Route("/pin", self.pin, methods=["POST"]),
            Route("/unpin", self.unpin, methods=["POST"]),
            *(Route(f"/{name}", self.file) for name in _KINDS),
        ]

    async def page(self, request: Request) -> Response:
        """Return the page; at first the cookie, and the way to the address without the token."""
        await anyio.lowlevel.checkpoint()
        assert self.gate is not None
        if not self.gate.is_first(request.url.query):
            return HTMLResponse(self._html)
        # No redirect: a browser would not send a strict cookie along if another site led here.
        place = html.escape(f"/{self._keys.place}/")
        answer = HTMLResponse(
            f'<!doctype html><meta charset="utf-8"><title>memfs</title>'
            '<link rel="icon" href="data:,">'
            f'<meta http-equiv="refresh" content="0;url={place}"><a href="{place}">To the page</a>'
        )
        answer.set_cookie(
            COOKIE, self._keys.token, path=f"/{self._keys.place}/", httponly=True, samesite="strict"
        )
        return answer

    async def file(self, request: Request) -> Response:
        """Return a part of the page."""
        await anyio.lowlevel.checkpoint()
        name = request.url.path.rpartition("/")[2]
        return PlainTextResponse(self._files[name], media_type=_KINDS[name])

    async def events(self, request: Request) -> Response:
        """Return the feed as server-sent events."""
        await anyio.lowlevel.checkpoint()
        entries = self._feed.entries()
        try:
            first = await anext(entries)
        except TooManyViewersError as error:
            return PlainTextResponse(f"memfs web: {error}\n", 503)
        except StopAsyncIteration:
            return PlainTextResponse("memfs web: the server ends\n", 503)

        async def lines() -> AsyncIterator[str]:
            async with contextlib.aclosing(entries):
                yield f"retry: 1000\ndata: {first}\n\n"
                async for entry in entries:
                    yield f"data: {entry}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def tree(self, request: Request) -> Response:
        """Return what a directory holds."""

        def look(mount: Mount) -> dict[str, Any]:
            path = path_of(request.query_params.get("path", ""))
            order = request.query_params.get("order", "bytes")
            if order not in _ORDERS:
                raise InvalidValueError(f"{order[:20]} is no order: {', '.join(_ORDERS)}")
            report = mount.tree(path, order=_ORDERS[order], limit=_NAMES_SHOWN)
            uses = uses_below(path, mount.heat(_HEAT_COUNT)["files"])
            listed = report["entries"]
            if order == "heat":
                listed = sorted(listed, key=lambda each: -uses.get(each["name"], 0.0))
            above = path.split("/") if path else []
            return {
                **report,
                "above": [
                    {"name": name, "id": id_of("/".join(above[: at + 1]))}
                    for at, name in enumerate(above)
                ],
                "entries": [
                    {
                        **each,
                        "uses": uses.get(each["name"], 0.0),
                        "id": id_of(f"{path}/{each['name']}"),
                    }
                    for each in listed
                ],
            }

        return await self._answer(look)

    async def why(self, request: Request) -> Response:
        """Return where a file is, and why."""
        name = request.query_params.get("path", "")
        return await self._answer(lambda mount: self._told(mount, name))

    async def snapshots(self, request: Request) -> Response:
        """Return the snapshots, the newest one first."""

        def look(mount: Mount) -> dict[str, Any]:
            made = [{**each, "id": id_of(each["name"])} for each in mount.snapshots.list()]
            return {"snapshots": made[::-1]}

        return await self._answer(look)

    async def log(self, request: Request) -> Response:
        """Return what people decided and what went wrong, the latest first."""
        return await self._answer(lambda mount: {"events": mount.events(limit=_EVENTS_SHOWN)})

    async def report(self, request: Request) -> Response:
        """Return what a report tells of a span: sentences, and charts with their tables."""

        def look(mount: Mount) -> dict[str, Any]:
            span = request.query_params.get("span", "day")
            if span not in SPANS:
                raise InvalidValueError(f"{span[:20]} is no span: {', '.join(SPANS)}")
            gathered = gather(mount, span)
            gathered = gathered._replace(
                status=self._priced(gathered.status), tried=self._try_sizes(mount, gathered.status)
            )
            return {
                "sentences": [each._asdict() for each in sentences(gathered)],
                "charts": [
                    each._asdict() for each in charts(gathered) if each.name not in _NOT_CHARTED
                ],
            }

        return await self._answer(look)

    async def search(self, request: Request) -> Response:
        """Return a page of what a filter finds; words that are no filter are those of names."""

        def look(mount: Mount) -> dict[str, Any]:
            asked = request.query_params
            text, at = asked.get("filter", "").strip(), path_of(asked.get("at", ""))
            if len(text) > _FILTER_MAX:
                raise InvalidValueError("the filter is too long")
            if not text:
                raise InvalidValueError(
                    'write words of a name, or a filter such as {"$tier": "cold"}'
                )
            if not text.startswith("{"):
                text = json.dumps({"$name": {"$text": text}})
            report = _found(mount, text, asked.get("sort"), asked.get("token"), at)
            below = f".memfs/snapshots/{at}/" if at else ""
            found = [{**each, "id": id_of(below + each["path"])} for each in report["files"]]
            return {**report, "files": found}

        return await self._answer(look)

    async def metrics(self, request: Request) -> Response:
        """Return all metrics for Prometheus."""
        answer = await self._asked(lambda mount: mount.metrics())
        if isinstance(answer, _Failure):
            return PlainTextResponse(f"memfs web: {answer.text}\n", answer.status)
        return PlainTextResponse(answer, media_type="text/plain; version=0.0.4")

    async def pin(self, request: Request) -> Response:
        """Pin a file or a directory to a tier."""

        def act(mount: Mount, path: str, body: dict[str, Any]) -> None:
            tier = body.get("tier")
            if tier not in TIERS:
                raise InvalidValueError(f"a tier is one of {', '.join(TIERS)}")
            with opened(mount.mountpoint, path) as place:
                placement.pin(place, tier)

        return await self._change(request, act)

    async def unpin(self, request: Request) -> Response:
        """Remove the pin of a file or a directory."""

        def act(mount: Mount, path: str, body: dict[str, Any]) -> None:
            with opened(mount.mountpoint, path) as place:
                placement.unpin(place)

        return await self._change(request, act)

    def _priced(self, status: StatusReport) -> StatusReport:
        return status._replace(prices=self._reprice(status.prices))

    def _try_sizes(self, mount: Mount, status: StatusReport) -> Tried:
        """Return what the trace of the mount tells; one replay at a time, and not too often."""
        report = mount.trace_status()
        sizes = [(tier.tier, tier.capacity_bytes) for tier in status.tiers]
        with self._trying:
            made, row_count, tried = self._tried
            key = (report["path"], sizes)
            if key != made or report["row_count"] > _GROWN * row_count:
                tried = try_sizes_of(status, report, None, _silent, _ROW_COUNT_MAX)
                self._tried = key, report["row_count"], tried
        return tried

    def _told(self, mount: Mount, name: str) -> dict[str, Any]:
        path = path_of(name)
        with opened(mount.mountpoint, path) as place:
            found = placement.read(place)
            is_directory = place.is_dir()
        return {
            **found._asdict(),
            "path": f"/{path}",
            "id": id_of(path),
            "is_directory": is_directory,
        }

    async def _change(
        self, request: Request, act: Callable[[Mount, str, dict[str, Any]], None]
    ) -> Response:
        body = await _read_body(request)
        if isinstance(body, _Failure):
            return body.response()

        def change(mount: Mount) -> dict[str, Any]:
            name = body.get("path")
            if not isinstance(name, str):
                raise InvalidValueError("the body names no path")
            act(mount, path_of(name), body)
            return self._told(mount, name)

        return await self._answer(change)

    async def _answer(self, ask: Callable[[Mount], dict[str, Any]]) -> Response:
        answer = await self._asked(ask)
        return answer.response() if isinstance(answer, _Failure) else JSONResponse(shown(answer))

    async def _asked(self, ask: Callable[[Mount], T]) -> T | _Failure:
        """Ask the mount in a thread; return what went wrong where something did."""

        def run() -> T | _Failure:
            try:
                mount = require_mount(self._mountpoint)
            except UsageError:
                return _Failure(503, "nothing is mounted there")
            try:
                return ask(mount)
            except MemfsError as error:
                code = error.errno
                return _Failure(_STATUS.get(code, 409), _without_descriptor(str(error)))
            except OSError as error:
                code = error.errno or errno.EIO
                return _Failure(_STATUS.get(code, 409), error.strerror or str(error))

        with anyio.move_on_after(_ANSWER_S_MAX):
            return await anyio.to_thread.run_sync(
                run, limiter=self._limiter, abandon_on_cancel=True
            )
        return _Failure(504, f"the mount did not answer within {_ANSWER_S_MAX:g} s")


class _Failure:
    """Why there is no answer."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text

    def response(self) -> Response:
        return JSONResponse(shown({"error": self.text}), self.status)


async def _read_body(request: Request) -> dict[str, Any] | _Failure:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return _Failure(415, "a change is asked for in JSON")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY_BYTES_MAX:
            return _Failure(413, "the body is too long")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return _Failure(400, "the body is no JSON")
    return body if isinstance(body, dict) else _Failure(400, "the body is no object")


def _without_descriptor(message: str) -> str:
    """Return a message without the name that a file has while it is open here."""
    first, colon, rest = message.partition(": ")
    return rest if colon and first.startswith("/proc/self/fd/") else message


def _found(mount: Mount, text: str, sort: str | None, token: str | None, at: str) -> dict[str, Any]:
    """Return what is shown of a search at once: as much as is found until `_SEARCH_S`.

    A page of an answer may be short or empty where each file has to be looked at.
    """
    until_s = time.monotonic() + _SEARCH_S
    files: list[Any] = []
    notes: list[str] = []
    while True:
        report = mount.query(
            text,
            sort=sort or None,
            token=token or None,
            at=at or None,
            limit=_FOUND_SHOWN - len(files),
        )
        files += report["files"]
        notes += report["notes"]
        token = report["token"]
        if token is None or len(files) == _FOUND_SHOWN or time.monotonic() > until_s:
            return {**report, "files": files, "notes": notes}


def uses_below(path: str, files: Iterable[HotFileReport]) -> dict[str, float]:
    """Return the decayed opens of files by the name in a directory that they are, or are below.

    Args:
        path: The directory, from the root of the mount.
        files: Those that are opened most.
    """
    above = f"/{path}/" if path else "/"
    found: dict[str, float] = {}
    for each in files:
        if each["path"].startswith(above):
            name = each["path"].removeprefix(above).partition("/")[0]
            found[name] = found.get(name, 0.0) + each["uses"]
    return found


def _silent(_what: str, _done: int, _total: int) -> None:
    return


def make_app(
    mountpoint: Path,
    keys: Secrets,
    names: Iterable[str],
    feed: Feed,
    reprice: Callable[[PricesReport], PricesReport],
) -> Gate:
    """Return the application with its gate.

    Args:
        mountpoint: Where the mount is.
        keys: What opens the gate.
        names: Those of the server, as of `Gate`.
        feed: Runs with the application.
        reprice: As of `Page`.
    """
    page = Page(mountpoint, keys, feed, reprice)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.run)
            yield
            tasks.cancel_scope.cancel()

    app = Starlette(routes=[Below(f"/{keys.place}", routes=page.routes())], lifespan=lifespan)
    gate = Gate(app, keys, names)
    page.gate = gate
    return gate
