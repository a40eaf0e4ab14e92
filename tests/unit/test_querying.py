"""What a question costs others: how much is done between two turns of theirs."""

from __future__ import annotations

from memfs.filesystem.querying import DESCRIBED_A_CALL, SLICE_S, next_size


def test_a_call_has_fewer_files_after_one_that_took_long() -> None:
    """Tables that are not in memory take a read of the disk for each file."""
    size = DESCRIBED_A_CALL
    for _ in range(3):
        size = next_size(size, size * SLICE_S)
    assert size == 1
    assert next_size(1, 1000 * SLICE_S) == 1


def test_a_call_has_more_files_again_after_one_that_was_quick() -> None:
    size = 1
    for _ in range(10):
        size = next_size(size, 0.0)
    assert size == DESCRIBED_A_CALL
