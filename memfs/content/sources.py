"""Sources in use: the stores of adopted objects, opened when they are needed.

Invariant: a source has one store at most, and its credentials are known here alone.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from memfs.bounded import BoundedDict
from memfs.errors import NotFoundError, ObjectMissingError, UsageError
from memfs.stores.kept_options import joined
from memfs.stores.remote import open_source, with_credentials
from memfs.stores.source import SourceObject
from memfs.types import SourceId

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memfs.config import Config, ObjectStoreConfig
    from memfs.metadata.engine import Engine
    from memfs.metadata.foreign import Foreign, ForeignObject, Source, SourceCounts
    from memfs.metadata.records import Form
    from memfs.stores.counts import StoreCounts
    from memfs.stores.metered import Meter
    from memfs.stores.source import SourceStore

STORE_OPTION = "store"
"""Among the options of a source: the name of a store with its credentials."""

ROWS_A_STEP = 10_000
"""Rows of a source that are counted between two looks at requests: 1 to 2 ms. Guess."""

TOLD_COUNT_MAX = 10_000
"""Objects of which is remembered that they have told their content type, some 3 MB. Guess."""

FILE_SYSTEM_OPTION = "fsspec"
"""Among the options of a source: those of the fsspec file system that are no secrets."""


def open_store(
    config: Config,
    environment: Mapping[str, str],
    url: str,
    options: str,
    *,
    meter: Meter | None = None,
    counts: StoreCounts | None = None,
) -> SourceStore:
    """Return the store of a source: the one function that knows its credentials.

    They are those of the store that it names, else those of `[glacier]` for the same kind of store;
    another kind finds what the environment has.

    Blocks: as `open_source`.

    Args:
        config: Has the stores.
        environment: That of this process, for credentials.
        url: That of the source.
        options: Its options, JSON.
        meter: Counts what is spent at it; None: nobody does.
        counts: Told of calls and failures, if there is a meter.

    Raises:
        UsageError: It names no store that there is; or as `open_source`.
    """
    told: dict[str, Any] = json.loads(options)
    name, scheme = told.get(STORE_OPTION, ""), urlsplit(url).scheme
    if name and name not in config.stores:
        raise UsageError(f"{url}: there is no store {name!r}: configure [stores.{name}]")
    section = f"stores.{name}" if name else "glacier"
    found: ObjectStoreConfig = with_credentials(config.store(name), section, environment)
    own_scheme = urlsplit(found.url).scheme if found.url else None
    if name and own_scheme != scheme:
        raise UsageError(f"{url}: the store {name} is of another kind: {own_scheme}:")
    shared = found.options if scheme != "file" and own_scheme in (None, scheme) else {}
    options_of_all = joined(shared, told.get(FILE_SYSTEM_OPTION, {}))
    return open_source(url, options_of_all, found.timeout_s, meter=meter, counts=counts)


async def count_rows(engine: Foreign, source: SourceId) -> SourceCounts:
    """Return how many objects and directories a source has.

    The first time after a start there may be a million of them to count: requests go on meanwhile.
    """
    while (counts := await engine.count_source(source, ROWS_A_STEP)) is None:
        await trio.lowlevel.checkpoint()
    return counts


async def unlisted_notes(engine: Foreign, lacks: str) -> tuple[str, ...]:
    """Return a sentence for each source with directories that nobody has looked into.

    Args:
        lacks: What follows from that.
    """
    notes: tuple[str, ...] = ()
    for source in await engine.list_sources():
        if count := (await count_rows(engine, source.source)).unlisted_count:
            directories = "directory" if count == 1 else "directories"
            were = "was" if count == 1 else "were"
            notes += (
                f"{count} {directories} of {source.url} {were} not listed yet: {lacks}; "
                "memfs adopt --refresh lists all",
            )
    return notes


class Sources:
    """The stores of all sources of a state.

    Args:
        engine: Knows the sources.
        open_one: Opens the store of a URL with its options, as `open_store` does. Blocks.
    """

    def __init__(self, engine: Engine, open_one: Callable[[str, str], SourceStore]) -> None:
        self._engine = engine
        self._open_one = open_one
        self._stores: dict[SourceId, SourceStore] = {}
        self._opening = trio.Lock()
        self._told: BoundedDict[tuple[SourceId, bytes], SourceObject] = BoundedDict(TOLD_COUNT_MAX)
        """Objects that have told more than their listing, which nobody has taken yet."""
        self._known: BoundedDict[tuple[SourceId, bytes], str] = BoundedDict(TOLD_COUNT_MAX)
        """Etags of those that have told it before."""
        self.waiting: dict[SourceId, str] = {}
        """Why sources that are watched are not listed although it is time."""

    async def get(self, source: SourceId) -> Source:
        """Return a source; `NotFoundError` if it is not there any more."""
        for each in await self._engine.list_sources():
            if each.source == source:
                return each
        raise NotFoundError(f"there is no source of number {source} any more")

    async def is_here(self, source: SourceId) -> bool:
        """Return whether a source is a directory of this machine."""
        return any(
            each.source == source and each.url.startswith("file:")
            for each in await self._engine.list_sources()
        )

    async def store_of(self, source: SourceId) -> SourceStore:
        """Return the store of a source.

        Raises:
            NotFoundError: The source is not there any more.
            UsageError: It cannot be opened.
        """
        store = self._stores.get(source)
        if store is None:
            async with self._opening:
                store = self._stores.get(source)
                if store is None:
                    found = await self.get(source)
                    store = await self.open_new(found.url, found.options)
                    store.on_told = partial(self._note_told, source)
                    self._stores[source] = store
        return store

    async def open_new(self, url: str, options: str) -> SourceStore:
        """Return a store of its own, which the caller closes; raises as `store_of`."""
        return await trio.to_thread.run_sync(self._open_one, url, options)

    async def store_of_form(self, form: Form) -> tuple[SourceStore, SourceObject]:
        """Return where the object of a form lies, and what it must be; raises as `store_of`."""
        assert form.is_foreign, form
        place = form.place
        wanted = SourceObject(place.key, form.stored_bytes, place.etag, 0, place.version)
        return await self.store_of(SourceId(int(place.store))), wanted

    def _note_told(self, source: SourceId, told: SourceObject) -> None:
        key = source, told.order
        if self._known.get(key) != told.etag:
            self._known[key] = told.etag
            self._told[key] = told

    @property
    def has_told(self) -> bool:
        """True if `take_told` would return something."""
        return bool(self._told)

    def take_told(self) -> list[tuple[SourceId, SourceObject]]:
        """Return objects whose content type, or metadata, came with their bytes; each once."""
        taken = [(source, told) for (source, _), told in self._told.items()]
        self._told.clear()
        return taken

    async def difference_of(self, known: ForeignObject) -> str | None:
        """Return in what a source differs from an object that a file was made of.

        Its bytes are not read.

        Returns:
            None: it has that object, or that version of it.

        Raises:
            NotFoundError, UsageError: As `store_of`.
            StoreError: The source does not answer, or refuses.
        """
        store = await self.store_of(known.source)
        wanted = SourceObject(known.name, known.size, known.etag, known.mtime_ns, known.version)
        return await _difference(store, wanted)

    async def difference_of_form(self, form: Form) -> str | None:
        """Do as `difference_of` for the object of a form."""
        return await _difference(*await self.store_of_form(form))

    async def forget(self, source: SourceId) -> None:
        """Close the store of a source; the next use opens it anew."""
        self.waiting.pop(source, None)
        store = self._stores.pop(source, None)
        if store is not None:
            await store.aclose()

    async def aclose(self) -> None:
        """Close all stores; idempotent."""
        for source in [*self._stores]:
            await self.forget(source)


async def _difference(store: SourceStore, wanted: SourceObject) -> str | None:
    url = f"{store.url}/{wanted.key}"
    try:
        found = await store.look_at(wanted.key, wanted.version)
    except ObjectMissingError:
        return f"{url} is gone"
    if (found.etag, found.size) != (wanted.etag, wanted.size):
        return f"{url} was changed: {found.size} bytes with the ETag {found.etag}"
    return None
