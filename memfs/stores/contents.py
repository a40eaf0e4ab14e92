"""Contents: the one way to the bytes of a remote form, whatever their layout.

Invariant: a reader of a form never asks for a byte beyond it: what follows in a batch belongs to
others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memfs.addresses import key_within
from memfs.errors import StoreGoneError
from memfs.stores.plain import PlainReader
from memfs.stores.reading import FrameReader
from memfs.types import OWN_STORE, Layout

if TYPE_CHECKING:
    from memfs.stores.envelope import Unlock
    from memfs.stores.reading import RangeReader
    from memfs.stores.store import RemoteStore
    from memfs.types import Place


class StoredForm(Protocol):
    """A form as the engine knows it (`metadata.records.Form`)."""

    @property
    def place(self) -> Place:
        """Where it lies."""

    @property
    def stored_bytes(self) -> int:
        """Its length there."""

    @property
    def layout(self) -> Layout:
        """How its bytes lie."""


def object_name(store: RemoteStore, place: Place) -> str:
    """Return how messages name an object, or a part of one."""
    one = store.of(place.key)
    return f"{one.url}/{place._replace(key=key_within(place.key))}"


def range_reader(store: RemoteStore, form: StoredForm) -> RangeReader:
    """Return a function that reads bytes `[start, end)` of a remote form.

    Raises:
        StoreGoneError: It lies in another store.
    """
    place = form.place
    if place.store != OWN_STORE:
        raise StoreGoneError(
            f"{place}: lies in a source that this mount does not read; adopt it again"
        )
    first = place.offset or 0

    async def read_range(start: int, end: int) -> bytes:
        return await store.get_range(place.key, first + start, first + min(end, form.stored_bytes))

    return read_range


async def open_content(store: RemoteStore, form: StoredForm, unlock: Unlock) -> FrameReader:
    """Return a reader of the content of a remote form.

    Args:
        store: Has it.
        form: A remote one.
        unlock: Tells what content it must be, and decrypts it.

    Raises:
        CorruptDataError: Its table is damaged or the object truncated, or it has another size.
        EncryptionKeyError: The key that decrypts it is not there.
        StoreGoneError: It lies in another store.
        StoreError: As `RemoteStore.get_range`.
    """
    store = store.of(form.place.key)
    name, read_range = object_name(store, form.place), range_reader(store, form)
    if form.layout == Layout.PLAIN:
        return PlainReader(read_range, form.stored_bytes, name, unlock, store.slots)
    return await FrameReader.open(read_range, form.stored_bytes, name, unlock, store.slots)
