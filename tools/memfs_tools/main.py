"""`memfs`: the command line.

Invariant: what a user did wrong, or the system does not allow, is one line on standard error and an
exit code of the table; a traceback is a defect.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

import click

from memfs.errors import MemfsError, UsageError
from memfs.exit_codes import MEANINGS, ExitCode
from memfs_tools.lazy_group import LazyGroup, commands_of
from memfs_tools.terminal import complain, tell_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = "\b\nExit status:\n" + "\n".join(
    f"  {code.value}  {meaning}" for code, meaning in MEANINGS.items()
)


_MODULES = {
    "mount": "mount",
    "umount": "umount",
    "format": "format",
    "migrate": "migrate",
    "node": "node",
    "status": "status",
    "top": "top",
    "health": "health",
    "report": "report",
    "web": "web",
    "metrics": "metrics",
    "pin": "pin",
    "unpin": "pin",
    "freeze": "freeze",
    "thaw": "freeze",
    "why": "why",
    "query": "query",
    "tag": "tag",
    "index": "index",
    "catalog": "catalog",
    "pool": "pool",
    "policy": "policy",
    "clone": "clone",
    "adopt": "adopt",
    "release": "adopt",
    "prefetch": "prefetch",
    "snapshot": "snapshot",
    "tensor-snapshots": "tensor_snapshots",
    "trace": "trace",
    "what-if": "what_if",
    "key": "key",
    "rekey": "rekey",
    "stores": "stores",
    "relocate": "relocate",
    "publish": "publish",
    "compress": "compress",
    "barrier": "barrier",
    "scrub": "scrub",
    "gc": "gc",
    "fsck": "fsck",
    "version": "version",
}
"""Modules of `memfs_tools.commands` by the command that they hold, in the order of the help."""


@click.group(
    cls=LazyGroup,
    places={
        name: f"memfs_tools.commands.{module}:{name.replace('-', '_')}"
        for name, module in _MODULES.items()
    },
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
def cli() -> None:
    """One directory whose files live in RAM, on disk or in an object store.

    \b
    Start:   memfs mount /mnt/data
    Use:     cp, mv, open(), mmap() as anywhere
    Steer:   memfs pin warm /mnt/data/hot-set
             setfattr -n user.memfs.tier -v glacier /mnt/data/old
    Look:    memfs status /mnt/data
             memfs why /mnt/data/old/file
             memfs top /mnt/data
    Stop:    memfs umount /mnt/data
    """  # noqa: D301 - \b is for click: keep the lines below as they are


def list_commands() -> list[click.Command]:
    """Return all commands, imported, in the order of the help."""
    return commands_of(cli)


def main() -> None:
    """Run the command line of this process and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names need not be text, nor the terminal's encoding know a bar.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        outcome = cli.main(list(arguments), prog_name="memfs", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        tell_lines(error.format_message())
        return ExitCode.USAGE
    except click.UsageError as error:
        fault = _one_line(error)
        stop = "" if fault.endswith((".", "?")) else "."
        return _complain(f"{fault}{stop} {_way(error.ctx)}", ExitCode.USAGE)
    except click.ClickException as error:
        return _complain(_one_line(error), ExitCode.USAGE)
    except UsageError as error:
        return _complain(str(error), error.exit_code)
    except MemfsError as error:
        return _complain(str(error), ExitCode.PROBLEMS)
    except (KeyboardInterrupt, click.Abort):
        return 130  # 128 + SIGINT, as shells say it
    except (BrokenPipeError, SystemExit):
        # The second one is click's answer to the first.
        # The reader of the output has gone (`memfs status X | head`); nothing more can be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        subject = f"{error.filename}: " if error.filename else ""
        return _complain(f"{subject}{error.strerror or error}", ExitCode.PROBLEMS)
    return outcome if isinstance(outcome, int) else ExitCode.OK


def _way(context: click.Context | None) -> str:
    """Return what tells a user how the command is called."""
    if context is None:
        return "See `memfs --help`."
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return f"Usage: `{context.command_path} {pieces}`; see `{context.command_path} --help`."


def _one_line(error: click.ClickException) -> str:
    """Return what click says of an error; it lists choices on lines of their own."""
    return " ".join(line.strip() for line in error.format_message().split("\n"))


def _complain(message: str, exit_code: int) -> int:
    complain(message)
    return int(exit_code)
