"""The layers: who may import whom, and where third-party libraries may be imported."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

LAYERS: tuple[tuple[str, ...], ...] = (
    (
        *("memfs.types", "memfs.exit_codes", "memfs.escaping", "memfs.signals", "memfs.waiting"),
        *("memfs.backoff", "memfs.bounded", "memfs.fifo", "memfs.single_flight"),
        "memfs.addresses",
    ),
    ("memfs.errors", "memfs.log_lines", "memfs.keyed_lock"),
    ("memfs.defects", "memfs.urls"),
    ("memfs.config", "memfs.sizes"),
    ("memfs.policy", "memfs.prediction", "memfs.query", "memfs.namespace"),
    ("memfs.metrics",),
    ("memfs.config_file",),
    ("memfs.config_text",),
    ("memfs.linux",),
    ("memfs.peers",),
    ("memfs.hot",),
    ("memfs.codecs", "memfs.encryption"),
    ("memfs.stores", "memfs.metadata", "memfs.traces"),
    ("memfs.content",),
    ("memfs.moves",),
    ("memfs.filesystem",),
    ("memfs.placement", "memfs.hot.tier", "memfs.simulation"),
    ("memfs.exports",),
    ("memfs.fsck",),
    ("memfs.control",),
    ("memfs.jobs",),
    ("memfs.client",),
    ("memfs.report",),
    ("memfs.torch",),
    ("memfs.manager",),
    (
        *("memfs.policies", "memfs.hot_memory", "memfs.warm_memory"),
        *("memfs.cold_memory", "memfs.glacier_memory", "memfs.aio"),
        "memfs.fsspec",
    ),
    ("memfs.__init__",),
    ("memfs_daemon",),
    ("memfs_tools",),
)
"""Lowest first; the parts of one layer know nothing of each other."""

LIBRARIES: dict[str, tuple[str, ...]] = {
    "adlfs": ("memfs/stores/azure.py",),
    "anyio": ("memfs/aio.py", "tools/memfs_tools/web/"),
    "aiohttp": ("memfs/stores/gcs.py", "memfs/stores/web.py"),
    "azure": ("memfs/stores/azure.py", "memfs/stores/azure_publishing.py"),
    "blake3": ("memfs/stores/", "memfs/moves/", "memfs/manager/"),
    "botocore": ("memfs/stores/s3",),
    "click": (
        "tools/memfs_tools/main.py",
        "tools/memfs_tools/arguments.py",
        "tools/memfs_tools/lazy_group.py",
        "tools/memfs_tools/terminal.py",
        "tools/memfs_tools/tree_work.py",
        "tools/memfs_tools/commands/",
    ),
    "cramjam": ("memfs/codecs/snappy.py",),
    "cryptography": ("memfs/encryption/cipher.py", "memfs/peers/identity.py"),
    "cuda": ("memfs/hot/devices/cuda_calls.py",),
    "fsspec": ("memfs/stores/objects.py", "memfs/fsspec.py"),
    "gcsfs": ("memfs/stores/gcs.py", "memfs/stores/gcs_publishing.py"),
    "google": ("memfs/stores/gcs.py",),
    "google_crc32c": ("memfs/stores/sums.py",),
    "lz4": ("memfs/codecs/lz4.py",),
    "msgpack": ("memfs/manager/values/plain.py", "memfs/metadata/shared/bodies.py"),
    "numpy": ("memfs/hot/casting.py", "memfs/torch/", "memfs/manager/values/"),
    "polars": ("memfs/manager/values/tables.py",),
    "psycopg": ("memfs/metadata/shared/",),
    "pyarrow": (
        "memfs/traces/parquet.py",
        "memfs/manager/values/tables.py",
        "tools/memfs_tools/catalog_file.py",
        "tools/memfs_tools/parquet_tables.py",
        "tools/memfs_tools/published_file.py",
        "tools/memfs_tools/tag_table.py",
        "tools/memfs_tools/arrow_stream.py",
        "memfs/manager/results.py",
    ),
    "pyfuse3": ("daemon/memfs_daemon/pyfuse3/",),
    "requests": ("memfs/stores/gcs.py",),
    "rich": ("memfs/manager/batches.py", "tools/memfs_tools/display.py", "tools/memfs_tools/live/"),
    "s3fs": ("memfs/stores/s3",),
    "starlette": ("tools/memfs_tools/web/app.py", "tools/memfs_tools/web/gate.py"),
    "torch": ("memfs/torch/", "memfs/manager/values/tensors.py"),
    "trio": (
        *("memfs/", "daemon/memfs_daemon/", "tools/memfs_tools/commands/fsck.py"),
        "tools/memfs_tools/commands/snapshot/importing.py",
    ),
    "uvicorn": ("tools/memfs_tools/web/serving.py",),
    "xattr": ("memfs/client/placement.py",),
    "xxhash": ("memfs/stores/", "memfs/metadata/sqlite/pages.py"),
    "zstandard": ("memfs/codecs/zstd.py",),
}
"""Where each third-party library may be imported; few places, so that it can be replaced."""


BROUGHT_ALONG = {
    *("aiohttp", "azure", "botocore", "google", "google_crc32c", "polars"),
    "requests",
}
"""Dependencies of s3fs, gcsfs and adlfs, whose errors and answers these pass on as they are; the
checksum that Google tells, which gcsfs has as well; and polars, which the program has that stores
its tables."""


RUNTIME_EXTRAS = (
    "s3",
    "gcs",
    "azure",
    "pyfuse3",
    "encryption",
    "traces",
    "hot",
    "cuda",
    "torch",
    "values",
    "aio",
    "web",
    "postgresql",
)
"""Extras whose packages memfs itself imports."""


IMPORT_NAMES = {"cuda-bindings": "cuda", "psycopg[binary]": "psycopg"}
"""Packages that are imported by another name than they are installed by."""


class Import(NamedTuple):
    """One imported module."""

    importer: str
    """Dotted module name."""
    file: Path
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.imported}"


def _imports() -> list[Import]:
    found = []
    for source in (ROOT, ROOT / "daemon", ROOT / "tools"):
        for package in ("memfs", "memfs_daemon", "memfs_tools"):
            for file in sorted((source / package).rglob("*.py")):
                module = ".".join(file.relative_to(source).with_suffix("").parts)
                for node in ast.walk(ast.parse(file.read_bytes())):
                    if isinstance(node, ast.Import):
                        names = [alias.name for alias in node.names]
                    elif isinstance(node, ast.ImportFrom):
                        # `from memfs.linux import mounts` imports memfs.linux.mounts.
                        names = [f"{node.module}.{alias.name}" for alias in node.names]
                    else:
                        continue
                    found += [Import(module, file, node.lineno, name) for name in names]
    assert len(found) > 100
    return found


def _layer(module: str) -> tuple[int, str] | None:
    """The index of a module's layer and the part of it, or None for what is not ours.

    A module that is named by itself is no part of its folder.
    """
    found = [
        (index, part)
        for index, parts in enumerate(LAYERS)
        for part in parts
        if module == part or module.startswith(part + ".")
    ]
    return max(found, key=lambda layer: len(layer[1]), default=None)


def test_every_module_has_a_layer() -> None:
    modules = {entry.importer for entry in _imports()}
    assert [module for module in sorted(modules) if _layer(module) is None] == []


def test_nobody_imports_upwards_or_sideways() -> None:
    wrong = []
    for entry in _imports():
        here, there = _layer(entry.importer), _layer(entry.imported)
        if here is None or there is None or here[1] == there[1]:
            continue
        if there[0] >= here[0]:
            wrong.append(str(entry))
    assert wrong == []


def test_each_library_is_imported_where_the_table_says() -> None:
    wrong = []
    for entry in _imports():
        library = entry.imported.partition(".")[0]
        if library in sys.stdlib_module_names or library.startswith("memfs"):
            continue
        place = str(entry.file.relative_to(ROOT))
        if not place.startswith(LIBRARIES.get(library, ())):
            wrong.append(str(entry))
    assert wrong == []


def test_every_library_is_a_declared_dependency_and_every_dependency_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {
        text.partition(">")[0].partition("=")[0]
        for group in (project["dependencies"], *(extras[name] for name in RUNTIME_EXTRAS))
        for text in group
    }
    declared = {IMPORT_NAMES.get(name, name) for name in names}
    imported = {entry.imported.partition(".")[0] for entry in _imports()}
    assert imported & LIBRARIES.keys() - BROUGHT_ALONG == declared
