"""`memfsd`: the process that serves one mount.

Invariant: it ends with exit code 0 only after everything is closed; whoever started it hears one
line, ready or why not; a defect leaves a traceback in the log.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from memfs.config_file import load_config
from memfs.errors import MemfsError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.sqlite.format import read_format
from memfs_daemon import limits
from memfs_daemon.assembly import assemble, choose_driver
from memfs_daemon.lifecycle import run
from memfs_daemon.logs import LOG_NAME, start_logging
from memfs_daemon.notify import ServiceManager, Starter
from memfs_daemon.options import parse_options
from memfs_daemon.state_lock import StateLock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger(__name__)

_CREATION_LEFTOVERS = re.compile(
    r"lock|ids|format\.new|metadata\.db(-.*)?|journal\.\d|reserve|control\.sock|daemon\.log(\.\d)?"
    r"|lost\+found"
)
"""What may lie in a directory without a format file: the first mount was killed early, or the
directory is the root of a file system."""


def main() -> None:
    """Serve the mount that this process's arguments name, until it is unmounted; then exit."""
    arguments = _parse(sys.argv[1:])
    starter = Starter(arguments.ready_fd)
    try:
        with _one_line(arguments.state):
            _serve(arguments, starter, ServiceManager(os.environ))
    except UsageError as error:
        starter.failed(str(error), error.exit_code)
        if arguments.ready_fd is None:
            print(f"memfsd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BaseException:
        log.exception("the daemon ends because of a defect")
        message = f"a defect ended the daemon; see {arguments.state / LOG_NAME}"
        starter.failed(message, ExitCode.INTERNAL)
        sys.exit(ExitCode.INTERNAL)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="memfsd", description="Serve one mount of memfs; `memfs mount` starts it."
    )
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--state", type=Path, required=True, metavar="DIR")
    parser.add_argument("--config", type=Path, metavar="FILE")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPT,...")
    parser.add_argument("--foreground", action="store_true", help="log to standard error too")
    parser.add_argument("--debug", action="store_true", help="log every request")
    parser.add_argument("--ready-fd", type=int, metavar="FD", help="told one line when it serves")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _one_line(state_dir: Path) -> Iterator[None]:
    """Turn what can go wrong while starting into errors for users."""
    try:
        yield
    except UsageError:
        raise
    except MemfsError as error:
        log.error("%s", error)
        raise UsageError(f"{state_dir}: {error}", ExitCode.STATE_UNUSABLE) from error


def _serve(arguments: argparse.Namespace, starter: Starter, manager: ServiceManager) -> None:
    options = parse_options(arguments.options)
    config = load_config(arguments.config, options.overrides)
    driver = choose_driver(config.mount)
    limits.keep_private()
    _prepare_state(arguments.state)
    with StateLock(arguments.state, arguments.mountpoint):
        start_logging(arguments.state, foreground=arguments.foreground, debug=arguments.debug)
        limits.raise_limits()
        limits.protect_from_oom()
        log.info("serving %s from %s", arguments.mountpoint, arguments.state)
        with assemble(arguments.state, arguments.mountpoint, config, options, driver) as parts:
            trio.run(run, parts, starter, manager)
        log.info("ended: everything is closed")


def _prepare_state(state_dir: Path) -> None:
    """Make the state directory, or see that an existing one is ours; touches nothing else.

    Raises:
        UsageError: It cannot be made, or it holds something else.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if read_format(state_dir):
            return
        names = sorted(entry.name for entry in state_dir.iterdir())
    except UsageError as error:
        raise UsageError(str(error), ExitCode.STATE_UNUSABLE) from None
    except OSError as error:
        message = f"{state_dir} cannot be the state directory: {error.strerror}"
        raise UsageError(message, ExitCode.STATE_UNUSABLE) from None
    foreign = [name for name in names if not _CREATION_LEFTOVERS.fullmatch(name)]
    if foreign:
        raise UsageError(
            f"{state_dir} is no state directory of memfs, and holds {foreign[0]!r}; "
            "name an empty or a new one with --state",
            ExitCode.STATE_UNUSABLE,
        )


if __name__ == "__main__":
    main()
