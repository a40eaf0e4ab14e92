"""Programs side by side that make files and remove them: `python -m tests.bench.clients`.

Invariant: all clients of a sample begin at the same moment, each in a directory of its own; a rate
is the work of all over the time until the last one has done its part.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING

from tests import scratch
from tests.bench import comparison, quiet
from tests.bench.comparison import Row, Sample
from tests.bench.workloads import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.bench.places import Place

CLIENT_COUNTS = (1, 2, 4, 8)
FILE_COUNT = 4000
"""Files that all clients of a sample make together: half a second or more."""


def sample(
    directory: Path, client_count: int, file_count: int, servers: Sequence[int] = ()
) -> dict[str, Sample]:
    """Create, write and close 4 KiB files by so many clients, then unlink them; files a second.

    Args:
        directory: It is as before afterwards.
        client_count: Processes.
        file_count: For all clients together.
        servers: Processes whose processor time is of interest.
    """
    each = max(1, file_count // client_count)
    homes = [directory / f"new-{secrets.token_hex(4)}" for _ in range(client_count)]
    for home in homes:
        home.mkdir()
    result = {}
    for phase, work in (("create", _create), ("unlink", _unlink)):
        before_ns = quiet.processor_ns(servers)
        elapsed_s = run_at_once([_bind(work, home, each) for home in homes])
        used_ns = quiet.processor_ns(servers) - before_ns
        count = each * client_count
        server_us = used_ns / 1e3 / count if servers else None
        result[phase] = Sample(count / elapsed_s, server_us)
    for home in homes:
        home.rmdir()
    return result


def _bind(work: Callable[[Path, int], None], home: Path, count: int) -> Callable[[], None]:
    return lambda: work(home, count)


def _create(home: Path, count: int) -> None:
    os.chdir(home)
    block = bytes(BLOCK_BYTES)
    for number in range(count):
        fd = os.open(f"{number:06}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(fd, block)
        os.close(fd)


def _unlink(home: Path, count: int) -> None:
    os.chdir(home)
    for number in range(count):
        os.unlink(f"{number:06}")


def run_at_once(works: Sequence[Callable[[], None]]) -> float:
    """Run each in a process of its own, and return the seconds until the last one has ended.

    Raises:
        ChildProcessError: One of them failed.
    """
    gate_read, gate_write = os.pipe()
    pids = [_start(work, gate_read, gate_write) for work in works]
    os.close(gate_read)
    # Until each of them waits at the gate.
    time.sleep(0.01 * len(works))
    begin_s = time.perf_counter()
    os.close(gate_write)
    failed_count = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    elapsed_s = time.perf_counter() - begin_s
    if failed_count:
        raise ChildProcessError(f"{failed_count} of {len(works)} clients failed")
    return elapsed_s


def _start(work: Callable[[], None], gate_read: int, gate_write: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(gate_write)
            # It ends when the parent closes the other end.
            os.read(gate_read, 1)
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def measure(
    places: Sequence[Place], round_count: int, client_counts: Sequence[int], file_count: int
) -> dict[str, Row]:
    """Return the samples of each row."""
    servers = {place.name: scratch.processes_naming(place.base) for place in places}
    rows: dict[str, Row] = {
        f"{phase}, {count} client{'s' * (count > 1)}": {}
        for phase in ("create + write 4 KiB + close", "unlink")
        for count in client_counts
    }
    titles = list(rows)
    for number, at, place in comparison.in_turns(places, round_count, len(client_counts)):
        found = sample(place.directory, client_counts[at], file_count, servers[place.name])
        if number:
            for title, each in zip(titles[at :: len(client_counts)], found.values(), strict=True):
                rows[title].setdefault(place.name, []).append(each)
    return rows


def main() -> None:
    """Measure, and print what came of it."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--clients", default=",".join(map(str, CLIENT_COUNTS)))
    parser.add_argument("--files", type=int, default=FILE_COUNT, help="of all clients together")
    arguments = parser.parse_args()
    client_counts = [int(word) for word in arguments.clients.split(",")]
    result = comparison.run(
        arguments,
        lambda places, rounds: measure(places, rounds, client_counts, arguments.files),
    )
    table = comparison.render(result["rows"], "files a second", more_is_better=True)
    comparison.finish(arguments, result, table)


if __name__ == "__main__":
    main()
