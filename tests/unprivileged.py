"""Programs of an ordinary user, who may mount through fusermount3.

/dev/fuse is open to all on common distributions, but not in every container: a program runs in a
mount namespace of its own, where a device node of mode 0666 covers it; nothing of it stays.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.namespaces import in_namespace

REPOSITORY = Path(__file__).parents[1]

IN_NAMESPACE = """
mount -t tmpfs -o mode=0755 none "$1"
mknod -m 0666 "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
if [ -n "$4" ]; then
    # The user is to reach the interpreter, and nothing else there.
    mkdir "$1/interpreter"
    mount --bind "$5" "$1/interpreter"
    mount -t tmpfs -o mode=0755 none "$4"
    mkdir -p "$5"
    mount --bind "$1/interpreter" "$5"
fi
install -d -o 65534 -g 65534 "$1/base"
cd "$1/base"
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$2" -c "$3" "$1/base"
"""


def run(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run a program as nobody in a directory of its own, which is its first argument."""
    words = (directory, sys.executable, code, _closed_to_others(), sys.base_prefix)
    return subprocess.run(
        in_namespace(IN_NAMESPACE, *words),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )


def _closed_to_others() -> str:
    """Return the directory above the interpreter that only root may enter; empty: any user may."""
    for directory in reversed(Path(sys.base_prefix).parents):
        if not directory.stat().st_mode & 0o001:
            return str(directory)
    return ""
