"""The examples of the feature list: each runs as it stands, on a machine without any mount."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from memfs.manager.configuration import configure
from tests import feature_list
from tests.tiers.tiering import wait_until_at

if TYPE_CHECKING:
    from pathlib import Path

    from memfs import ColdMemory, GlacierMemory, HotMemory, MemoryManager, WarmMemory


def run(example: str, **given: Any) -> dict[str, Any]:  # noqa: ANN401
    """Run an example; returns all its names."""
    names = dict(given)
    exec(compile(example, "feature_list", "exec"), names)
    return names


def test_basic_usage(own_place: Path) -> None:
    location_data = {"city": "San Francisco", "points": [[1.5, 2], [3, 4]]}
    names = run(feature_list.BASIC, location_data=location_data)
    assert names["data"] == location_data
    assert names["exists"] is True
    manager: MemoryManager = names["memory_manager"]
    assert not manager.exists("location_data")
    manager.close(unmount=True)


def test_advanced_usage(own_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imagery = np.arange(60_000, dtype="u2").reshape(3, 100, 200)
    names = run(feature_list.ADVANCED, imagery_data=imagery)
    manager: MemoryManager = names["memory_manager"]
    assert names["results"].keys() == ["satellite_imagery"]
    assert np.array_equal(manager["satellite_imagery"], imagery)
    assert manager.get_metadata("satellite_imagery")["source"] == "sentinel-2"
    made = {each.id: each for each in manager.list_snapshots()}[names["snapshot_id"]]
    assert made.description == "Pre-processing state"
    assert [line.split(" usage: ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "Hot memory",
        "Warm memory",
        "Cold memory",
    ]
    for tier in ("hot", "warm", "cold", "glacier"):
        assert set(names["metrics"][tier]) == {
            *("usage_percent", "usage_bytes", "size_bytes", "items", "hit_ratio"),
        }
    assert names["metrics"]["warm"]["size_bytes"] == 16 << 30
    manager.close(unmount=True)


def test_hot_memory(own_place: Path) -> None:
    tensor = torch.randn(64, 32)
    names = run(feature_list.HOT, model_weights_tensor=tensor)
    assert torch.equal(names["weights"], tensor)
    hot: HotMemory = names["hot_memory"]
    hot.store("model_weights", tensor + 1)
    was = hot.retrieve("model_weights", snapshot="weights_snapshot")
    assert isinstance(was, torch.Tensor)
    assert torch.equal(was, tensor)
    del was, names
    hot.close(unmount=True)


def test_warm_memory(own_place: Path) -> None:
    vector_data = {"vectors": [[0.5, 1.5], [2.5, 3.5]]}
    names = run(feature_list.WARM, vector_data=vector_data)
    assert names["data"] == vector_data
    warm: WarmMemory = names["warm_memory"]
    assert names["metrics"]["size_bytes"] == 8 << 30
    [pool] = warm.mount.pool_list()  # type: ignore[union-attr]
    assert (pool.name, pool.size_bytes) == ("frequent_access", 500 << 20)
    warm.close(unmount=True)


@pytest.mark.parametrize(
    "historical_data",
    [b"history " * 1000, pa.table({"year": range(5000)}), np.arange(9000.0).reshape(3000, 3)],
)
def test_cold_memory(own_place: Path, historical_data: Any) -> None:  # noqa: ANN401
    names = run(feature_list.COLD, historical_data=historical_data)
    cold: ColdMemory = names["cold_memory"]
    for found, wanted in (
        (names["data"], historical_data),
        (names["header"], historical_data[:1000]),
    ):
        assert np.array_equal(found, wanted)
    assert (own_place / "cold_storage" / "format").exists()
    cold.close(unmount=True)


def test_glacier_memory(own_place: Path) -> None:
    archives = {f"archive_{number}": bytes([number]) * 1000 for number in (1, 2, 3)}
    names = run(feature_list.GLACIER, archive_data=b"old" * 1000, **archives)
    assert names["data"] == b"old" * 1000
    glacier: GlacierMemory = names["glacier_memory"]
    assert glacier.batch_retrieve(archives) == archives
    wait_until_at("glacier", *(glacier.path(key) for key in archives))
    assert any((own_place / "glacier_storage").iterdir())
    glacier.close(unmount=True)


def test_all_of_them_live_side_by_side(own_place: Path) -> None:
    """One program that runs them one after the other, but for the sizes of its first manager."""
    tensor = torch.ones(3)
    named = [
        run(feature_list.ADVANCED, imagery_data=np.arange(10))["memory_manager"],
        run(feature_list.HOT, model_weights_tensor=tensor)["hot_memory"],
        run(feature_list.WARM, vector_data=[1, 2])["warm_memory"],
        run(feature_list.COLD, historical_data=b"x" * 2000)["cold_memory"],
        run(
            feature_list.GLACIER, archive_data=b"a", archive_1=b"1", archive_2=b"2", archive_3=b"3"
        )["glacier_memory"],
        run(feature_list.BASIC, location_data="here")["memory_manager"],
    ]
    assert len({manager.directory for manager in named}) == 5
    for manager in named[:5]:
        manager.close(unmount=True)


def test_configuration() -> None:
    names = run(feature_list.CONFIGURATION)
    with pytest.raises(ValueError, match=r"warm_config\['compression'\] = 'lz4': pages in RAM"):
        configure(names["hot_config"], names["warm_config"])
    warm = {**names["warm_config"], "compression": "none"}
    configured = configure(names["hot_config"], warm, names["cold_config"], names["glacier_config"])
    assert configured.sizes_gb == {"hot": 2, "warm": 8, "cold": 50}
    assert configured.options == {
        "hot.devices": ["cuda:0"],
        "hot.high_watermark": 0.8,
        "hot.low_watermark": pytest.approx(0.7),
        "cold.codec": "zstd",
        "metadata.cache": "512MiB",
        "glacier.url": "s3://memories-archive/archive",
        "glacier.options.client_kwargs": {"region_name": "us-west-2"},
        "glacier.server_side_encryption": "AES256",
    }
