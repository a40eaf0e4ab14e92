from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.engine.site import SqliteSite, SuspendingSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.engine import Engine

SITES: dict[str, type[SqliteSite]] = {"sqlite": SqliteSite, "suspending": SuspendingSite}


@pytest.fixture(params=SITES)
def engine_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteSite]:
    """A state directory with its engine open; checked and closed at the end."""
    site = SITES[request.param](tmp_path)
    yield site
    site.close()


@pytest.fixture
def engine(engine_site: SqliteSite) -> Engine:
    return engine_site.engine
