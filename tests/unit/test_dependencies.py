"""Dependencies: bounds on both sides, and locks with hashes that fit them and name no index."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import dependencies

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
UNLOCKED = {"torch"}
"""Whose builds differ between indexes."""


def _requirements(*extras: str) -> list[Requirement]:
    groups = [PROJECT["project"]["dependencies"]]
    optional = PROJECT["project"]["optional-dependencies"]
    groups += [optional[extra] for extra in (extras or optional)]
    return [Requirement(text) for group in groups for text in group]


def _lock(name: str) -> dict[str, str]:
    return dependencies.read_lock(ROOT / f"locks/{name}.txt")


def test_every_dependency_has_a_lowest_version_and_a_first_one_that_was_not_tested() -> None:
    for requirement in _requirements():
        operators = {each.operator for each in requirement.specifier}
        assert operators in ({">=", "<"}, {"=="}), str(requirement)


@pytest.mark.parametrize("name", dependencies.EXTRAS)
def test_a_lock_has_all_that_its_extras_need_within_the_bounds(name: str) -> None:
    locked = _lock(name)
    build = [Requirement(text) for text in PROJECT["build-system"]["requires"]]
    for requirement in (*_requirements(*dependencies.EXTRAS[name]), *build):
        if requirement.name not in UNLOCKED:
            version = locked[canonicalize_name(requirement.name)].split()[0].partition("==")[2]
            assert requirement.specifier.contains(version), f"{requirement}: {version} is locked"


@pytest.mark.parametrize("name", dependencies.EXTRAS)
def test_every_entry_of_a_lock_has_hashes_and_is_one_of_the_largest(name: str) -> None:
    largest = _lock(dependencies.LARGEST)
    entries = _lock(name)
    assert len(entries) > 30
    for package, entry in entries.items():
        version, *hashes = entry.replace("\\\n", " ").split()
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.]+", version), entry
        assert hashes, f"{package} has no hash"
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", each) for each in hashes), entry
        assert largest[package] == entry


def test_no_file_of_the_set_up_names_an_index() -> None:
    """Any mirror will do: which one is the business of the machine."""
    for file in [*(ROOT / "locks").iterdir(), ROOT / "tools/setup.sh", ROOT / "pyproject.toml"]:
        assert not re.search(r"https?://|--index-url|--extra-index|--find-links", file.read_text())


def test_bounds_are_read_for_what_is_shut_out() -> None:
    bounds = dependencies.upper_bounds()
    assert {"blake3", "s3fs", "moto"} - bounds.keys() == {"moto"}
    for requirement in _requirements():
        for each in requirement.specifier:
            if each.operator == "<":
                assert bounds[canonicalize_name(requirement.name)] == each.version


@pytest.mark.parametrize(("latest", "all_let_in"), [("1.99", True), ("2.0", False)])
def test_what_is_outdated_is_told_with_what_the_bounds_say(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    latest: str,
    all_let_in: bool,
) -> None:
    listed = [
        {"name": "Blake3", "version": "1.0.0", "latest_version": latest},
        # Not locked, so not memfs's business.
        {"name": "pip", "version": "1", "latest_version": "99"},
    ]
    answer = subprocess.CompletedProcess([], 0, stdout=json.dumps(listed))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert dependencies.outdated() is all_let_in
    verdict = "`lock` takes it" if all_let_in else "shut out by <2"
    assert capsys.readouterr().out == f"blake3 1.0.0 -> {latest}: {verdict}\n"


def test_the_lowest_versions_are_chosen_first_and_hold_for_what_the_tests_need(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    run: list[list[str]] = []

    def compile_(extras: tuple[str, ...], *options: str) -> str:
        asked.append((extras, options))
        return "click==8.2.0\n" if "lowest-direct" in options else "click==8.2.0\npytest==9.0\n"

    def note(command: list[object], **_: object) -> None:
        run.append([str(each) for each in command])
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        (tmp_path / "low/lib" / version / "site-packages").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(dependencies, "_compile", compile_)
    monkeypatch.setattr(dependencies, "_uv", lambda: "uv")
    monkeypatch.setattr(subprocess, "run", note)
    dependencies.lowest(tmp_path / "low")
    (extras, _), (with_tests, (_, constraints)) = asked
    assert with_tests == (*extras, "dev")
    assert set(dependencies.DAEMON) <= set(extras)
    assert Path(constraints).read_text() == "click==8.2.0\n"
    assert run[-1][-1] == str(tmp_path / "low/requirements.txt")
    assert "pytest==9.0" in Path(run[-1][-1]).read_text()
    [sources] = (tmp_path / "low").rglob("memfs.pth")
    assert str(ROOT / "daemon") in sources.read_text().split()
