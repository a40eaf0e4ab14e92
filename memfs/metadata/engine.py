"""The metadata engine's contract: one namespace operation = one call = one atomic change.

Invariant: a call either happens whole or raises and changes nothing. Callers validate nothing that
the engine can check itself (existence, type, emptiness, cycles of rename); the engine checks no
permissions (the kernel does, `default_permissions`) and touches no content.

Atomicity: one call is atomic by itself, and what it presumes of a file (generation, raw file) is an
argument that the engine checks. Calls that belong together stand in `async with engine.change()`: a
mutation and the read that it rests on among them (a mode that is computed, a flag that wants a new
name).

Durability: a mutation survives the death of the process as soon as the block of `change` ended, or
`commit` returned for mutations outside of one; and power loss as soon as `sync` returned.

Suspension: methods are `async` because a later engine talks to a server. The SQLite engine never
suspends, so that a caller may run a coroutine of it to its end with one `send(None)`; one that does
awaits `waiting.leave` itself. No caller may take "does not suspend" for a lock.
"""

from __future__ import annotations

from typing import Protocol

from memfs.metadata.contents import Contents
from memfs.metadata.foreign import Foreign
from memfs.metadata.local import Local
from memfs.metadata.namespace import Namespace
from memfs.metadata.published import Published
from memfs.metadata.queries import Queries
from memfs.metadata.snapshots import Snapshots


class Engine(Namespace, Queries, Contents, Local, Snapshots, Foreign, Published, Protocol):
    """All parts, as one state directory has them."""
