"""`memfs gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from memfs.addresses import address_of, key_within, store_of
from memfs.errors import MemfsError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_size
from memfs_tools.arguments import AS_JSON, MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import complain, tell, tell_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs.control.methods.upkeep import OrphansReport, SearchPlace

_LOCAL = ("raw", "packed", "tmp")
_UPLOADS = "uploads"
_EXPORTS = "exports"
_PREFIXES = [f"{kind}/{digit:x}" for kind in ("blobs", "batches") for digit in range(16)]
"""The store is listed in parts, so that the bar moves and Ctrl-C is obeyed."""


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("--dry-run", is_flag=True, help="Only tell what there is to remove.")
@click.option("--orphans", is_flag=True, help="Look for what nothing refers to, too.")
@click.option("--lost-found", is_flag=True, help="Show what lies in lost+found.")
@click.option("--yes", is_flag=True, help="Put orphans into lost+found; or empty that, for good.")
@AS_JSON
def gc(
    mountpoint: Path, dry_run: bool, orphans: bool, lost_found: bool, yes: bool, as_json: bool
) -> None:
    """Remove now what would be removed in the background: deleted files, dead parts of batches.

    \b
    memfs gc /mnt/data
    memfs gc --orphans /mnt/data             list what nothing refers to
    memfs gc --orphans --yes /mnt/data       put it into lost+found
    memfs gc --lost-found --yes /mnt/data    empty lost+found: this cannot be undone

    It also counts the accounts of space again and reports where they have drifted.

    Orphans are files of the state directory and objects of the store that neither a file nor
    garbage refers to. Normally there are no orphans, and perhaps their record was lost. So files
    are moved to lost+found/ of the state directory; for objects only the keys are kept there. In
    the store this looks only at keys of memfs's own layout below glacier.url (blobs/, batches/),
    and takes only those older than an hour. Objects of exports (meta/) that no complete export of
    this state needs have nothing of files: --yes removes them.

    --lost-found --yes removes those files, and those objects that still nothing refers to, unless a
    repair is due. OTHER STATE DIRECTORIES THAT USE THE SAME glacier.url HAVE THEIR OBJECTS THERE:
    to this one those are orphans. So no object comes into lost+found if a key shows that another
    one has written it; but not every key shows that. Empty it only where no other state directory,
    and no backup of one, uses the prefix.

    Exits with 1 if something is left, or accounts have drifted. Ctrl-C stops it between two steps;
    what is removed stays removed.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    if yes and orphans == lost_found:
        raise click.UsageError("--yes is for --orphans, or for --lost-found.")
    if lost_found:
        _show_lost_found(require_mount(mountpoint), clear=yes and not dry_run, as_json=as_json)
        return
    collection = _Collection(require_mount(mountpoint), dry_run=dry_run)
    # Imported here: what draws bars takes 0.1 s.
    from memfs_tools.display import progress_bar

    with progress_bar(hidden=as_json) as show:
        collection.remove_garbage(show)
        collection.compact(show)
        if orphans:
            collection.look_for_orphans(show, take=yes and not dry_run)
            # What compaction left behind is garbage since.
            collection.remove_garbage(show)
        collection.count_again()
    if as_json:
        tell_json(collection.to_json())
    else:
        collection.report()
    if not collection.complete:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


