"""The layouts of the FUSE protocol against literal sizes, and against the machine's header."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from struct import Struct

import pytest

from memfs_daemon.kernel import protocol
from memfs_daemon.kernel.protocol import InitFlag, Opcode, SetattrField

HEADER_FILE = Path("/usr/include/linux/fuse.h")

STRUCTURES: list[tuple[str, Struct, int, str]] = [
    ("fuse_in_header", protocol.HEADER, 40, "len opcode unique nodeid uid gid pid"),
    ("fuse_out_header", protocol.REPLY_HEADER, 16, "len error unique"),
    ("fuse_init_out", protocol.INIT_OUT, 64,
     "major minor max_readahead flags max_background congestion_threshold max_write time_gran"
     " max_pages map_alignment flags2"),
    ("fuse_attr", protocol.ATTR, 88,
     "ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev"
     " blksize flags"),
    ("fuse_attr_out", protocol.ATTR_OUT, 104, "attr_valid attr_valid_nsec dummy attr"),
    ("fuse_entry_out", protocol.ENTRY_OUT, 128,
     "nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec attr"),
    ("fuse_dirent", protocol.DIRENT, 24, "ino off namelen type"),
    ("fuse_forget_in", protocol.FORGET_IN, 8, "nlookup"),
    ("fuse_batch_forget_in", protocol.BATCH_FORGET_IN, 8, "count dummy"),
    ("fuse_forget_one", protocol.FORGET_ONE, 16, "nodeid nlookup"),
    ("fuse_setattr_in", protocol.SETATTR_IN, 88,
     "valid padding fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode"
     " unused4 uid gid unused5"),
    ("fuse_mknod_in", protocol.MKNOD_IN, 16, "mode rdev umask padding"),
    ("fuse_mkdir_in", protocol.MKDIR_IN, 8, "mode umask"),
    ("fuse_rename_in", protocol.RENAME_IN, 8, "newdir"),
    ("fuse_rename2_in", protocol.RENAME2_IN, 16, "newdir flags padding"),
    ("fuse_link_in", protocol.LINK_IN, 8, "oldnodeid"),
    ("fuse_open_in", protocol.OPEN_IN, 8, "flags open_flags"),
    ("fuse_create_in", protocol.CREATE_IN, 16, "flags mode umask open_flags"),
    ("fuse_open_out", protocol.OPEN_OUT, 16, "fh open_flags"),
    ("fuse_read_in", protocol.READ_IN, 40, "fh offset size read_flags lock_owner flags padding"),
    ("fuse_write_in", protocol.WRITE_IN, 40,
     "fh offset size write_flags lock_owner flags padding"),
    ("fuse_write_out", protocol.WRITE_OUT, 8, "size padding"),
    ("fuse_release_in", protocol.RELEASE_IN, 24, "fh flags release_flags lock_owner"),
    ("fuse_fsync_in", protocol.FSYNC_IN, 16, "fh fsync_flags padding"),
    ("fuse_kstatfs", protocol.STATFS_OUT, 80,
     "blocks bfree bavail files ffree bsize namelen frsize"),
    ("fuse_setxattr_in", protocol.SETXATTR_IN, 16, "size flags setxattr_flags padding"),
    ("fuse_getxattr_in", protocol.GETXATTR_IN, 8, "size padding"),
    ("fuse_getxattr_out", protocol.GETXATTR_OUT, 8, "size padding"),
    ("fuse_interrupt_in", protocol.INTERRUPT_IN, 8, "unique"),
    ("fuse_fallocate_in", protocol.FALLOCATE_IN, 32, "fh offset length mode padding"),
    ("fuse_lseek_in", protocol.LSEEK_IN, 24, "fh offset whence padding"),
    ("fuse_notify_inval_inode_out", protocol.NOTIFY_INVAL_INODE_OUT, 24, "ino off len"),
    ("fuse_notify_inval_entry_out", protocol.NOTIFY_INVAL_ENTRY_OUT, 16, "parent namelen flags"),
    ("fuse_notify_delete_out", protocol.NOTIFY_DELETE_OUT, 24, "parent child namelen padding"),
    ("fuse_lseek_out", protocol.LSEEK_OUT, 8, "offset"),
    ("fuse_copy_file_range_in", protocol.COPY_FILE_RANGE_IN, 56,
     "fh_in off_in nodeid_out fh_out off_out len flags"),
]  # fmt: skip
"""C name, layout, size in bytes, fields in the order of the layout."""

NEWER: list[tuple[Struct, int]] = [
    (protocol.STATX_OUT, 288),
    (protocol.COPY_FILE_RANGE_OUT, 8),
    (protocol.BACKING_MAP, 16),
    (protocol.BACKING_ID, 4),
    (protocol.SETXATTR_IN_COMPAT, 8),
    (protocol.INIT_IN, 16),
]
"""Structures that the headers of older distributions lack, or that are parts of one."""


@pytest.mark.parametrize(("layout", "size"), [(row[1], row[2]) for row in STRUCTURES] + NEWER)
def test_a_layout_has_the_size_of_its_structure(layout: Struct, size: int) -> None:
    assert layout.size == size


def test_ioctl_numbers_are_those_of_linux_6_9() -> None:
    assert (protocol.DEV_IOC_BACKING_OPEN, protocol.DEV_IOC_BACKING_CLOSE) == (
        0x4010E501,
        0x4004E502,
    )


def field_offsets(layout: Struct) -> list[int]:
    """The offset of each value that a layout packs; padding has no offset."""
    offsets = []
    position = 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        repeat = int(count or 1)
        size = Struct("<" + code).size
        for _ in range(repeat):
            if code != "x":
                offsets.append(position)
            position += size
    return offsets


@pytest.fixture(scope="module")
def c_layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[int]]]:
    """Size and field offsets of each structure, as the C compiler sees the machine's header."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not HEADER_FILE.exists():
        pytest.skip("no C compiler or no linux/fuse.h")
    lines = []
    for name, _, _, fields in STRUCTURES:
        lines.append(f'printf("{name} %zu", sizeof(struct {name}));')
        lines += [f'printf(" %zu", offsetof(struct {name}, {item}));' for item in fields.split()]
        lines.append('printf("\\n");')
    directory = tmp_path_factory.mktemp("layouts")
    source = directory / "layouts.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/fuse.h>\n"
        "int main(void) {" + "\n".join(lines) + "return 0; }\n"
    )
    program = directory / "layouts"
    subprocess.run([compiler, "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    table = {}
    for line in output.splitlines():
        name, size, *offsets = line.split()
        table[name] = int(size), [int(offset) for offset in offsets]
    return table


@pytest.mark.parametrize(("name", "layout"), [row[:2] for row in STRUCTURES])
def test_a_layout_is_the_one_of_the_header(
    c_layouts: dict[str, tuple[int, list[int]]], name: str, layout: Struct
) -> None:
    """A field at another offset would be read as something else."""
    size, offsets = c_layouts[name]
    assert (layout.size, field_offsets(layout)[: len(offsets)]) == (size, offsets)


def test_opcodes_and_flags_are_those_of_the_header() -> None:
    """The header may be older than the protocol here: what it has must agree."""
    if not HEADER_FILE.exists():
        pytest.skip("no linux/fuse.h")
    text = HEADER_FILE.read_text()
    opcodes = {name: int(value) for name, value in re.findall(r"FUSE_(\w+)\s*=\s*(\d+),", text)}
    flags = {
        name: 1 << int(bit)
        for name, bit in re.findall(r"#define (F\w+)\s+\(1(?:U?LL)? << (\d+)\)", text)
    }
    for opcode in Opcode:
        assert opcodes.get(opcode.name, opcode) == opcode
    for flag in InitFlag:
        assert flags.get(f"FUSE_{flag.name}", flag) == flag
    for field in SetattrField:
        assert flags[f"FATTR_{field.name}"] == field
    for name in ("FOPEN_DIRECT_IO", "FOPEN_KEEP_CACHE"):
        assert flags[name] == getattr(protocol, name)
