"""`memfs format` on a real server."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from memfs import __version__
from memfs.exit_codes import ExitCode
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.schema import Mount, check
from memfs_tools.main import run
from tests.servers.postgresql import GUARDED, PASSWORD
from tests.servers.process import free_ports
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.postgresql import Database

STORE = "s3://bucket/prefix"


def _check(url: str) -> Mount:
    client = Client.connect(Address.parse(url), WAIT_S)
    with contextlib.closing(client):
        return check(client, "the database", STORE)


def _refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(["format", *arguments])
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return code, output.err


def test_a_database_is_formatted_once(
    capfd: pytest.CaptureFixture[str], postgres: Database
) -> None:
    """The output says how to go on; a second call changes nothing."""
    assert run(["format", postgres.url, "--store", STORE]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith(f"/{postgres.name}: made, with the object store {STORE}")
    assert lines[-1].strip() == "memfs mount -c FILE MOUNTPOINT"
    made = _check(postgres.url)
    assert made.version == __version__
    code, line = _refused(capfd, postgres.url, "--store", "s3://other")
    assert code == ExitCode.USAGE
    assert "has a mount already" in line
    assert _check(postgres.url) == made


def test_what_was_made_is_told_to_programs(
    capfd: pytest.CaptureFixture[str], postgres: Database
) -> None:
    """As JSON; the role can mount it."""
    assert run(["format", postgres.url, "--store", STORE, "--role", GUARDED, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    made = _check(postgres.server.url(postgres.name, GUARDED))
    assert told == {
        "database": str(Address.parse(postgres.url)),
        "store": STORE,
        "mount_id": made.mount_id,
        "created": made.created,
        "role": GUARDED,
    }


def test_a_password_comes_from_where_the_url_says(
    capfd: pytest.CaptureFixture[str], postgres: Database, tmp_path: Path
) -> None:
    """One that is in the URL is refused, and not shown."""
    code, line = _refused(capfd, postgres.tcp_url(GUARDED, password=PASSWORD), "--store", STORE)
    assert code == ExitCode.USAGE
    assert "others can see a password in a URL; name a file for it by PGPASSFILE" in line
    assert PASSWORD not in line
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    url = postgres.tcp_url(GUARDED, password=f"file:{secret}")
    assert run(["format", url, "--store", STORE]) == 0
    assert PASSWORD not in capfd.readouterr().out
    _check(url)


@pytest.mark.parametrize(
    ("url", "store", "expected", "reason"),
    [
        ("sqlite:///file", STORE, ExitCode.USAGE, "not a URL of PostgreSQL"),
        ("{url}", "bucket", ExitCode.USAGE, "--store: 'bucket' is no URL of an object store"),
        ("{url}_not_there", STORE, ExitCode.NO_ANSWER, "make it by createdb"),
        ("postgresql://127.0.0.1:{port}/db", STORE, ExitCode.NO_ANSWER, "see that the server runs"),
    ],
)
def test_a_wrong_call_is_one_line_with_a_remedy(
    capfd: pytest.CaptureFixture[str],
    postgres: Database,
    url: str,
    store: str,
    expected: ExitCode,
    reason: str,
) -> None:
    """No such database, no server, and what is no URL."""
    [port] = free_ports(1)
    code, line = _refused(capfd, url.format(url=postgres.url, port=port), "--store", store)
    assert code == expected
    assert reason in line
