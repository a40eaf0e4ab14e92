"""A kernel that writes down what it is told to forget."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfs.types import InodeNo


class Recorder:
    """Implements `KernelNotices`; slow to forget a name while `go_on` is not set."""

    can_forget_all = True

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def forget_attributes(self, ino: InodeNo) -> None:
        self.told.append(("attributes", ino))

    def forget_pages(self, ino: InodeNo) -> None:
        self.told.append(("pages", ino))

    def forget_name(self, parent: InodeNo, name: bytes) -> None:
        self.go_on.wait(30)
        self.told.append(("name", parent, name))

    def forget_removed(self, parent: InodeNo, name: bytes, ino: InodeNo) -> None:
        self.told.append(("removed", parent, name, ino))

    def forget_all(self) -> None:
        self.told.append(("all",))
