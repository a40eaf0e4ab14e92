"""A headless browser, as a command: what a page comes to, complains of, and asks for."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

WAIT_S_MAX = 120.0
"""Far above what a page takes; a browser that hangs is a failure and no stuck run."""


_BROWSER = "not an origin"


class Page(NamedTuple):
    """What a browser made of a page."""

    document: str
    """HTML, as the scripts have left it."""
    complaints: list[str]
    """Lines of its console."""
    requests: list[str]
    """URLs that it asked for over a network."""


def browse(path: Path, work: Path, *, dark: bool = False, picture: bool = False) -> Page:
    """Open a file in chromium, in a profile of its own.

    Args:
        path: An HTML file.
        work: An empty directory.
        dark: In the dark colour scheme.
        picture: Also make `picture.png` there.
    """
    net_log = work / "net.json"
    arguments = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        # The browser itself asks for updates and the time; that is not the page.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *("--window-size=1000,6000", "--enable-logging=stderr", f"--log-net-log={net_log}"),
        *(f"--user-data-dir={work / 'profile'}", "--virtual-time-budget=5000"),
        *(("--blink-settings=preferredColorScheme=0",) if dark else ()),
        *((f"--screenshot={work / 'picture.png'}",) if picture else ("--dump-dom",)),
        path.as_uri(),
    ]
    done = subprocess.run(arguments, capture_output=True, timeout=WAIT_S_MAX, check=True, cwd=work)
    complaints = re.findall(r'CONSOLE[^"]*"(.*)", source', done.stderr.decode())
    started = (event.get("params", {}) for event in json.loads(net_log.read_text())["events"])
    requests = [
        each["url"]
        for each in started
        # A request of the browser has "not an origin" there, and one of a page its origin.
        if each.get("initiator", _BROWSER) != _BROWSER and not each["url"].startswith("file:")
    ]
    return Page(done.stdout.decode(), complaints, requests)
