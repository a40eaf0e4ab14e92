"""The versions that memfs is tested with: locks with hashes, and what has become old.

    .venv/bin/python tools/dependencies.py lock      write locks/*.txt with the newest versions that
                                                     pyproject.toml lets in; takes half a minute
    .venv/bin/python tools/dependencies.py lowest DIRECTORY
                                                     make an environment there with the lowest
                                                     versions that pyproject.toml lets in, to test
                                                     with: DIRECTORY/bin/python -m pytest tests/unit
    .venv/bin/python tools/dependencies.py outdated  list what has a newer version; exits with 1 if
                                                     pyproject.toml shuts one out

`locks/mount.txt` is what mounting takes, `daemon.txt` all extras of the daemon, `tests.txt` these,
`values`, `aio`, `web`, `dev`, `examples` and `docs`. They are made for Linux and Python 3.11, the
oldest that memfs runs on. They name no index: any will do that has the same files, and
UV_DEFAULT_INDEX says which one `lock` asks. torch is in no lock: its builds differ between indexes.

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
DAEMON = ("s3", "gcs", "azure", "pyfuse3", "encryption", "traces", "hot", "cuda", "postgresql")
EXTRAS = {
    LARGEST: (*DAEMON, "values", "aio", "web", "dev", "examples", "docs"),
    "daemon": DAEMON,
    "mount": ("s3", "pyfuse3"),
}
"""That of pyproject.toml, by lock; the build's own requirements are in each."""
LOWEST = (*DAEMON, "values", "aio", "web")
"""What is tested with its lowest versions; the tools of the tests are new ones."""
TOOLS = ("uv>=0.13,<0.14",)
"""Takes hashes from the index, where pip-tools downloaded each file to hash it: more than 15
minutes."""
PYTHON_VERSION = "3.11"


def lock() -> None:
    """Write all locks."""
    _write(LARGEST, read_entries(_compile(EXTRAS[LARGEST], "--generate-hashes")))
    blocks = read_lock(LOCKS / f"{LARGEST}.txt")
    constraints = ROOT / ".venv/constraints.txt"
    constraints.write_text("".join(entry.split()[0] + "\n" for entry in blocks.values()))
    for name, extras in EXTRAS.items():
        if name != LARGEST:
            names = read_entries(_compile(extras, "--constraint", str(constraints)))
            _write(name, {each: blocks[each] for each in blocks if each in names})


def lowest(directory: Path) -> None:
    """Make an environment with the lowest versions, and this tree."""
    found = read_entries(_compile(LOWEST, "--resolution", "lowest-direct"))
    directory.mkdir(parents=True)
    chosen = directory / "lowest.txt"
    chosen.write_text("".join(f"{entry}\n" for entry in found.values()))
    wanted = directory / "requirements.txt"
    wanted.write_text(_compile((*LOWEST, "dev"), "--constraint", str(chosen)))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    python = directory / "bin/python"
    install = [_uv(), "pip", "install", "--quiet", "--python", python, "--requirement", wanted]
    subprocess.run(install, check=True)
    packages = directory / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    sources = (ROOT, ROOT / "daemon", ROOT / "tools")
    (packages / "memfs.pth").write_text("".join(f"{source}\n" for source in sources))


def _compile(extras: tuple[str, ...], *options: str) -> str:
    """Return all that some extras and the build of an editable installation need, with versions."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    command = [_uv(), "pip", "compile", "pyproject.toml", "-", "--quiet", *options]
    command += ["--python-version", PYTHON_VERSION, "--python-platform", "linux"]
    command += ["--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    for extra in extras:
        command += ["--extra", extra]
    wanted = "\n".join([*build, "editables"])
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, input=wanted
    )
    return done.stdout


def read_lock(path: Path) -> dict[str, str]:
    """Return the entries of a lock, with their hashes, by name."""
    return read_entries(path.read_text())


def read_entries(text: str) -> dict[str, str]:
    """Return the entries of the text of a lock by name."""
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


def _write(name: str, blocks: dict[str, str]) -> None:
    text = "\n".join(["# Made by tools/dependencies.py lock.", *blocks.values()])
    (LOCKS / f"{name}.txt").write_text(text + "\n")


def _uv() -> str:
    """Return the resolver, in an environment of its own."""
    venv = ROOT / ".venv/dependencies"
    if not (venv / "bin/uv").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        install = [venv / "bin/python", "-m", "pip", "install", "--quiet", *TOOLS]
        subprocess.run(install, check=True)
    return str(venv / "bin/uv")


def _plain(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["lock"]:
            lock()
        case ["lowest", directory]:
            lowest(Path(directory))
        case ["outdated"]:
            sys.exit(0 if outdated() else 1)
        case _:
            sys.exit(__doc__)
