"""The command line without a mount: refusals, their exit codes, and what is printed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import trio

from memfs.config import MetadataConfig
from memfs.errors import UsageError
from memfs.exit_codes import MEANINGS, ExitCode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.store_record import record_store
from memfs_daemon.state_lock import StateLock
from memfs_tools.arguments import PlacePath
from memfs_tools.launch import START_S_MAX, start_daemon
from memfs_tools.lazy_group import commands_of
from memfs_tools.main import list_commands, run
from memfs_tools.places import default_state_dir, escape_path
from tests.states import unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def _refused(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run a command that must fail with one line; return its exit code and the line."""
    code = run([str(argument) for argument in arguments])
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith("memfs: ")
    assert output.err.count("\n") == 1
    return code, output.err


@pytest.mark.parametrize("command", ["", *(command.name for command in list_commands())])
def test_every_command_explains_itself(capfd: pytest.CaptureFixture[str], command: str) -> None:
    assert run([*command.split(), "--help"]) == 0
    text = capfd.readouterr().out
    if command != "version":
        example = rf"^  \S*.*memfs {command or 'mount'} \S+"
        assert re.search(example, text.partition("Options:")[0], re.MULTILINE), text
        assert "\\b" not in text
    if not command:
        assert all(meaning in text for meaning in MEANINGS.values())


def _leaves(commands: Iterable[click.Command]) -> Iterator[click.Command]:
    for command in commands:
        if isinstance(command, click.Group):
            yield from _leaves(commands_of(command))
        else:
            yield command


def test_no_command_looks_at_a_mountpoint_to_read_its_arguments() -> None:
    """`click.Path` does, and hangs where the daemon does, before any limit of time begins."""
    types = [
        parameter.type
        for command in _leaves(list_commands())
        for parameter in command.params
        if parameter.name in ("mountpoint", "place")
    ]
    assert len(types) > 20
    assert all(isinstance(each, PlacePath) for each in types)


def test_an_empty_path_is_no_path_of_any_command(capfd: pytest.CaptureFixture[str]) -> None:
    """`memfs mount "$UNSET"` mounted over the working directory."""
    types = [
        parameter.type
        for command in _leaves(list_commands())
        for parameter in command.params
        if isinstance(parameter.type, click.Path | PlacePath)
    ]
    assert len(types) > 60
    for each in types:
        with pytest.raises(click.BadParameter, match="the path is empty"):
            each.convert("", None, None)
    for arguments in (
        ["mount", ""],
        ["umount", ""],
        ["adopt", "s3://b", ""],
        ["tag", "", "key=value"],
    ):
        code, line = _refused(capfd, *arguments)
        assert code == ExitCode.USAGE
        assert "the path is empty" in line


def test_without_a_command_the_help_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([]) == ExitCode.USAGE
    assert "Usage: memfs" in capfd.readouterr().out


