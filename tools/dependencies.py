"""The versions that memfs is tested with: locks with hashes, and what has become old.

    .venv/bin/python tools/dependencies.py lock      write locks/*.txt with the newest versions that
                                                     pyproject.toml lets in; takes minutes
    .venv/bin/python tools/dependencies.py outdated  list what has a newer version; exits with 1 if
                                                     pyproject.toml shuts one out

`locks/mount.txt` is what mounting takes, `daemon.txt` all extras of the daemon, `tests.txt` these,
`values`, `dev` and `docs`. They are made for Linux and Python 3.11, the oldest that memfs runs on.
They name no index: any will do that has the same files. torch is in no lock: its builds differ
between indexes.

Invariant: the smaller locks are parts of `tests.txt`, line by line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "locks"
LARGEST = "tests"
DAEMON = ("s3", "gcs", "azure", "pyfuse3", "encryption", "traces", "hot", "cuda")
EXTRAS = {LARGEST: (*DAEMON, "values", "dev", "docs"), "daemon": DAEMON, "mount": ("s3", "pyfuse3")}
"""That of pyproject.toml, by lock; the build's own requirements are in each."""
TOOLS = ("pip-tools>=7.4,<8",)


def lock() -> None:
    """Write all locks."""
    python = _tools_python()
    target = LOCKS / f"{LARGEST}.txt"
    extras = [word for name in EXTRAS[LARGEST] for word in ("--extra", name)]
    command = [python, "-m", "piptools", "compile", "pyproject.toml", *extras]
    command += ["--build-deps-for", "editable", "--generate-hashes", "--allow-unsafe", "--upgrade"]
    command += ["--strip-extras", "--no-annotate", "--no-header", "--quiet"]
    command += ["--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links"]
    subprocess.run([*command, "--output-file", str(target)], check=True, cwd=ROOT)
    blocks = read_lock(target)
    _write(LARGEST, blocks)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for name, wanted in EXTRAS.items():
        if name != LARGEST:
            names = _closure(python, [f".[{','.join(wanted)}]", *build, "editables"], blocks)
            _write(name, {each: blocks[each] for each in blocks if each in names})


def read_lock(path: Path) -> dict[str, str]:
    """Return the entries of a lock, with their hashes, by name."""
    text = path.read_text()
    entries = re.findall(r"^[A-Za-z0-9].*\n(?: .*\n)*", text, flags=re.MULTILINE)
    return {entry.partition("==")[0]: entry.rstrip("\n") for entry in entries}


def outdated() -> bool:
    """Print what has a newer version than is locked; return whether all are let in."""
    listed = [sys.executable, "-m", "pip", "list", "--outdated", "--format", "json"]
    answer = subprocess.run(listed, check=True, capture_output=True, text=True, cwd=ROOT)
    locked = read_lock(LOCKS / f"{LARGEST}.txt")
    bounds = upper_bounds()
    all_let_in = True
    for package in json.loads(answer.stdout):
        name = _plain(package["name"])
        if name in locked:
            bound = bounds.get(name)
            let_in = bound is None or _parts(package["latest_version"]) < _parts(bound)
            all_let_in = all_let_in and let_in
            verdict = "`lock` takes it" if let_in else f"shut out by <{bound}"
            print(f"{name} {package['version']} -> {package['latest_version']}: {verdict}")
    return all_let_in


def upper_bounds() -> dict[str, str]:
    """Return the first version of each direct dependency that was not tested, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = {}
    for requirement in (each for group in groups for each in group):
        if bound := re.fullmatch(r"([A-Za-z0-9-]+)(?:\[.*\])?.*,<([0-9.]+)", requirement):
            found[_plain(bound[1])] = bound[2]
    return found


def _closure(python: str, requirements: list[str], blocks: dict[str, str]) -> set[str]:
    """Return the names of all that some requirements need, in the versions of a lock."""
    constraints = ROOT / ".venv/constraints.txt"
    constraints.write_text("".join(entry.split()[0] + "\n" for entry in blocks.values()))
    command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--report", "-", "--constraint", str(constraints), *requirements]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    report = json.loads(done.stdout)
    return {_plain(each["metadata"]["name"]) for each in report["install"]}


def _write(name: str, blocks: dict[str, str]) -> None:
    text = "\n".join(["# Made by tools/dependencies.py lock.", *blocks.values()])
    (LOCKS / f"{name}.txt").write_text(text + "\n")


def _tools_python() -> str:
    """Return the interpreter of an environment of its own that has pip-tools."""
    venv = ROOT / ".venv/dependencies"
    python = venv / "bin/python"
    if not (venv / "bin/pip-compile").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *TOOLS], check=True)
    return str(python)


def _plain(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["lock"]:
            lock()
        case ["outdated"]:
            sys.exit(0 if outdated() else 1)
        case _:
            sys.exit(__doc__)
