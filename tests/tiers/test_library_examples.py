"""The examples of docs/guide/libraries.md: each is run as it stands, on a mount."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from memfs import MemoryManager
from memfs.fsspec import MemfsFileSystem
from tests.posix.capabilities import Capability

if TYPE_CHECKING:
    from tests.mounting import Mount

pytestmark = [
    pytest.mark.needs(Capability.MEMFS_XATTRS),
    pytest.mark.any_driver,
    # Libraries warn of their own doings.
    pytest.mark.filterwarnings("default"),
]

PAGE = Path(__file__).parents[2] / "docs/guide/libraries.md"

_EXAMPLE = re.compile(r"^## ([^\n]+)\n.*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = dict(_EXAMPLE.findall(PAGE.read_text()))
"""The example of each section, by its title."""

CHECKS = {
    "joblib": "type(second).__name__ == 'memmap' and (first == second).all() and second[7] == 49",
    "zarr": "rows.shape == (10, 1000) and (rows == 1.5).all()",
    "xarray": "wet == 4.0 and memory.path('weather.zarr').metadata == {'city': 'Ulm'}",
    "Hugging Face datasets": "labels == [0, 1, 0] and len(reviews.cache_files) == 1",
    "DuckDB": "total == 730",
    "polars": "large['city'].to_list() == ['Bonn']",
    "URLs of fsspec": "back.n.tolist() == [1, 2] and local == str(place / 'n.parquet')"
    " and [path[-12:] for path in found] == ['2025.parquet'] and taken == 1"
    " and why['rule'] == 'pin'",
}
"""What holds after each."""


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    fsspec.register_implementation("memfs", MemfsFileSystem, clobber=True)


def test_each_section_has_an_example_and_a_check() -> None:
    assert list(SECTIONS) == list(CHECKS)


@pytest.mark.parametrize("section", CHECKS)
def test_the_example_of(
    section: str, place: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    memory = MemoryManager(mount=place, root=str(place.relative_to(mount.root)))
    names: dict[str, Any] = {"memory": memory, "place": memory.directory, "__name__": "example"}
    if section == "URLs of fsspec":
        run(SECTIONS["DuckDB"], names)
    run(SECTIONS[section], names)
    try:
        assert eval(CHECKS[section], names)
    finally:
        # Maps of files, which cycles keep: the mount has to be left before it is unmounted.
        names.clear()
        gc.collect()


def run(example: str, names: dict[str, Any]) -> None:
    exec(compile(example, str(PAGE), "exec"), names)
