"""`memfsd`: the process that serves one mount.

Invariant: it ends with exit code 0 only after everything is closed; its starter hears one
line, ready or why not; a defect leaves a traceback in the log.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from memfs.config_file import load_config
from memfs.errors import MemfsError, UsageError
from memfs.escaping import escape_text
from memfs.exit_codes import ExitCode
from memfs.linux.heap import bound_heap
from memfs.linux.processes import name_process
from memfs_daemon import limits
from memfs_daemon.assembly import assemble
from memfs_daemon.driver_choice import choose_driver
from memfs_daemon.lifecycle import run
from memfs_daemon.logs import LOG_NAME, start_logging
from memfs_daemon.notify import ServiceManager, Starter
from memfs_daemon.options import parse_options
from memfs_daemon.state_dir import prepare_state
from memfs_daemon.state_lock import StateLock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger(__name__)


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
            print(f"memfsd: {escape_text(str(error))}", file=sys.stderr)
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
    parser.add_argument(
        "--ready-fd", type=int, metavar="FD", help="told when it serves, a line of JSON"
    )
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
    name_process("memfsd")
    prepare_state(arguments.state)
    with StateLock(arguments.state, arguments.mountpoint) as lock:
        start_logging(arguments.state, foreground=arguments.foreground, debug=arguments.debug)
        limits.raise_limits()
        bound_heap(config.mount.request_bytes_max)
        limits.protect_from_oom()
        log.info("serving %s from %s", arguments.mountpoint, arguments.state)

        def tell(progress: str) -> None:
            log.info("%s: %s", arguments.state, progress)
            starter.tell(progress)
            manager.extend_start(progress)

        with assemble(
            arguments.state, arguments.mountpoint, config, options, driver, tell
        ) as parts:
            trio.run(run, parts, lock, starter, manager)
        log.info("ended: everything is closed")
