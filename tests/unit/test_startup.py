"""What starting costs: which modules a command and the daemon import before they work.

Whole imports are compared, not times: a heavy module in the way of `memfs mount` costs as much as
all that it needs otherwise.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HEAVY_FOR_COMMANDS = {
    *("trio", "rich", "fsspec", "s3fs", "zstandard", "lz4", "cramjam", "blake3", "xxhash"),
    *("sqlite3", "dataclasses", "logging", "tempfile", "importlib.metadata", "pyfuse3"),
    *("memfs.config_file", "memfs.metadata", "memfs.stores", "memfs.codecs", "memfs.fsck"),
}
"""None of these does anything for a command that only speaks to the kernel or to the daemon."""

HEAVY_FOR_DAEMON = {
    *("rich", "click", "fsspec", "s3fs", "asyncio", "multiprocessing", "importlib.metadata"),
    *("email", "tomllib", "pyfuse3", "memfs_daemon.pyfuse3.driver", "memfs_daemon.kernel.driver"),
    *("memfs.fsck", "memfs_tools"),
}
"""Some mounts need some of these; they are imported when it is known that this one does."""


def modules_after(tmp_path: Path, code: str, *arguments: str | Path) -> set[str]:
    """The modules that a new interpreter has at its end; `code` sees `arguments` as its own."""
    told = tmp_path / "modules"
    script = (
        "import atexit, sys\n"
        f"atexit.register(lambda: open({str(told)!r}, 'w').write(' '.join(sys.modules)))\n{code}"
    )
    subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=60,
        cwd="/",
    )
    return set(told.read_text().split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["mount", "--state", "{dir}/state", "{dir}"],
        ["umount", "{dir}"],
        ["status", "--json", "{dir}"],
        ["top", "{dir}"],
        ["pin", "warm", "{dir}"],
        ["unpin", "{dir}"],
        ["why", "--json", "{dir}"],
        ["version"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_a_command_imports_only_what_it_uses(tmp_path: Path, arguments: list[str]) -> None:
    """Each refuses here, after its module was imported."""
    code = "from memfs_tools.main import main\nmain()"
    given = [argument.replace("{dir}", str(tmp_path)) for argument in arguments]
    modules = modules_after(tmp_path, code, *given)
    assert any(name.startswith("memfs_tools.commands.") for name in modules)
    assert modules & HEAVY_FOR_COMMANDS == set()


def test_mount_imports_nothing_heavy_on_the_way_to_the_daemon(tmp_path: Path) -> None:
    code = "from memfs_tools.launch import start_daemon\nimport memfs_tools.commands.mount"
    assert modules_after(tmp_path, code) & HEAVY_FOR_COMMANDS == set()


def test_the_daemon_imports_only_what_every_mount_needs(tmp_path: Path) -> None:
    modules = modules_after(tmp_path, "import memfs_daemon.main")
    assert "memfs_daemon.assembly" in modules
    assert modules & HEAVY_FOR_DAEMON == set()


@pytest.mark.parametrize(
    ("module", "code", "extra"),
    [
        ("torch", "import memfs.torch", "torch"),
        ("torch", "from memfs import HotMemory", "torch"),
        ("torch", "from memfs.hot_memory import HotMemory", "torch"),
        ("anyio", "from memfs.aio import MemoryManager", "aio"),
    ],
)
def test_a_package_that_is_missing_is_told_with_its_extra(
    module: str, code: str, extra: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.modules[{module!r}] = None\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"needs the package {module}: " in done.stderr.replace("need the", "needs the")
    assert f"pip install 'memfs-tiers[{extra}]'" in done.stderr.splitlines()[-1]
