"""Keys of a manager against a dictionary: any text is a key of its own, and nothing escapes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memfs.manager.errors import KeyConflictError, MissingKeyError
from memfs.manager.manager import MemoryManager
from tests.scratch import remove

NASTY = ("..", ".", "", ".memfs", "%", "%2E", "%~", "a", "b", "\u00e9" * 120, "x" * 250, "y" * 4000)
"""Components that mean something to a file system, or are too long for it."""

COMPONENT = st.sampled_from(NASTY) | st.text(
    st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), max_size=12
)
KEY = st.lists(COMPONENT, min_size=1, max_size=3).map("/".join).filter(bool)


class KeyMachine(RuleBasedStateMachine):
    """What is stored is what a dictionary has, but for keys that are below or above another."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="memfs-keys-"))
        (self.base / "inside").mkdir()
        (self.base / "beside").write_bytes(b"untouched")
        self.manager = MemoryManager(mount=self.base / "inside", plain=True, root="keys")
        self.model: dict[str, int] = {}
        self.count = 0

    def teardown(self) -> None:
        remove(self.base)

    def conflicts(self, key: str) -> bool:
        return any(
            other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in self.model
        )

    @rule(key=KEY)
    def store(self, key: str) -> None:
        self.count += 1
        try:
            self.manager.store(key, self.count)
        except KeyConflictError:
            assert self.conflicts(key)
        else:
            assert not self.conflicts(key)
            self.model[key] = self.count

    @rule(key=KEY)
    def store_new(self, key: str) -> None:
        self.count += 1
        try:
            self.manager.store(key, self.count, overwrite=False)
        except KeyConflictError:
            assert key in self.model or self.conflicts(key)
        else:
            assert key not in self.model
            self.model[key] = self.count

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)) if self.model else KEY)
        try:
            self.manager.delete(key)
        except MissingKeyError:
            assert key not in self.model
        else:
            del self.model[key]

    @rule(key=KEY)
    def look(self, key: str) -> None:
        assert self.manager.retrieve(key, default=None) == self.model.get(key)
        assert (key in self.manager) == (key in self.model)

    @rule(prefix=KEY)
    def list_some(self, prefix: str) -> None:
        expected = sorted(key for key in self.model if key.startswith(prefix))
        assert sorted(self.manager.keys(prefix)) == expected

    @invariant()
    def all_are_there_and_nothing_else(self) -> None:
        assert {key: self.manager[key] for key in self.manager} == self.model
        assert sorted(os.listdir(self.base)) == ["beside", "inside"]
        assert set(os.listdir(self.base / "inside")) <= {"keys"}
        assert (self.base / "beside").read_bytes() == b"untouched"
        files = [file for _, _, names in os.walk(self.base / "inside") for file in names]
        assert len(files) == len(self.model)


KeyMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestKeys = KeyMachine.TestCase
