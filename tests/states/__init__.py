"""State directories of older formats, as versions of memfs that wrote them have left them.

`format-2.tar.xz` was made by the last version with format 2: killed in the middle of its work, so
that the journals have changes that the tables lack. It has raw, packed, remote and batched forms,
in clear and encrypted (`tests.crash.moves_scenario.KEYS`), xattrs, links, pins, codecs, moves under
way, garbage of all kinds, an orphan, and a form in quarantine. `expected.json` beside it is what
that version told of all of it.

`triggers-journal.tar.xz` and `triggers-tables.tar.xz` are of the last version that left undo rows
to triggers: killed with snapshots, of which one is leaving, and with changes in the journal that
the tables lack. In the first one the tables have no snapshot yet, in the second one they have one,
and the triggers. `expected.json` has the trees of the snapshots and all undo rows.

`export-1.tar.xz` is no state directory but an object store (`unpack_store`): the last version that
left named stores and sources out of an export has filled it as `tests.unit.test_exports.fill` does.
"""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any


def unpack(target: Path, name: str = "format-2") -> tuple[Path, dict[str, Any]]:
    """Unpack a state directory; returns it, and what is expected of it."""
    archive = Path(__file__).with_name(f"{name}.tar.xz")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    expected: dict[str, Any] = json.loads((target / "expected.json").read_text())
    state_dir = target / "state"
    # The archive keeps times less exactly than a sealed file's are compared.
    for path, mtime_ns in expected["raw_mtimes_ns"].items():
        os.utime(state_dir / path, ns=(mtime_ns, mtime_ns))
    return state_dir, expected


def unpack_store(target: Path, name: str = "export-1") -> dict[str, Any]:
    """Unpack an object store into `target/store`; returns what is expected of its export."""
    with tarfile.open(Path(__file__).with_name(f"{name}.tar.xz")) as tar:
        tar.extractall(target, filter="data")
    expected: dict[str, Any] = json.loads((target / "expected.json").read_text())
    return expected
