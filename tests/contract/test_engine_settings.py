"""Settings are small values by name, as durable as names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.errors import TooBigError
from memfs.metadata.quarantine import quarantine, release, why_quarantined
from memfs.metadata.records import Form
from memfs.types import SETTING_VALUE_BYTES_MAX, BlobId, FormCoding, FormKind, Layout, Place
from tests.contract.engine.site import local_only

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from tests.contract.engine.site import SqliteSite


async def test_setting_is_stored_replaced_and_removed(engine: Engine) -> None:
    assert await engine.get_setting("cursor") is None
    await engine.put_setting("cursor", b"first")
    await engine.put_setting("cursor", b"\x00second")
    await engine.put_setting("clock", b"")
    assert await engine.get_setting("cursor") == b"\x00second"
    assert await engine.get_setting("clock") == b""
    await engine.put_setting("cursor", None)
    assert await engine.get_setting("cursor") is None
    assert await engine.get_setting("clock") == b""


@local_only
async def test_committed_setting_survives_a_crash_and_others_do_not(
    engine_site: SqliteSite,
) -> None:
    engine = engine_site.engine
    await engine.put_setting("kept", b"1")
    await engine.put_setting("dropped", b"2")
    await engine.commit()
    await engine.put_setting("dropped", None)
    await engine.commit()
    await engine.put_setting("kept", b"uncommitted")
    engine = engine_site.crash()
    assert await engine.get_setting("kept") == b"1"
    assert await engine.get_setting("dropped") is None


async def test_removing_a_setting_that_is_not_there_changes_nothing(engine: Engine) -> None:
    await engine.put_setting("missing", None)
    assert not engine.uncommitted


async def test_setting_beyond_its_limit_is_refused(engine: Engine) -> None:
    await engine.put_setting("long", bytes(SETTING_VALUE_BYTES_MAX))
    with pytest.raises(TooBigError):
        await engine.put_setting("long", bytes(SETTING_VALUE_BYTES_MAX + 1))
    value = await engine.get_setting("long")
    assert value is not None
    assert len(value) == SETTING_VALUE_BYTES_MAX


async def test_a_key_that_is_no_text_can_be_in_quarantine(engine: Engine) -> None:
    """Objects of others are called as their bucket has them."""
    place = Place("a\udcff", store="s3://other", etag="e\ud800")
    form = Form(BlobId(1), FormKind.REMOTE, place, FormCoding("none"), 1, Layout.PLAIN, owned=False)
    other = form._replace(place=place._replace(key="a\udcfe"))
    await quarantine(engine, form, "holds another content")
    assert await why_quarantined(engine, form) == "holds another content"
    assert await why_quarantined(engine, other) is None
    await release(engine, form)
    assert await why_quarantined(engine, form) is None