def test_version_names_memfs_python_and_kernel(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert capfd.readouterr().out.startswith("memfs 0.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mont"], "No such command 'mont'"),
        (
            ["mount"],
            "Missing argument 'MOUNTPOINT'. Usage: `memfs mount [OPTIONS] MOUNTPOINT`; see",
        ),
        (
            ["mount", "state", "{dir}"],
            "extra argument ({dir}). Usage: `memfs mount [OPTIONS] MOUNT",
        ),
        # click has quotes around the option since 8.4.
        (["status", "--jsn", "{dir}"], "Did you mean "),
        (["mount", "--driver", "fuse2", "/"], "'fuse2' is not one of"),
        (["mount", "-o", "noatme", "{dir}"], "did you mean 'noatime'"),
        (["mount", "-o", "warm.szie=1", "{dir}"], "did you mean 'size'"),
        (["mount", "-o", "cold.frame=1", "{dir}"], "out of range: 4KiB to 64MiB"),
        (["mount", "-c", "{dir}/none", "{dir}"], "cannot read the configuration"),
        (["mount", "{dir}/none"], "does not exist; make it: mkdir -p"),
        (["mount", "{dir}/file"], "is not a directory"),
        (["mount", "{dir}/file/below"], "cannot be a mountpoint: Not a directory"),
        (["mount", "--state", "{dir}/below", "{dir}"], "lies inside the mountpoint"),
        (["mount", "--state", "{dir}", "{dir}"], "lies inside the mountpoint"),
        (["mount", "--state", "{dir}/..", "{dir}"], "lies inside the state directory"),
        (["pin", "lukewarm", "{dir}"], "'lukewarm' is not one of"),
        (["pin", "warm"], "Missing argument 'PATH...'"),
    ],
)
def test_a_wrong_call_is_one_clear_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    code, line = _refused(capfd, *[text.replace("{dir}", str(tmp_path)) for text in arguments])
    assert code == ExitCode.USAGE
    assert expected.replace("{dir}", str(tmp_path)) in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [["umount", "{dir}"], ["status", "{dir}"], ["pin", "warm", "{dir}"], ["why", "{dir}"]],
)
def test_what_is_not_on_memfs_is_said_to_be_so(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    code, line = _refused(capfd, *[text.replace("{dir}", str(tmp_path)) for text in arguments])
    assert code == ExitCode.NOT_MOUNTED
    assert str(tmp_path) in line


def test_pin_goes_on_after_a_failure(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = run(["pin", "warm", str(tmp_path / "none"), str(tmp_path)])
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "No such file" in lines[0]
    assert code == ExitCode.PROBLEMS


# --- fsck ----------------------------------------------------------------------------------------
@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    SqliteEngine.open(path, MetadataConfig()).close()
    return path


def test_fsck_of_a_whole_state_finds_nothing(
    capfd: pytest.CaptureFixture[str], state: Path
) -> None:
    assert run(["fsck", str(state)]) == ExitCode.OK
    assert capfd.readouterr().out == f"{state}: clean; 0 files, 0 forms checked\n"


def test_fsck_tells_programs_in_json(capfd: pytest.CaptureFixture[str], state: Path) -> None:
    assert run(["fsck", "--json", str(state)]) == ExitCode.OK
    report = json.loads(capfd.readouterr().out)
    assert report["clean"] is True
    assert report["problems"] == []


def test_fsck_refuses_another_object_store_than_the_last_mount_had(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, state: Path
) -> None:
    """Every object would seem lost, and sound files would be given up for it."""

    async def record() -> None:
        engine = SqliteEngine.open(state, MetadataConfig())
        try:
            await record_store(engine, f"file://{tmp_path}/objects")
        finally:
            engine.close()

    trio.run(record)
    code, line = _refused(capfd, "fsck", state)
    assert code == ExitCode.USAGE
    assert f"the last mount had file://{tmp_path}/objects" in line
    (tmp_path / "objects").mkdir()
    option = f"glacier.url=file://{tmp_path}/objects"
    assert run(["fsck", "-o", option, str(state)]) == ExitCode.OK
    assert run(["fsck", "-o", "glacier.enabled=false", str(state)]) == ExitCode.OK


@pytest.mark.parametrize(
    "option", ["glacier.storage_class=GLACIER", "glacier.server_side_encryption=AES256"]
)
def test_what_a_store_does_not_know_is_refused(
    capfd: pytest.CaptureFixture[str], state: Path, option: str
) -> None:
    """A directory would take it and do nothing."""
    code, line = _refused(capfd, "fsck", "-o", option, state)
    assert code == ExitCode.USAGE
    assert option.partition("=")[0] in line


def test_fsck_leaves_a_state_in_use_alone(capfd: pytest.CaptureFixture[str], state: Path) -> None:
    with StateLock(state, Path("/mnt/data")):
        code, line = _refused(capfd, "fsck", state)
    assert code == ExitCode.STATE_IN_USE
    assert f"process {os.getpid()}, which serves /mnt/data" in line


def test_fsck_says_when_it_cannot_reach_the_object_store(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, state: Path
) -> None:
    """Objects that cannot be asked for are not missing: the state is neither whole nor damaged."""
    pytest.importorskip("s3fs")
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        config = tmp_path / "config.toml"
        config.write_text(
            '[glacier]\nurl = "s3://bucket/prefix"\ntimeout = "1s"\n[glacier.options]\n'
            f'endpoint_url = "http://127.0.0.1:{unheard.getsockname()[1]}"\n'
            'key = "k"\nsecret = "s"\n'
        )
        code, line = _refused(capfd, "fsck", "-c", config, state)
    assert code == ExitCode.NO_ANSWER
    assert str(state) in line


def test_fsck_of_an_older_format_says_that_a_mount_migrates_it(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    older, _ = unpack(tmp_path)
    code, line = _refused(capfd, "fsck", older)
    assert code == ExitCode.STATE_UNUSABLE
    assert "format 2" in line
    assert "mount it, which migrates it" in line


@pytest.mark.parametrize("format_text", [None, "{", '{"format": 99, "engine": "sqlite"}'])
def test_fsck_and_mount_leave_what_they_do_not_know_untouched(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, format_text: str | None
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "thesis.tex").write_text("x")
    if format_text is not None:
        (state / "format").write_text(format_text)
    before = sorted(state.iterdir())
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    calls: list[list[str | Path]] = [["fsck", state], ["mount", "--state", state, mountpoint]]
    for arguments in calls:
        code, line = _refused(capfd, *arguments)
        assert code == ExitCode.STATE_UNUSABLE, line
        assert str(state) in line
        assert sorted(state.iterdir()) == before


# --- starting a daemon ---------------------------------------------------------------------------
def _start(tmp_path: Path, script: str, start_s_max: float = START_S_MAX) -> None:
    """Start a shell script as the daemon, which finds its pipe as `$fd`."""
    program = tmp_path / "daemon"
    program.write_text(
        '#!/bin/bash\nwhile [ "$1" != --ready-fd ]; do shift; done; fd=$2\n' + script + "\n"
    )
    program.chmod(0o755)
    start_daemon(
        ["--state", str(tmp_path)],
        tmp_path / "mnt",
        tmp_path,
        program=[str(program)],
        start_s_max=start_s_max,
    )


def test_mount_returns_when_the_daemon_is_ready(tmp_path: Path) -> None:
    _start(tmp_path, "echo '{\"ready\": true}' >&$fd")


def test_progress_is_shown_and_gives_the_daemon_more_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A migration takes as long as it takes, and says how far it is."""
    steps = 'for i in 1 2 3; do echo "{\\"progress\\": \\"step $i\\"}" >&$fd; sleep 0.7; done; '
    _start(tmp_path, steps + "echo '{\"ready\": true}' >&$fd", start_s_max=1.5)
    assert capfd.readouterr().err.splitlines() == [f"memfs: step {step}" for step in (1, 2, 3)]


def test_the_reason_of_the_daemon_is_the_users(tmp_path: Path) -> None:
    answer = '{"ready": false, "message": "no /dev/fuse", "exit_code": 6}'
    script = f"echo '{answer}' >&$fd"
    with pytest.raises(UsageError, match=r"^no /dev/fuse$") as caught:
        _start(tmp_path, script)
    assert caught.value.exit_code == ExitCode.CANNOT_MOUNT


def test_a_daemon_that_dies_without_a_word_is_reported_with_its_last_one(tmp_path: Path) -> None:
    script = "echo Traceback >&2; echo 'E: no trio' >&2; exit 3"
    with pytest.raises(UsageError, match=r"ended with status 3 before it served: E: no trio$"):
        _start(tmp_path, script)


def test_a_daemon_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    script = f"echo $$ >{tmp_path}/pid; exec sleep 600"
    with pytest.raises(UsageError, match=r"was not served within 1 s") as caught:
        _start(tmp_path, script, start_s_max=1.0)
    assert caught.value.exit_code == ExitCode.NO_ANSWER
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


# --- places --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "expected"),
    [("/mnt/data", "mnt-data"), ("/", "-"), ("/a-b/.c d", r"a\x2db-.c\x20d"), ("/.x", r"\x2ex")],
)
def test_names_of_mountpoints_are_those_of_systemd(path: str, expected: str) -> None:
    assert escape_path(Path(path)) == expected


def test_default_states_are_where_each_user_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_state_dir(Path("/mnt/data"), 1000) == tmp_path / "memfs/mnt-data"
    assert default_state_dir(Path("/mnt/data"), 0) == Path("/var/lib/memfs/mnt-data")


# --- as a process --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["umount", "/"], ExitCode.NOT_MOUNTED),
        (["status", "/nowhere"], ExitCode.NOT_MOUNTED),
        (["mount", "/nowhere"], ExitCode.USAGE),
        (["why", "/nowhere"], ExitCode.PROBLEMS),
    ],
)
def test_the_process_ends_with_the_code_and_one_line(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "memfs_tools", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("memfs: ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m memfs_tools --help | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout == "U0\n"


INTERRUPTING = """
import os, signal, sys

wanted = sys.argv.pop(1)

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
        return None

sys.meta_path.insert(0, Interrupter())
from memfs_tools.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module",
    ["memfs_tools.main", "click", "memfs.errors", "memfs_tools.commands.status"],
)
def test_ctrl_c_while_a_command_imports_ends_it_quietly(module: str) -> None:
    """An import takes longer than all that many commands do."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTING, module, "status", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


_RUN = re.compile(r"-m(?:\"?,\s*\"|\s+)((?:memfs|memfs_daemon|memfs_tools|tests)(?:\.\w+)*)\b")


def test_every_module_that_is_run_can_be_run() -> None:
    """One without a part for that ends with 0, and has done nothing."""
    root = Path(__file__).parents[2]
    sources = ("memfs", "daemon/memfs_daemon", "tools", "tests", "systemd", ".ci", "docs")
    found: dict[str, Path] = {}
    for folder in sources:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in ("", ".py", ".sh", ".md", ".service") and path.is_file():
                for name in _RUN.findall(path.read_text(encoding="utf-8", errors="replace")):
                    found.setdefault(name, path)
    assert "memfs_tools" in found
    assert [(name, path) for name, path in found.items() if not _runs(root, name)] == []


def _runs(root: Path, name: str) -> bool:
    top, *below = name.split(".")
    start = {"memfs_daemon": root / "daemon", "memfs_tools": root / "tools"}.get(top, root)
    place = start.joinpath(top, *below)
    if place.is_dir():
        return (place / "__main__.py").exists()
    module = place.with_suffix(".py")
    return module.exists() and 'if __name__ == "__main__":' in module.read_text()
