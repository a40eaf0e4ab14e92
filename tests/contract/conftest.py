from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.engine.postgres_site import MountDatabase, PostgresSite
from tests.contract.engine.site import SqliteSite, SuspendingSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from tests.servers.postgresql import PostgresServer

SITES: dict[str, type[SqliteSite]] = {
    "sqlite": SqliteSite,
    "suspending": SuspendingSite,
    "postgresql": PostgresSite,
}


@pytest.fixture(scope="session")
def postgres_mount(postgres_server: PostgresServer) -> Iterator[MountDatabase]:
    """A database with a mount, which tests use one after the other."""
    with postgres_server.database() as database:
        PostgresSite.mount = MountDatabase(database)
        yield PostgresSite.mount
        PostgresSite.mount.client.close()


@pytest.fixture(params=SITES)
def engine_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteSite]:
    """A state directory with its engine open; checked and closed at the end."""
    if request.param == "postgresql":
        request.getfixturevalue("postgres_mount")
    site = SITES[request.param](tmp_path)
    yield site
    site.close()


@pytest.fixture
def engine(engine_site: SqliteSite) -> Engine:
    return engine_site.engine
