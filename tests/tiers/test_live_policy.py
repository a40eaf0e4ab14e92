"""`memfs policy`: values of the policy that change while a mount serves."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from memfs.client.mount import Mount as Client
from memfs.control.client import ControlError, ControlUnavailableError
from tests.mounting import MountError, run_memfs
from tests.processes import ALICE, run_as
from tests.tiers.tiering import compressible, residence
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.conftest import MountFactory

POLICY = '[policy]\ninterval = "100ms"\nretry_min = "100ms"\nretry_max = "400ms"\n'


@pytest.mark.any_driver
def test_values_are_in_force_at_once_and_after_the_next_mount(
    driver: str, mount_factory: MountFactory
) -> None:
    mount = mount_factory(driver, config=POLICY)
    path = mount.root / "file"
    path.write_bytes(compressible(100_000, 1))
    client = Client.of(mount.root)

    def is_packed() -> bool:
        return "packed" in residence(path).forms

    def value_of(name: str) -> str:
        (value,) = [each["value"] for each in client.policy_values() if each["name"] == name]
        return value

    assert value_of("pack_after") == "7 d"
    assert not is_packed()
    told = run_memfs("policy", "set", mount.root, "warm_to_cold=0s", "pack_after=0s")
    assert "pack_after = 0 s  (set; configured: 7 d)" in told
    wait_for(is_packed, lambda: residence(path))
    assert 'pack_after = "0 s"' in (mount.root / ".memfs/config.toml").read_text()
    mount.stop()
    mount.start()

    def subjects() -> set[str]:
        return {event["subject"] for event in client.events()}

    # They are stored with the next row of what is measured.
    wait_for(lambda: {"pack_after", "warm_to_cold"} <= subjects(), subjects)
    shown = json.loads(run_memfs("policy", "show", mount.root, "--json"))
    in_force = {each["name"]: (each["value"], each["is_set"]) for each in shown}
    assert in_force["pack_after"] == ("0 s", True)
    assert in_force["warm_to_cold"] == ("0 s", True)
    assert in_force["interval"] == ("100 ms", False)
    client.policy_reset(["pack_after"])
    assert value_of("pack_after") == "7 d"
    client.policy_set({"promote_count": 2, "give_way": True, "warm_to_cold": "90m"})
    assert value_of("promote_count") == "2"
    run_memfs("policy", "reset", mount.root)
    assert not any(each["is_set"] for each in client.policy_values())


@pytest.mark.any_driver
def test_what_cannot_be_is_refused_by_name_and_changes_nothing(
    driver: str, mount_factory: MountFactory
) -> None:
    mount = mount_factory(driver, config=POLICY)
    client = Client.of(mount.root)
    before = client.policy_values()
    for values, reason in (
        ({"name": "frugal"}, r"policy\.name is read when a mount begins"),
        ({"retry_min": "1s"}, r"policy\.retry_min is read when a mount begins"),
        ({"colder": "1s"}, r"there is no 'colder' in \[policy\]; known: hot_to_warm, warm_to_cold"),
        ({"warm_to_cold": "1h", "promote_count": "0"}, "promote_count = 0 is out of range"),
        ({"pack_after": "soon"}, "pack_after"),
        ({"give_way": "perhaps"}, "must be true or false"),
        ({"cold_to_glacier": "9999d"}, "out of range"),
    ):
        with pytest.raises(ControlError, match=reason):
            client.policy_set(values)
    with pytest.raises(ControlError, match="is read when a mount begins"):
        client.policy_reset(["name"])
    with pytest.raises(MountError, match="has no ="):
        run_memfs("policy", "set", mount.root, "warm_to_cold")
    assert client.policy_values() == before
    os.chmod(mount.root, 0o755)
    with pytest.raises(ControlUnavailableError, match="only the user who mounted"):
        run_as(ALICE, client.policy_set, {"warm_to_cold": "1h"})
    assert client.policy_values() == before
