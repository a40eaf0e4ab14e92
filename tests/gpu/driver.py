"""The fake CUDA driver: built once a session, used by processes that are started with it.

Invariant: this process itself never loads it: the bindings keep the first driver that they find.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_cuda.c")


def build(directory: Path) -> Path:
    """Build the driver into a directory and return that."""
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    target = directory / "libcuda.so.1"
    done = subprocess.run(
        [*command, "-o", target, SOURCE, "-ldl"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return directory


def run_with(driver: Path | None, program: str, **settings: str) -> str:
    """Run a Python program with a driver and return what it prints.

    Args:
        driver: Directory of the fake one; None: whatever the machine has.
        program: Its text.
        settings: Further environment variables.

    Raises:
        AssertionError: It failed, with what it said.
    """
    environment = os.environ | settings
    if driver is not None:
        environment["LD_LIBRARY_PATH"] = str(driver)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def gpu_count() -> int:
    """Return how many GPUs this machine's own driver shows; 0: it has no GPU, or no driver."""
    program = """
from memfs.hot.devices.cuda_calls import device_count
from memfs.hot.devices.device import DeviceError
try:
    print(device_count())
except DeviceError:
    print(0)
"""
    return int(run_with(None, program))
