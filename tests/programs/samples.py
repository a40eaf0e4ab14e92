"""Trees of files for programs to work on, the same for the same seed."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make_tree(root: Path, seed: int = 1, file_count: int = 120) -> None:
    """Fill `root` with files of many sizes, links, attributes, modes, owners and times."""
    rng = random.Random(seed)
    directories = [root]
    for number in range(12):
        directory = rng.choice(directories) / f"directory {number}"
        directory.mkdir(parents=True)
        directories.append(directory)
    files = []
    for number in range(file_count):
        path = rng.choice(directories) / f"file-{number}.bin"
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 100, 4096, 5000, 70_000, 300_000))))
        path.chmod(rng.choice((0o644, 0o600, 0o755, 0o4755, 0o444)))
        if number % 3 == 0:
            os.setxattr(path, "user.origin", b"made by a test %d" % number)
        if number % 7 == 0:
            os.chown(path, 54321, 54322)
            path.chmod(0o640)
        os.utime(path, ns=(rng.randrange(2 * 10**18), rng.randrange(2 * 10**18)))
        files.append(path)
    for number in range(10):
        os.link(rng.choice(files), rng.choice(directories) / f"hard-{number}")
        (rng.choice(directories) / f"soft-{number}").symlink_to(rng.choice(files).name)
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    os.setxattr(directories[1], "user.kind", b"directory")
