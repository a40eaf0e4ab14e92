"""Which forms hold another content than they must, so that nothing of them may be served.

Invariant: a form is in quarantine only because all of it was looked at; it leaves it in the same
way. The frames of a form that is merely damaged carry checksums, and are judged one by one instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfs.metadata.local import Local
    from memfs.metadata.records import Form

_SETTING = "quarantine."
"""Before the place of a form, which is never used again."""


async def why_quarantined(engine: Local, form: Form) -> str | None:
    """Return why nothing of a form may be served; None if it may."""
    reason = await engine.get_setting(_name(form))
    return None if reason is None else reason.decode("utf-8", "replace")


async def quarantine(engine: Local, form: Form, reason: str) -> None:
    """Serve nothing of a form from now on, committed.

    Args:
        form: Looked at as a whole.
        reason: For users, a sentence without full stop.
    """
    if await why_quarantined(engine, form) is None:
        async with engine.change():
            await engine.put_setting(_name(form), reason.encode("utf-8", "replace"))


async def release(engine: Local, form: Form) -> None:
    """End a quarantine, committed: all of the form is what it must be."""
    if await why_quarantined(engine, form) is not None:
        async with engine.change():
            await engine.put_setting(_name(form), None)


def _name(form: Form) -> str:
    place = form.place
    # Bytes of a foreign object that were changed since are another content.
    name = _SETTING + str(place) + f"#{place.etag}" * bool(place.etag)
    # Keys of foreign objects need not be UTF-8, and texts of the engine are.
    return name.encode("utf-8", "backslashreplace").decode()
