"""ACL arithmetic: inheritance, masks, and agreement with permission bits."""

from __future__ import annotations

import struct

import pytest

from memfs.errors import InvalidValueError
from memfs.namespace import acl
from memfs.namespace.acl import AclEntry

USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20

EXTENDED = [
    AclEntry(USER_OBJ, 7),
    AclEntry(USER, 6, 1000),
    AclEntry(GROUP_OBJ, 5),
    AclEntry(MASK, 6),
    AclEntry(OTHER, 4),
]
MINIMAL = [AclEntry(USER_OBJ, 7), AclEntry(GROUP_OBJ, 5), AclEntry(OTHER, 1)]


def test_value_has_the_layout_of_the_kernel_header() -> None:
    """linux/posix_acl_xattr.h: le32 version 2, then le16 tag, le16 permissions, le32 id."""
    expected = struct.pack("<IHHI", 2, USER_OBJ, 7, 0xFFFFFFFF)
    assert expected == acl.serialise([AclEntry(USER_OBJ, 7)])
    assert acl.parse(acl.serialise(EXTENDED)) == EXTENDED


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x02\0\0",
        struct.pack("<I", 1),
        acl.serialise(MINIMAL) + b"x",
        acl.serialise(MINIMAL[:2]),
        acl.serialise([entry for entry in EXTENDED if entry.tag != MASK]),
        acl.serialise([*MINIMAL, AclEntry(OTHER, 0)]),
    ],
)
def test_malformed_acls_are_refused(value: bytes) -> None:
    """A value that the kernel's own parser refuses must not be stored."""
    with pytest.raises(InvalidValueError):
        acl.parse(value)


def test_permission_bits_show_the_mask_as_group() -> None:
    """acl(5): with a mask, the group bits of the mode are the mask's."""
    assert acl.permission_bits(EXTENDED) == 0o764
    assert acl.permission_bits(MINIMAL) == 0o751
    assert acl.is_extended(EXTENDED)
    assert not acl.is_extended(MINIMAL)


def test_chmod_changes_owner_mask_and_others_only() -> None:
    """Named users and the owning group keep their entries; the mask limits them."""
    changed = acl.parse(acl.with_mode(acl.serialise(EXTENDED), 0o640))
    assert changed == [
        AclEntry(USER_OBJ, 6),
        AclEntry(USER, 6, 1000),
        AclEntry(GROUP_OBJ, 5),
        AclEntry(MASK, 4),
        AclEntry(OTHER, 0),
    ]


def test_chmod_without_mask_changes_the_owning_group() -> None:
    """A minimal ACL is the permission bits."""
    changed = acl.parse(acl.with_mode(acl.serialise(MINIMAL), 0o604))
    assert acl.permission_bits(changed) == 0o604


def test_new_file_inherits_the_default_acl_cut_by_the_mode_asked_for() -> None:
    """acl(5), OBJECT CREATION: intersection with the mode; the umask has no say."""
    inherited = acl.inherit(acl.serialise(EXTENDED), 0o100640, directory=False)
    assert inherited.mode == 0o100640
    assert inherited.default is None
    assert inherited.access is not None
    assert acl.parse(inherited.access)[3] == AclEntry(MASK, 4)


def test_new_directory_also_inherits_the_default_itself() -> None:
    """Or the second level below would have no default."""
    value = acl.serialise(EXTENDED)
    inherited = acl.inherit(value, 0o040777, directory=True)
    assert inherited.default == value
    assert inherited.mode == 0o040764


def test_minimal_default_acl_leaves_no_access_acl() -> None:
    """Bits say it all: an xattr would only be listed for nothing."""
    inherited = acl.inherit(acl.serialise(MINIMAL), 0o100666, directory=False)
    assert inherited.access is None
    assert inherited.mode == 0o100640
