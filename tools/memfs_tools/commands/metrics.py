"""`memfs metrics`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from memfs import __version__
from memfs.errors import InvalidValueError, MemfsError, UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import parse_duration
from memfs_tools.arguments import MOUNTPOINT, GivenPath
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import complain, tell_lines
from memfs_tools.whole_files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from memfs.client.mount import Mount

_SEND_S_MAX = 10.0
_PATH = "/v1/metrics"
"""Where a receiver takes metrics, if the URL says nothing else."""
_ANSWER_BYTES_MAX = 64 << 10


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "--textfile",
    type=GivenPath(dir_okay=False),
    metavar="FILE",
    help="Write there, whole or not at all: for the textfile collector of node_exporter.",
)
@click.option(
    "--otlp",
    metavar="URL",
    help="Send them to an OpenTelemetry collector (OTLP over HTTP, in JSON), such as "
    "http://localhost:4318.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Send this header along with --otlp, such as a token; may be given several times.",
)
@click.option(
    "--every", metavar="DURATION", help="With --otlp: go on until Ctrl-C, such as every 30s."
)
def metrics(
    mountpoint: Path,
    textfile: Path | None,
    otlp: str | None,
    headers: tuple[str, ...],
    every: str | None,
) -> None:
    """Print all metrics of a mount in the text format of Prometheus.

    \b
    memfs metrics /mnt/data
    memfs metrics /mnt/data --textfile /var/lib/node_exporter/textfile/memfs.prom
    memfs metrics /mnt/data --otlp http://localhost:4318 --every 30s
    cat /mnt/data/.memfs/metrics

    The reference lists their names, units and meanings.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    if otlp is None and (headers or every is not None):
        raise click.UsageError("--header and --every go with --otlp.")
    if otlp is not None:
        if textfile is not None:
            raise click.UsageError("--textfile and --otlp exclude each other.")
        _send(mountpoint, _address(otlp), dict(map(_header, headers)), every)
        return
    text = require_mount(mountpoint).metrics()
    if textfile is None:
        tell_lines(text.removesuffix("\n"))
    else:
        write_whole(textfile, text, 0o644)


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(f"--otlp {text} is no URL; as in http://localhost:4318.")
    return parts._replace(path=_PATH).geturl() if parts.path in ("", "/") else text


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or any(each in text for each in "\r\n"):
        raise click.UsageError("--header takes NAME=VALUE.")
    return name.strip(), value.strip()


def _send(mountpoint: Path, url: str, headers: Mapping[str, str], every: str | None) -> None:
    """Send once, or again and again; what fails then is told, and tried again the next time."""
    if every is None:
        _post(require_mount(mountpoint), url, headers)
        return
    try:
        pause_s = parse_duration(every)
    except InvalidValueError as error:
        raise UsageError(f"--every: {error}") from None
    if pause_s < 1:
        raise UsageError(f"--every {every}: a second is the least")
    # What cannot be at all is told at once.
    require_mount(mountpoint)
    while True:
        try:
            _post(require_mount(mountpoint), url, headers)
        except MemfsError as error:
            complain(str(error))
        time.sleep(pause_s)


def _post(mount: Mount, url: str, headers: Mapping[str, str]) -> None:
    # Imported here: other uses of the command do not need them.
    import http.client
    import urllib.error
    import urllib.request

    from memfs.metrics.otlp import request_of

    body = json.dumps(request_of(mount.metrics(), time.time_ns(), __version__)).encode()
    request = urllib.request.Request(
        url, body, {"Content-Type": "application/json", **headers}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_SEND_S_MAX) as answer:
            told = json.loads(answer.read(_ANSWER_BYTES_MAX) or b"{}")
    except urllib.error.HTTPError as error:
        with error:
            raise UsageError(
                f"{url} refuses the metrics: {error.code} {error.reason}; is it the address of "
                "OTLP over HTTP, and is a --header missing?",
                ExitCode.PROBLEMS,
            ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UsageError(f"{url} does not answer: {reason}", ExitCode.NO_ANSWER) from None
    except (ValueError, RecursionError):
        raise UsageError(f"{url} answers, and not as OTLP does", ExitCode.PROBLEMS) from None
    partial = told.get("partialSuccess") or {}
    if int(partial.get("rejectedDataPoints", 0)):
        raise UsageError(
            f"{url} rejects {partial['rejectedDataPoints']} values: "
            f"{partial.get('errorMessage', 'it does not say why')}",
            ExitCode.PROBLEMS,
        )
