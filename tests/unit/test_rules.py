"""Rules: each has a trigger, and no code tells one by its sentence."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.policy import rules
from memfs.policy.access_stats import AccessStats
from memfs.policy.outlook import Facts, outlook
from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
RULE_PLACES = {"Decision": 0, "Move": 2, "_move": 2}
"""Where the rule stands among the arguments."""


def _rules_by_hand() -> Iterator[str]:
    """Name the places that write a rule out, where nobody looks for its trigger."""
    for file in sorted((ROOT / "memfs").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            place = RULE_PLACES.get(node.func.id)
            if place is None or len(node.args) <= place:
                continue
            if isinstance(node.args[place], ast.Constant | ast.JoinedStr):
                yield f"{file.relative_to(ROOT)}:{node.lineno}"


def test_every_rule_has_a_trigger() -> None:
    """`memfs why` tells it."""
    named = {
        value for name, value in vars(rules).items() if name.isupper() and isinstance(value, str)
    }
    assert named - {rules._MARK} == rules.TRIGGERS.keys()
    assert rules.TRIGGERS.keys() >= rules.BY_ITSELF


def test_every_decision_takes_its_rule_from_the_list() -> None:
    assert list(_rules_by_hand()) == []


def test_a_rule_is_found_by_its_name_whatever_it_holds_for() -> None:
    """And another state of the file is another rule."""
    rule = rules.qualified(rules.INCOMPRESSIBLE, 7, "zstd:3")
    assert rule != rules.qualified(rules.INCOMPRESSIBLE, 8, "zstd:3")
    assert rules.name_of(rule) == rules.INCOMPRESSIBLE
    assert [rules.name_of(name) for name in rules.TRIGGERS] == [*rules.TRIGGERS]


@pytest.mark.parametrize("pin", [*Tier])
@pytest.mark.parametrize("tier", [*Tier])
def test_a_file_stays_only_where_it_is(tier: Tier, pin: Tier) -> None:
    """One that is pinned elsewhere is on its way there."""
    told = outlook(Facts(InodeNo(5), tier, pin, 0, "", raw=True), AccessStats())
    assert told.startswith(f"it stays {pin.label}" if tier == pin else f"it is to be {pin.label}")
