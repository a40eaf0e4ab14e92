"""Addresses of databases: what they take, and that they show no secret."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from memfs.errors import UsageError
from memfs.metadata.shared.address import Address, Way, is_private

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGSERVICE", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))


def _hosts(monkeypatch: pytest.MonkeyPatch, **numbers: list[str]) -> None:
    """Have some names of hosts, and no others."""

    def resolve(host: str, port: int, type: int) -> list[tuple[object, ...]]:
        if host not in numbers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, type, 6, "", (each, port)) for each in numbers[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def _options(way: Way) -> dict[str, object]:
    return dict(conninfo_to_dict(way.conninfo.decode()))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://memfs@db/names", "postgresql://memfs@db/names"),
        ("postgres://db:6000/names?sslmode=require", "postgresql://db:6000/names"),
        ("postgresql://a:1,b:2/names", "postgresql://a:1,b:2/names"),
        ("postgresql://[::1]:1/names", "postgresql://[::1]:1/names"),
        ("postgresql://m%40x@/n?host=/run/pg", "postgresql://m%40x@/run/pg/n"),
        ("postgresql://?service=site", "postgresql:///?service=site"),
        ("postgresql://u@h/d?password=credential:pg", "postgresql://u@h/d"),
    ],
)
def test_an_address_is_shown_by_what_names_the_database(url: str, shown: str) -> None:
    address = Address.parse(url)
    assert (str(address), repr(address)) == (shown, f"Address({shown})")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h/d",
        f"postgresql://u@h/d?password={SECRET}",
        f"postgresql://u@h/d?sslpassword={SECRET}",
        f"postgresql://u:%zz{SECRET}@h/d",
        f'postgresql://u:a"b{SECRET}@h:x:y/d',
        f"postgresql://u@h/d?{SECRET}=1",
        f"postgresql://u:{SECRET} x@h/d",
        f"postgresql://u:{SECRET}@[h/d",
        f"postgresql://u:{SECRET}\ud800@h/d",
        f"mysql://u:{SECRET}@h/d",
        f"host=h password={SECRET}",
    ],
)
def test_what_is_refused_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Address.parse(url)
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    assert SECRET not in str(refusal.value)
    assert str(refusal.value).startswith("metadata.url: ")


def test_a_password_in_a_url_is_refused_with_the_ways_to_give_one() -> None:
    with pytest.raises(UsageError, match=r"PGPASSFILE.*service=NAME.*credential:NAME"):
        Address.parse(f"postgresql://u:{SECRET}@h/d")


def test_a_libpq_that_cannot_hold_a_password_back_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of the system is taken where psycopg has no own one."""
    monkeypatch.setattr(pq, "version", lambda: 150_018)
    with pytest.raises(UsageError, match=r"libpq 15 is too old.*memfs-tiers\[postgresql\]"):
        Address.parse("postgresql://h/d")


@pytest.mark.parametrize("wanted", ["any", "standby", "read-only", "prefer-standby"])
def test_a_server_that_may_take_no_changes_is_refused(wanted: str) -> None:
    with pytest.raises(UsageError, match="read-write or primary"):
        Address.parse(f"postgresql://h/d?target_session_attrs={wanted}")