class _Collection:
    """One run."""

    def __init__(self, served: Mount, *, dry_run: bool) -> None:
        self._served = served
        self._dry_run = dry_run
        self._removed_count = 0
        self._left_count = 0
        self._held_count = 0
        self._needed_count = 0
        self._compacted_count = 0
        self._freed_bytes = 0
        self._sparse: dict[str, Any] = {}
        self._failures: list[str] = []
        self._drift: dict[str, list[int]] = {}
        self._orphans: dict[str, OrphansReport] | None = None

    @property
    def complete(self) -> bool:
        """True if nothing is left, and nothing has drifted."""
        left = sum(
            found["count"] - found["taken_count"] for found in (self._orphans or {}).values()
        )
        return not (
            self._failures or self._drift or left or (self._left_count and not self._dry_run)
        )

    def remove_garbage(self, show: Callable[[str, int, int], None]) -> None:
        """Drain the list of garbage that can be removed at present."""
        while True:
            answer = self._served.gc_garbage(dry_run=self._dry_run)
            self._removed_count += answer["removed_count"]
            self._left_count = answer["left_count"]
            self._held_count = answer["held_count"]
            self._needed_count = answer["needed_count"]
            total_count = self._removed_count + self._left_count
            show("removing garbage", self._removed_count, total_count)
            if not answer["removed_count"]:
                return

    def compact(self, show: Callable[[str, int, int], None]) -> None:
        """Compact sparse batches until no batch is left; a store that is down ends it."""
        while True:
            answer = self._served.gc_batches(dry_run=self._dry_run)
            compacted = answer["compacted"]
            self._sparse = {name: answer[name] for name in ("left_count", "left_bytes")}
            if compacted is None:
                return
            if compacted["failure"] is not None:
                failure = f"{compacted['key']} is not compacted: {compacted['failure']}"
                if failure in self._failures:
                    return
                self._failures.append(failure)
                continue
            self._compacted_count += 1
            self._freed_bytes += compacted["freed_bytes"]
            show("compacting", self._compacted_count, 0)

    def look_for_orphans(self, show: Callable[[str, int, int], None], *, take: bool) -> None:
        """List all that nothing refers to, then put it away, if nobody else seems to be there."""
        self._orphans = self._look([*_LOCAL, *self._prefixes()], show, take=False)
        if not take:
            return
        found = self._orphans.items()
        shared = {store_of(place) for place, orphans in found if orphans["foreign_count"]}
        places = [place for place, orphans in found if orphans["count"]]
        places = [
            place
            for place in places
            if place in (*_LOCAL, _EXPORTS) or store_of(place) not in shared
        ]
        for store in sorted(shared):
            setting = f"stores.{store}.url" if store else "glacier.url"
            self._failures.append(
                f"objects of another state directory lie below the same {setting}: nothing of the "
                "store is put into lost+found"
            )
        self._orphans |= self._look(places, show, take=True)

    def count_again(self) -> None:
        """Compare the accounts of space with a fresh count."""
        self._drift = self._served.gc_accounts()["drift"]
        self._failures += [
            f"{name} is kept as {kept}, but counts {counted}"
            for name, (kept, counted) in self._drift.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all of it for programs."""
        return {
            "complete": self.complete,
            "removed_count": self._removed_count,
            "left_count": self._left_count,
            "held_count": self._held_count,
            "needed_count": self._needed_count,
            "compacted_count": self._compacted_count,
            "freed_bytes": self._freed_bytes,
            "sparse": self._sparse,
            "drift": self._drift,
            "orphans": self._orphans,
            "failures": self._failures,
        }

    def report(self) -> None:
        """Print all of it for people."""
        for failure in self._failures:
            complain(str(failure))
        held = f"; {self._held_count} objects stay while exports name them"
        needed = f"; {self._needed_count} objects stay while nodes that read may need them"
        tell(
            f"garbage: {self._removed_count} removed, {self._left_count} left"
            f"{held if self._held_count else ''}{needed if self._needed_count else ''}"
        )
        tell(
            f"batches: {self._compacted_count} compacted, {format_size(self._freed_bytes)} freed; "
            f"{self._sparse['left_count']} sparse ones left"
        )
        if self._orphans is not None:
            self._report_orphans(self._orphans)
        tell(f"accounts: {'drifted' if self._drift else 'as counted'}")

    def _report_orphans(self, orphans: dict[str, OrphansReport]) -> None:
        for found in orphans.values():
            for name in found["names"]:
                tell(name)
        names = ("count", "bytes", "taken_count", "young_count", "foreign_count", "held_count")
        counts: list[dict[str, Any]] = [{**found} for found in orphans.values()]
        total = {name: sum(found[name] for found in counts) for name in names}
        line = (
            f"orphans: {total['count']}, {format_size(total['bytes'])}; "
            f"{total['taken_count']} put into lost+found, or removed (unfinished uploads, exports)"
        )
        if total["count"] > total["taken_count"]:
            line += "; --orphans --yes does so"
        if total["young_count"]:
            line += f"; {total['young_count']} objects are too young to tell"
        if total["foreign_count"]:
            line += f"; {total['foreign_count']} of another state directory"
        if total["held_count"]:
            line += f"; {total['held_count']} objects stay while exports name them"
        tell(line)

    def _prefixes(self) -> list[str]:
        """Return the parts of the stores; empty where there is no store."""
        status = self._served.status()
        if status.store_url is None:
            return []
        parts = (*_PREFIXES, _UPLOADS)
        named = [address_of(each.name, part) for each in status.stores for part in parts]
        return [*parts, _EXPORTS, *named]

    def _look(
        self, places: list[str], show: Callable[[str, int, int], None], *, take: bool
    ) -> dict[str, OrphansReport]:
        found = {}
        failed: set[str] = set()
        for number, place in enumerate(places):
            show("putting orphans away" if take else "looking for orphans", number, len(places))
            if store_of(place) in failed:
                continue
            try:
                found[place] = self._look_at(place, take=take)
            except MemfsError as error:
                if not store_of(place):
                    raise
                # One store that cannot be listed keeps nobody from looking at the others.
                failed.add(store_of(place))
                self._failures.append(f"store {store_of(place)}: {error}")
        return found

    def _look_at(self, place: str, *, take: bool) -> OrphansReport:
        part = key_within(place)
        if part in _PREFIXES:
            return self._served.gc_orphans("remote", place, take=take)
        prefix = address_of(store_of(place), "")
        return self._served.gc_orphans(cast("SearchPlace", part), prefix, take=take)


def _show_lost_found(served: Mount, *, clear: bool, as_json: bool) -> None:
    answer = served.gc_lost_found(clear=clear)
    if as_json:
        tell_json(answer)
        return
    for name in answer["names"]:
        tell(name)
    line = f"lost+found: {answer['count']}, {format_size(answer['bytes'])}"
    if answer["object_count"]:
        line += f"; {answer['object_count']} of them objects of the store"
    if clear:
        line += f"; {answer['removed_count']} removed"
    elif answer["count"]:
        line += "; --lost-found --yes removes them for good"
    tell(line)
