"""`memfs snapshot`: a group whose commands are modules of this package."""

from __future__ import annotations

import click

from memfs_tools.lazy_group import LazyGroup

_PACKAGE = "memfs_tools.commands.snapshot"


@click.group(
    cls=LazyGroup,
    places={
        "create": f"{_PACKAGE}.create:create",
        "list": f"{_PACKAGE}.listing:list_snapshots",
        "show": f"{_PACKAGE}.listing:show",
        "restore": f"{_PACKAGE}.restore:restore",
        "diff": f"{_PACKAGE}.diff:diff",
        "versions": f"{_PACKAGE}.versions:versions",
        "delete": f"{_PACKAGE}.delete:delete",
        "export": f"{_PACKAGE}.export:export",
        "import": f"{_PACKAGE}.importing:import_",
    },
)
def snapshot() -> None:
    """Keep instants of the whole mount, and look at them later.

    \b
    memfs snapshot create before-cleanup
    memfs snapshot list
    memfs snapshot delete before-cleanup

    A snapshot keeps all names, attributes and bytes as they are. It takes no room until something
    changes, and then what the change would have destroyed.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
