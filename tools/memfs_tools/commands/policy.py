"""`memfs policy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs_tools.arguments import AS_JSON, MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.methods.mount import PolicyValueReport


@click.group()
def policy() -> None:
    """Look at the values of [policy] that are in force, and change them without a new mount.

    \b
    memfs policy show /mnt/data
    memfs policy set /mnt/data warm_to_cold=12h cold_to_glacier=7d
    memfs policy reset /mnt/data warm_to_cold

    A value that was set holds for the whole mount, and stays when that is mounted again, until it
    is reset. For a directory alone there is the xattr user.memfs.policy.
    """  # noqa: D301 - \b is for click: keep the lines below as they are


@policy.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@AS_JSON
def show(mountpoint: Path, as_json: bool) -> None:
    """Show the values that can be set, and which were."""
    _tell(require_mount(mountpoint).policy_values(), as_json=as_json)


@policy.command("set")
@click.argument("mountpoint", type=MOUNTPOINT)
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@AS_JSON
def set_values(mountpoint: Path, values: tuple[str, ...], as_json: bool) -> None:
    """Set values, all of them or not one; names and values as in [policy] of the configuration.

    \b
    memfs policy set /mnt/data promote_count=2 give_way=false
    """  # noqa: D301 - likewise
    wanted = {}
    for each in values:
        name, equals, text = each.partition("=")
        if not equals:
            raise click.BadParameter(f"{each!r} has no =; write warm_to_cold=12h")
        wanted[name.removeprefix("policy.")] = text
    _tell(require_mount(mountpoint).policy_set(wanted), as_json=as_json)


@policy.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@AS_JSON
def reset(mountpoint: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Have values be as the configuration has them; without names, all of them."""
    bare = [name.removeprefix("policy.") for name in names]
    _tell(require_mount(mountpoint).policy_reset(bare), as_json=as_json)


def _tell(values: list[PolicyValueReport], *, as_json: bool) -> None:
    if as_json:
        tell_json(values)
        return
    for each in values:
        was = f"  (set; configured: {each['configured']})" if each["is_set"] else ""
        tell(f"{each['name']} = {each['value']}{was}")
