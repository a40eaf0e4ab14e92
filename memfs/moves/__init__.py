"""Moves: the changes of form: pack, upload, hydrate, drop, and the removal of what is left over.

Invariant: every move follows one protocol: record the intent, write under a name of its own, make
it durable, read it back against the digest, publish in one engine call that checks generation and
writers again; only a later move of its own drops the source form.
"""
