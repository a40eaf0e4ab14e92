"""fio writes patterns in many ways and verifies them (fio(1), `verify`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.programs.running import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.data_path


@pytest.mark.parametrize("pattern", ["write", "randwrite", "randrw"])
@pytest.mark.parametrize(
    ("engine", "direct"),
    [("psync", 0), ("psync", 1), ("mmap", 0), ("libaio", 0), ("libaio", 1), ("pvsync2", 0)],
)
def test_what_fio_wrote_verifies(place: Path, engine: str, direct: int, pattern: str) -> None:
    run(
        "fio",
        "--name=verify",
        f"--directory={place}",
        f"--ioengine={engine}",
        f"--direct={direct}",
        f"--rw={pattern}",
        "--size=8m",
        "--bsrange=4k-64k",
        "--bs_unaligned=0",
        "--blockalign=4k",
        "--iodepth=8",
        "--verify=crc32c",
        "--verify_state_save=0",
        "--verify_fatal=1",
        "--do_verify=1",
        "--randseed=7",
        "--fsync=64",
        "--output-format=terse",
    )


def test_jobs_side_by_side_verify(place: Path) -> None:
    run(
        "fio",
        "--name=many",
        f"--directory={place}",
        "--ioengine=psync",
        "--numjobs=3",
        "--nrfiles=10",
        "--size=4m",
        "--rw=randwrite",
        "--bs=4k",
        "--verify=crc32c",
        "--verify_state_save=0",
        "--verify_fatal=1",
        "--group_reporting",
        "--output-format=terse",
    )
