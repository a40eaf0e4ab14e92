"""Rules: the names of the decisions on files, and what sets each of them off.

Invariant: every rule has a trigger. Code compares these names, never the sentences beside them; a
rule that holds for one state of a file alone carries that state behind its name.
"""

from __future__ import annotations

PIN = "pin"
SEAL = "seal"
AGE = "age"
WATERMARK = "watermark"
FREQUENCY = "frequency"
READ = "read"
PREFETCH = "prefetch"
UPLOAD = "upload"
COMPRESS = "compress"
INCOMPRESSIBLE = "incompressible"
DAMAGED = "damaged"
DONE = "done"
HOT = "hot"
NOT_TENSORS = "not tensors"

TRIGGERS = {
    PIN: "a pin of the file or of a directory above it",
    SEAL: "its last writer closed it, or a program opened it",
    AGE: "it was not used for longer than an age limit, of [policy] or of a mark",
    WATERMARK: "a tier was filled beyond its high watermark",
    FREQUENCY: "it was opened again and again without a raw form",
    READ: "programs read much of it without a raw form",
    PREFETCH: "a program told that it will be used, or what was opened before let expect it",
    UPLOAD: "its last writer closed it, on a mount that other nodes may read",
    COMPRESS: "memfs compress",
    INCOMPRESSIBLE: "it was to be packed",
    DAMAGED: "a scrub read all of its forms",
    DONE: "a program told the order in which it uses files",
    HOT: "a pin to hot, or a program that loads it on a device",
    NOT_TENSORS: "it was to be loaded into the hot tier",
}
"""What sets off each rule; a policy of yours may name others."""

BY_ITSELF = frozenset({SEAL, AGE, WATERMARK, FREQUENCY, DONE, UPLOAD})
"""Rules of files that nobody has pinned: what they decided is old where a pin is in force."""

_MARK = "/"


def qualified(rule: str, *state: object) -> str:
    """Return a rule that holds for one state of a file, with what tells that state."""
    return _MARK.join((rule, *map(str, state)))


def name_of(rule: str) -> str:
    """Return the name of a rule, without the state that it holds for."""
    return rule.partition(_MARK)[0]
