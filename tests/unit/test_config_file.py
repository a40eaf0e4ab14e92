"""Reading the configuration: what is accepted, and what each refusal says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.config import (
    GIB,
    MIB,
    ColdConfig,
    Config,
    GlacierConfig,
    MountConfig,
    PolicyConfig,
    SnapshotRule,
)
from memfs.config_file import RANGES, KeyKind, keys, load_config
from memfs.config_text import config_text, hidden_options
from memfs.errors import UsageError
from memfs.sizes import parse_duration, parse_size

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "memfs.toml"


def _refusal(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_config(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_file_every_key_has_its_default() -> None:
    assert load_config(None) == Config()


def test_an_empty_file_is_the_defaults(file: Path) -> None:
    file.write_text("")
    assert load_config(file) == Config()


def test_values_of_every_kind_are_read(file: Path) -> None:
    file.write_text(
        """
        [mount]
        driver = "pyfuse3"
        passthrough = false
        [metadata]
        inode_cache_count = 500
        [warm]
        size = "2GiB"
        high_watermark = 1
        [policy]
        warm_to_cold = "1h"
        interval = 0.5
        [glacier]
        url = "s3://bucket/prefix"
        [glacier.options]
        endpoint_url = "http://127.0.0.1:1"
        """
    )
    config = load_config(file)
    assert config.mount.driver == "pyfuse3"
    assert config.mount.passthrough is False
    assert config.metadata.inode_cache_count == 500
    assert config.warm.size_bytes == 2 * GIB
    assert config.warm.high_watermark == 1.0
    assert config.policy.warm_to_cold_s == 3600.0
    assert config.policy.interval_s == 0.5
    assert config.glacier.url == "s3://bucket/prefix"
    assert config.glacier.options == {"endpoint_url": "http://127.0.0.1:1"}


def test_overrides_win_over_the_file(file: Path) -> None:
    file.write_text('[warm]\nsize = "2GiB"\nlow_watermark = 0.5\n')
    config = load_config(
        file,
        {
            "warm.size": "512MiB",
            "mount.passthrough": "false",
            "glacier.transfer_count_max": "2",
            "warm.high_watermark": "0.9",
        },
    )
    assert config.warm.size_bytes == 512 * MIB
    assert config.warm.low_watermark == 0.5
    assert config.warm.high_watermark == 0.9
    assert config.mount.passthrough is False
    assert config.glacier.transfer_count_max == 2


def test_the_former_name_of_a_section_goes_on_working(file: Path) -> None:
    file.write_text('[budgets]\nupload_rate = "1MiB"\n')
    config = load_config(file, {"budgets.egress_per_day": "2MiB"})
    assert config.quotas.upload_rate_bytes == MIB
    assert config.quotas.egress_bytes_per_day == 2 * MIB


def test_both_names_of_a_section_are_refused(file: Path) -> None:
    refusal = _refusal(file, "[budgets]\n[quotas]\n")
    assert "[budgets] is the former name of [quotas]; write one of the two" in refusal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[wram]\n", "unknown section [wram]; did you mean 'warm'?"),
        ("[warm]\nszie = 1\n", "unknown key 'szie' in [warm]; did you mean 'size'?"),
        ("[warm]\nsize_bytes = 1\n", "unknown key 'size_bytes' in [warm]; did you mean 'size'?"),
        ("[cold]\nzzzzzz = 1\n", "unknown key 'zzzzzz' in [cold]; known: size, reserve"),
        ("warm = 1\n", "warm is a section; write [warm]"),
        ("[warm]\nsize = true\n", "warm.size: True is no size"),
        ("[warm]\nsize = 1.5\n", "warm.size: must be a size such as 512MiB, not 1.5"),
        ('[warm]\nsize = "lots"\n', "warm.size: 'lots' is no size"),
        ("[warm]\nhigh_watermark = 95\n", "warm.high_watermark = 95 is out of range: 0.01 to 1"),
        ('[cold]\nframe = "1GiB"\n', "cold.frame = 1GiB is out of range: 4KiB to 64MiB"),
        ("[policy]\ninterval = 0\n", "policy.interval = 0 is out of range: 0.01s to 3600s"),
        (
            "[warm]\nlow_watermark = 0.99\n",
            "warm.low_watermark = 0.99 is above warm.high_watermark",
        ),
        ("[mount]\ndriver = 'fuse2'\n", "no driver 'fuse2'; use auto, kernel, pyfuse3"),
        ("[nodes]\nupload = 'never'\n", "nodes.upload = 'never'; write sealed or policy"),
        ("[mount]\npassthrough = 1\n", "mount.passthrough: must be true or false, not 1"),
        ("[metadata]\ninode_cache_count = true\n", "must be a whole number, not True"),
        ("[warm\n", "is not valid TOML"),
    ],
)
def test_a_refusal_names_file_key_and_remedy(file: Path, text: str, expected: str) -> None:
    refusal = _refusal(file, text)
    assert str(file) in refusal or "is above" in refusal
    assert expected in refusal


def test_keys_are_one_text_or_several_and_never_shown(file: Path) -> None:
    file.write_text('[encryption]\nkeys = "env:A"')
    assert load_config(file).encryption.keys == ("env:A",)
    assert load_config(file, {"encryption.keys": "file:/b"}).encryption.keys == ("file:/b",)
    file.write_text('[encryption]\nkeys = ["file:/a", "env:B"]')
    assert load_config(file).encryption.keys == ("file:/a", "env:B")
    file.write_text('[encryption]\nkeys = ["secret", 1]')
    with pytest.raises(UsageError, match=r"encryption\.keys: .* list of them") as refused:
        load_config(file)
    assert "secret" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"cannot read the configuration .*none\.toml: No such file"
    ):
        load_config(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_config(file)


def test_secrets_are_taken_from_a_file_alone_and_never_shown(file: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(None, {"glacier.options.secret": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "-c" in str(caught.value)
    assert "hunter2" not in _refusal(file, '[glacier]\noptions = "hunter2"\n')


@pytest.mark.parametrize(
    ("override", "value", "expected"),
    [
        ("warm.szie", "1GiB", "did you mean 'size'?"),
        ("wram.size", "1GiB", "did you mean 'warm.size'?"),
        ("mount.passthrough", "maybe", "must be true or false, not 'maybe'"),
        ("glacier.transfer_count_max", "many", "must be a whole number"),
        ("glacier.options", "x", "[glacier.options]"),
    ],
)
def test_a_wrong_override_is_refused(override: str, value: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(None, {override: value})
    assert f"-o {override}" in str(caught.value)
    assert expected in str(caught.value)


def test_every_number_has_a_range_and_its_default_lies_within() -> None:
    numeric = {KeyKind.SIZE, KeyKind.DURATION, KeyKind.NUMBER, KeyKind.COUNT}
    by_name = {key.dotted: key for key in keys()}
    assert set(RANGES) == {name for name, key in by_name.items() if key.kind in numeric}
    for name, bounds in RANGES.items():
        default = by_name[name].default
        assert default is None or bounds.low <= default <= bounds.high  # type: ignore[operator]  # numeric by its kind


def test_no_two_keys_have_one_name() -> None:
    names = [key.dotted for key in keys()]
    assert len(set(names)) == len(names)


def test_units_are_left_out_of_the_names_of_keys() -> None:
    names = {key.dotted: key.kind for key in keys()}
    assert names["cold.hydrate_max"] is KeyKind.SIZE
    assert names["policy.retry_min"] is KeyKind.DURATION
    assert parse_size("16MiB") == next(k.default for k in keys() if k.dotted == "cold.hydrate_max")
    assert parse_duration("5s") == next(k.default for k in keys() if k.dotted == "policy.retry_min")


def test_a_configuration_in_force_is_told_as_it_is_written(file: Path) -> None:
    config = Config(
        mount=MountConfig(request_bytes_max=4 * 1024 + 4096, passthrough=False),
        cold=ColdConfig(size_bytes=1234567891, wait_for_room_s=0.125, codec='zstd "\x7f\\'),
        glacier=GlacierConfig(url="s3://bucket/prefix"),
        policy=PolicyConfig(warm_to_cold_s=93784.0625),
    )
    for each in (Config(), config):
        file.write_text(config_text(each))
        assert load_config(file) == each


def test_no_secret_is_told(file: Path) -> None:
    options: dict[str, object] = {
        "key": "AKIA",
        "endpoint_url": "https://me:AKIA@host:9000/?token=AKIA",
        "anon": False,
        "client_kwargs": {"aws_secret_access_key": "AKIA"},
    }
    url = "ftp://me:AKIA@host/path?secret=AKIA"
    text = config_text(Config(glacier=GlacierConfig(url=url, options=options)))
    assert "AKIA" not in text
    assert set(hidden_options(text)) == {"glacier.options.key", "glacier.options.client_kwargs"}
    file.write_text(text)
    glacier = load_config(file).glacier
    assert glacier.url == "ftp://host/path"
    assert glacier.options == {"endpoint_url": "https://host:9000/", "anon": False}


RULES = """
[[snapshots.rule]]
every = "1h"
keep = 24
[[snapshots.rule]]
every = "1d"
keep_within = "7d"
keep_label = { release = "*" }
"""


def test_rules_of_snapshots_are_tables(file: Path) -> None:
    file.write_text(RULES)
    config = load_config(file)
    assert config.snapshots.rule == (
        SnapshotRule(3600.0, 24),
        SnapshotRule(86400.0, 0, 7 * 86400.0, (("release", "*"),)),
    )
    file.write_text(config_text(config))
    assert load_config(file) == config
    file.write_text("[snapshots]\nrule = []\n")
    assert load_config(file).snapshots.rule == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('every = "1h"', "a rule that keeps nothing: write keep = 24"),
        ('every = "1s"\nkeep = 1', "less than a minute"),
        ("keep = 1", "no duration"),
        ('every = "1h"\nkeep = "all"', "write how many are kept"),
        ('every = "1h"\nkept = 1', "did you mean 'keep'"),
        ('every = "1h"\nkeep = 1\nkeep_label = { a = 1 }', "a table of texts"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(file: Path, text: str, words: str) -> None:
    assert words in _refusal(file, f"[[snapshots.rule]]\n{text}\n")


def test_rules_cannot_be_given_on_the_command_line(file: Path) -> None:
    with pytest.raises(UsageError, match=r"write \[snapshots.rule\] into a file"):
        load_config(None, {"snapshots.rule": "1h"})


def test_a_node_that_reads_needs_a_database_and_a_store() -> None:
    texts = {"nodes.role": "reader", "metadata.url": "postgresql://db/memfs"}
    with pytest.raises(UsageError, match=r"nodes.role = reader needs glacier.url: "):
        load_config(None, texts)
    with pytest.raises(UsageError, match=r"needs metadata.url and glacier.url: "):
        load_config(None, {"nodes.role": "reader"})
    texts["glacier.url"] = "file:///srv/objects"
    assert load_config(None, texts).nodes.role == "reader"
    with pytest.raises(UsageError, match=r"needs glacier.url: "):
        load_config(None, texts | {"glacier.enabled": "false"})
    with pytest.raises(UsageError, match="no role 'both'; use writer or reader"):
        load_config(None, {"nodes.role": "both"})
