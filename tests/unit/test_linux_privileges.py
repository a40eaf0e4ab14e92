"""What the process may do, before and after it gives privileges up."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from memfs.linux.privileges import Capability, has_cap_sys_admin, has_capability

PRINT = """
from memfs.linux.privileges import *
print(has_cap_sys_admin(), has_capability(Capability.IPC_LOCK), in_initial_user_namespace())
"""


def run(*prefix: str) -> str:
    command = [*prefix, sys.executable, "-c", PRINT]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give privileges up")
def test_an_ordinary_user_has_no_capabilities() -> None:
    assert run("setpriv", "--reuid=65534", "--clear-groups").startswith("False False")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can drop a capability")
def test_a_dropped_capability_is_seen() -> None:
    drop = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    assert run(*drop).split()[1] == "False"


def test_sys_admin_of_another_user_namespace_does_not_count() -> None:
    if subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    assert run("unshare", "-Ur") == "False True False"


def test_the_two_questions_agree() -> None:
    if has_cap_sys_admin():
        assert has_capability(Capability.SYS_ADMIN)