def test_each_address_of_each_host_is_a_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libpq has no limit for each of them where a program polls it."""
    _hosts(monkeypatch, a=["192.0.2.1", "192.0.2.2"], c=["192.0.2.3"])
    address = Address.parse("postgresql://a:1,b:2,c:3/d?sslmode=verify-full")
    found: list[dict[str, object]] = []
    with pytest.raises(OSError, match="host b: Name or service not known"):
        found.extend(map(_options, address.ways()))
    chosen = [(each["host"], each["hostaddr"], each["port"]) for each in found]
    assert chosen == [
        ("a", "192.0.2.1", "1"),
        ("a", "192.0.2.2", "1"),
        ("c", "192.0.2.3", "3"),
    ]
    assert {each["target_session_attrs"] for each in found} == {"read-write"}
    assert {each["client_encoding"] for each in found} == {"UTF8"}
    assert {each["sslmode"] for each in found} == {"verify-full"}


def test_options_of_the_user_go_before_ours() -> None:
    url = "postgresql:///d?host=/run&keepalives_idle=7&target_session_attrs=primary"
    [way] = Address.parse(url).ways()
    options = _options(way)
    assert (options["keepalives_idle"], options["keepalives_interval"]) == ("7", "5")
    assert options["target_session_attrs"] == "primary"
    assert options["fallback_application_name"] == "memfs"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (None, [("require", None), ("disable", "!password,!md5,!scram-sha-256")]),
        ("prefer", [("require", None), ("disable", "!password,!md5,!scram-sha-256")]),
        ("allow", [("require", None), ("disable", "!password,!md5,!scram-sha-256")]),
        ("disable", [("disable", "!password,!md5,!scram-sha-256")]),
        ("require", [("require", None)]),
        ("verify-full", [("verify-full", None)]),
    ],
)
def test_no_way_over_a_network_takes_a_password_without_tls(
    monkeypatch: pytest.MonkeyPatch, mode: str | None, expected: list[tuple[str, str | None]]
) -> None:
    _hosts(monkeypatch, db=["192.0.2.1"])
    query = f"&sslmode={mode}" if mode else ""
    url = f"postgresql://db/d?require_auth=scram-sha-256,password{query}"
    found = []
    [way] = Address.parse(url).ways()
    step: Way | None = way
    while step is not None:
        options = _options(step)
        allowed = options["require_auth"] if options["sslmode"] == "disable" else None
        found.append((options["sslmode"], allowed))
        assert step.is_open_to_listeners is (options["sslmode"] == "disable")
        step = step.fallback
    assert found == expected


@pytest.mark.parametrize("url", ["postgresql:///d?host=/run", "postgresql://localhost/d"])
def test_nobody_listens_on_this_machine(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    _hosts(monkeypatch, localhost=["127.0.0.1"])
    [way] = Address.parse(url).ways()
    assert (way.fallback, way.is_open_to_listeners) == (None, False)
    assert "require_auth" not in _options(way)


@pytest.mark.parametrize(
    ("host", "number", "expected"),
    [
        ("", "", True),
        ("/run/postgresql", "", True),
        ("@abstract", "", True),
        ("db", "", False),
        ("localhost", "127.0.0.1", True),
        ("x", "127.8.8.8", True),
        ("x", "::1", True),
        ("localhost", "192.0.2.1", False),
        ("x", "fe80::1%eth0", False),
        ("x", "no number", False),
    ],
)
def test_private_is_what_does_not_leave_the_machine(host: str, number: str, expected: bool) -> None:
    assert is_private(host, number) is expected


def test_a_service_has_host_user_and_password(tmp_path: Path) -> None:
    (tmp_path / "services").write_text(
        f"[site]\nhost=/run/there\nport=7777\nuser=ann\npassword={SECRET}\ndbname=names\n"
    )
    address = Address.parse("postgresql://?service=site")
    [way] = address.ways()
    options = _options(way)
    assert [options[name] for name in ("host", "port", "user", "dbname", "password")] == [
        *("/run/there", "7777", "ann", "names", SECRET)
    ]
    assert SECRET not in f"{address} {address!r} {way!r} {way}"


def test_a_service_that_is_not_there_is_told() -> None:
    with pytest.raises(UsageError, match=r"service=other.*not found"):
        list(Address.parse("postgresql://?service=other").ways())


def test_a_credential_is_read_for_each_connection(tmp_path: Path) -> None:
    """It may be renewed meanwhile."""
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    address = Address.parse("postgresql:///d?host=/run&password=credential:pg", environment)
    for secret in (SECRET, "other"):
        (tmp_path / "pg").write_text(secret)
        [way] = address.ways()
        assert _options(way)["password"] == secret
    assert "other" not in f"{address!r} {way!r}"
    (tmp_path / "pg").unlink()
    with pytest.raises(UsageError, match=r"metadata\.url: password: credential:pg: No such file"):
        list(address.ways())
