"""The board: what is wanted, in order, however much of it there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.config import HotConfig
from memfs.hot.board import (
    WANTED_COUNT_MAX,
    HotBoard,
    HotDevice,
    HotServerInfo,
    ResidentFile,
    Want,
)
from memfs.hot.protocol import ProtocolError
from memfs.hot.tokens import TokenSigner
from memfs.types import Generation, InodeNo
from memfs_daemon.hot.supervisor import HotSupervisor

if TYPE_CHECKING:
    from pathlib import Path

ONE = InodeNo(1)
GENERATION = Generation(1)


@pytest.fixture
def board() -> HotBoard:
    """That of a server that runs."""
    made = HotBoard()
    made.begin(
        HotServerInfo("address", 0, TokenSigner(b"s" * 32), (HotDevice("CPU-0", "cpu", "cpu", 1),))
    )
    return made


def test_no_number_of_pins_turns_a_program_away(board: HotBoard) -> None:
    """A file that a program waits for has room of its own, and comes first."""
    for number in range(WANTED_COUNT_MAX + 7):
        board.want(Want(InodeNo(number)))
    asked = Want(InodeNo(1 << 40), GENERATION)
    board.want(asked)
    assert board.take_wanted() == asked
    taken = [board.take_wanted() for _ in range(WANTED_COUNT_MAX)]
    assert taken == [Want(InodeNo(number)) for number in range(WANTED_COUNT_MAX)]
    assert board.take_wanted() is None


def test_a_lack_of_room_is_of_one_generation_and_of_one_server(board: HotBoard) -> None:
    """Until the file is tried again."""
    board.note_full(ONE, GENERATION)
    assert board.is_full_for(ONE, GENERATION)
    assert not board.is_full_for(ONE, Generation(2))
    board.clear_full(ONE)
    assert not board.is_full_for(ONE, GENERATION)
    board.note_full(ONE, GENERATION)
    board.end("it has ended")
    assert not board.is_full_for(ONE, GENERATION)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "gone"},
        {"event": "gone", "ino": "1", "generation": 1},
        {"event": "wanted", "ino": 1, "generation": True},
        {"event": "wanted", "ino": None, "generation": 1},
    ],
)
def test_an_event_that_is_none_is_an_error_of_the_server(
    board: HotBoard, tmp_path: Path, event: dict[str, object]
) -> None:
    """The supervisor ends that server then; the daemon goes on."""
    board.residents[ONE] = ResidentFile(GENERATION, "CPU-0", 1, False)
    supervisor = HotSupervisor(HotConfig(), tmp_path, board, lambda: None, lambda *_: None, {})
    with pytest.raises(ProtocolError):
        supervisor._take_event(event)
    assert (board.take_wanted(), list(board.residents)) == (None, [ONE])
