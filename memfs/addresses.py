"""Addresses: keys of objects, with the name of the store that has them.

The place of a form, garbage, intents, batches and notes about objects name an object by one text:
`blobs/3f/...` in the default store, `archive:blobs/3f/...` in the store of `[stores.archive]`.

Invariant: memfs makes no key with a colon, so that the first one of an address ends the name.
"""

from __future__ import annotations

DEFAULT_NAME = "default"
"""What users call the store of `[glacier]`, where a store is named."""

_SEPARATOR = ":"


def address_of(store: str, key: str) -> str:
    """Return the address of a key, or of a prefix of keys, in a store.

    Args:
        store: Its name; empty: the default one.
        key: As the store itself has it.
    """
    return f"{store}{_SEPARATOR}{key}" if store else key


def store_of(address: str) -> str:
    """Return the name of the store of an object; empty: the default one."""
    return address.partition(_SEPARATOR)[0] if _SEPARATOR in address else ""


def key_within(address: str) -> str:
    """Return the key of an object as its store has it."""
    return address.partition(_SEPARATOR)[2] if _SEPARATOR in address else address


def told_store(name: str) -> str:
    """Return the name of a store as users have it."""
    return name or DEFAULT_NAME


def section_named(name: str, text: str) -> str:
    """Return a message about a store with the section of a named one, where it has `[glacier]`."""
    return text.replace("glacier.", f"stores.{name}.") if name else text
