"""`memfs migrate` on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs_daemon.state_lock import StateLock
from memfs_tools.main import run
from tests.contract.engine.everything import write_everything
from tests.contract.engine.postgres_site import STORE, MountDatabase
from tests.contract.engine.site import BIRTH_NS, CONFIG
from tests.servers.process import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgresql import Database


@pytest.fixture
def mount(postgres: Database) -> Iterator[MountDatabase]:
    made = MountDatabase(postgres)
    yield made
    made.client.close()


@pytest.fixture
def state(tmp_path: Path) -> str:
    made = tmp_path / "state"
    engine = SqliteEngine.open(made, CONFIG, BIRTH_NS)
    write_everything(engine)
    engine.close()
    made.chmod(0o700)
    return str(made)


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return the exit code and the one line that is told."""
    code = run(["migrate", *arguments])
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return code, output.err


def test_both_ways_are_told_to_programs(
    capfd: pytest.CaptureFixture[str],
    mount: MountDatabase,
    state: str,
    postgres: Database,
    tmp_path: Path,
) -> None:
    """The configuration of the mount may name the database, and names the node."""
    config = tmp_path / "memfs.toml"
    config.write_text(
        f'[metadata]\nurl = "{postgres.url}"\n[glacier]\nurl = "{STORE}"\n[nodes]\nname = "n"\n'
    )
    assert run(["migrate", state, "-c", str(config), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told.keys() == {"state", "database", "node", "row_count", "sent_count"}
    assert (told["state"], told["node"]) == (state, "n")
    assert told["row_count"] == told["sent_count"] > 100
    assert run(["migrate", state, postgres.url, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["row_count"] == 0
    assert run(["migrate", postgres.url, state, "--json"]) == 0
    out = json.loads(capfd.readouterr().out)
    assert out.keys() == {"state", "database", "node", "row_count", "readers"}
    assert (out["row_count"], out["readers"]) == (told["row_count"], [])
    assert run(["migrate", postgres.url, state]) == 0
    assert f"{state}: has its names alone" in capfd.readouterr().out
    assert mount.client.query("select state from node") == [("behind",)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["STATE"], "Name the database"),
        (["STATE/none", "URL"], "is no state directory"),
        (["URL"], "Name the state directory"),
        (["URL", "URL"], "Name the state directory"),
        (["URL", "STATE"], "does not have the names"),
    ],
)
def test_wrong_words_are_told(
    capfd: pytest.CaptureFixture[str],
    mount: MountDatabase,
    state: str,
    postgres: Database,
    arguments: list[str],
    message: str,
) -> None:
    words = [each.replace("STATE", state).replace("URL", postgres.url) for each in arguments]
    code, line = refused(capfd, *words)
    assert code in (ExitCode.USAGE, ExitCode.STATE_UNUSABLE)
    assert message in line
    assert mount.client.query("select count(*) from node") == [(0,)]


def test_what_is_not_to_be_moved_is_refused(
    capfd: pytest.CaptureFixture[str],
    mount: MountDatabase,
    state: str,
    postgres: Database,
    tmp_path: Path,
) -> None:
    """One that is in use, another store than the configuration has, a server that is not there."""
    with StateLock(Path(state), None):
        code, line = refused(capfd, state, postgres.url)
    assert code == ExitCode.STATE_IN_USE
    assert "is in use by" in line
    config = tmp_path / "memfs.toml"
    config.write_text('[glacier]\nurl = "s3://other/x"\n')
    code, line = refused(capfd, state, postgres.url, "-c", str(config))
    assert "and glacier.url is s3://other/x" in line
    [port] = free_ports(1)
    code, line = refused(capfd, state, f"postgresql://memfs@127.0.0.1:{port}/none")
    assert code == ExitCode.NO_ANSWER
    assert mount.client.query("select count(*) from node") == [(0,)]


def test_a_database_that_ends_is_told(
    capfd: pytest.CaptureFixture[str], mount: MountDatabase, state: str, postgres: Database
) -> None:
    """The same command goes on."""
    mount.client.query("alter table dentry add constraint c check (cookie = 0)")
    code, line = refused(capfd, state, postgres.url)
    assert code == ExitCode.NO_ANSWER
    assert "run the same command again" in line
    mount.client.query("alter table dentry drop constraint c")
    assert run(["migrate", state, postgres.url]) == 0
    assert "compared row by row" in capfd.readouterr().out
