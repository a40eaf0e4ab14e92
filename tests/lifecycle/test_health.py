"""`memfs health`, `report` and `history` of a mount, well and not."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from memfs.client.mount import Mount as Client
from memfs.exit_codes import ExitCode
from tests.lifecycle.daemons import memfs
from tests.mounting import run_memfs
from tests.waiting import WAIT_S, join, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounting import Mount

pytestmark = [pytest.mark.mount, pytest.mark.any_driver]


def test_a_mount_that_is_well_is_healthy(mount: Mount) -> None:
    mount.start()
    assert "is well" in run_memfs("health", mount.root)
    assert json.loads(run_memfs("health", "--json", mount.root)) == {"well": True, "findings": []}


def test_a_probe_learns_of_a_daemon_that_hangs_or_has_ended(mount: Mount, tmp_path: Path) -> None:
    mount.start()
    [daemon] = mount.daemon_pids()
    os.kill(daemon, signal.SIGSTOP)
    try:
        assert memfs("health", mount.root).returncode == ExitCode.NO_ANSWER
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert memfs("health", mount.root).returncode == ExitCode.OK
    mount.kill_daemon()
    assert memfs("health", mount.root).returncode == ExitCode.NO_ANSWER
    assert memfs("health", tmp_path).returncode == ExitCode.NOT_MOUNTED


def test_a_full_disk_tier_is_bad(mount: Mount) -> None:
    mount.options = (*mount.options, "-o", "cold.size=1MiB,glacier.enabled=false")
    mount.start()
    (mount.root / "file").write_bytes(os.urandom(2 << 20))

    def is_full() -> bool:
        return memfs("health", mount.root).returncode == ExitCode.PROBLEMS

    wait_for(is_full, "the disk tier is full")
    answer = json.loads(memfs("health", "--json", mount.root).stdout)
    assert [each["name"] for each in answer["findings"]] == ["disk"]
    assert answer["well"] is False


def test_a_report_is_written_whole_and_for_its_owner(mount: Mount, tmp_path: Path) -> None:
    mount.start()
    (mount.root / "file").write_bytes(b"x" * 100_000)
    (mount.root / "file").read_bytes()
    page = tmp_path / "report.html"
    told = run_memfs("report", mount.root, "--html", page)
    assert "opened" in told
    assert page.stat().st_mode & 0o777 == 0o600
    assert str(mount.root) in page.read_text()
    assert os.listdir(tmp_path) == [page.name]
    answer = json.loads(
        run_memfs("report", mount.root, "--json", "--span", "hour", "--price", "stored=0.02")
    )
    assert answer["sentences"][0]["text"] == "Nothing needs attention."
    assert answer["resolution_s"] == 10
    assert set(answer["tables"]) >= {"use", "flows", "pending"}


def test_a_report_tells_by_a_trace_what_other_sizes_would_serve(
    mount: Mount, tmp_path: Path
) -> None:
    """And what a month costs by the prices of the configuration and of the command."""
    mount.config = '[warm]\nsize = "1MiB"\n[prices]\ncurrency = "EUR"\nwarm = 1024\ncold = 5'
    mount.start()
    run_memfs("trace", "start", tmp_path / "trace", mount.root)
    for number in range(8):
        (mount.root / f"f{number}").write_bytes(b"x" * 500_000)
    for _ in range(20):
        for number in range(8):
            (mount.root / f"f{number}").read_bytes()
    run_memfs("trace", "stop", mount.root)
    report = json.loads(run_memfs("report", "--json", "--price", "cold=0", mount.root))
    assert report["sizes_by"] == "trace"
    told = [each["text"] for each in report["sentences"] if "instead of 1.0 MiB" in each["text"]]
    assert len(told) == 1
    assert "of the opens would be served from RAM" in told[0]
    assert [each["size"] for each in report["tables"]["sizes"] if each["tier"] == "warm"] == [
        *("512.0 KiB", "1.0 MiB", "2.0 MiB", "4.0 MiB")
    ]
    costs = {each["tier"]: each["cost"] for each in report["tables"]["cost"] if each["cost"]}
    assert costs == {"warm": "1.00 EUR", "cold": "0.00 EUR"}
    refused = memfs("report", "--trace", tmp_path / "none", mount.root)
    assert refused.returncode == ExitCode.USAGE


@pytest.mark.parametrize("price", ["stored", "stored=-1", "stored=nan", "gold=1"])
def test_a_price_that_is_none_is_refused(mount: Mount, price: str) -> None:
    mount.start()
    done = memfs("report", mount.root, "--price", price)
    assert done.returncode == ExitCode.USAGE
    assert "is no price" in done.stderr


def test_what_was_measured_outlives_a_daemon_that_is_killed(mount: Mount) -> None:
    """Rows that were answered are there after the next mount, which counts as another start."""
    mount.start()
    (mount.root / "file").write_bytes(b"x" * 5000)
    (mount.root / "file").read_bytes()
    served = Client.of(mount.root)
    before = served.history(10)
    assert before[-1].numbers["inodes"] == 2
    mount.kill_daemon()
    mount.start()
    after = {row.at_s: row.numbers for row in served.history(10)}
    # What the second daemon did within the same ten seconds is added.
    for at_s, numbers in before:
        for name in ("opens.cold", "opens.warm", "starts"):
            assert after[at_s].get(name, 0) >= numbers.get(name, 0)

    def total(name: str) -> int:
        return sum(numbers.get(name, 0) for numbers in after.values())

    assert total("opens.cold") + total("opens.warm") == 1
    assert total("starts") == 2


class Collector(http.server.BaseHTTPRequestHandler):
    """A receiver of OTLP over HTTP that answers as it is told."""

    status = 200
    answer = b"{}"
    got: ClassVar[list[tuple[str, str, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.got.append((self.path, self.headers.get("x-key", ""), body))
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        """Nothing: the output is that of the test."""


def test_metrics_go_to_a_collector_once_or_again_and_again(mount: Mount) -> None:
    mount.start()
    (mount.root / "file").write_bytes(b"x" * 5000)

    class Mine(Collector):
        got: ClassVar[list[tuple[str, str, dict[str, Any]]]] = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            run_memfs("metrics", mount.root, "--otlp", url, "--header", "x-key=secret")
            [(path, key, body)] = Mine.got
            assert (path, key) == ("/v1/metrics", "secret")
            request = json_format.ParseDict(body, ExportMetricsServiceRequest())
            metrics = request.resource_metrics[0].scope_metrics[0].metrics
            by_name = {each.name: each for each in metrics}
            assert by_name["memfs_inodes"].gauge.data_points[0].as_double == 2
            assert by_name["memfs_request_duration_seconds"].histogram.data_points
            Mine.answer = b'{"partialSuccess": {"rejectedDataPoints": "3", "errorMessage": "old"}}'
            done = memfs("metrics", mount.root, "--otlp", f"{url}/v1/metrics")
            assert (done.returncode, "rejects 3 values: old" in done.stderr) == (1, True)
            Mine.status, Mine.answer = 403, b""
            done = memfs("metrics", mount.root, "--otlp", url)
            assert (done.returncode, "403" in done.stderr) == (1, True)
            Mine.status = 200
            Mine.got.clear()
            words = ["metrics", "--otlp", url, "--every", "1s", str(mount.root)]
            with subprocess.Popen([sys.executable, "-m", "memfs_tools", *words]) as process:
                try:
                    wait_for(lambda: len(Mine.got) >= 2, "two requests")
                    process.send_signal(signal.SIGINT)
                    assert process.wait(WAIT_S) == 130
                finally:
                    process.kill()
        finally:
            server.shutdown()
            join(thread)
    done = memfs("metrics", mount.root, "--otlp", url)
    assert (done.returncode, "does not answer" in done.stderr) == (ExitCode.NO_ANSWER, True)
    for words in (["--otlp", "localhost:4318"], ["--every", "5s"], ["--otlp", url, "--every", "0"]):
        assert memfs("metrics", mount.root, *words).returncode == ExitCode.USAGE, words


def test_a_pin_is_an_event_after_the_next_mount(mount: Mount) -> None:
    mount.start()
    (mount.root / "file").write_bytes(b"x")
    run_memfs("pin", "warm", mount.root / "file")
    mount.stop()
    mount.start()
    events = json.loads(run_memfs("report", mount.root, "--json"))["events"]
    assert [(each["kind"], each["subject"]) for each in events] == [("pin", "/file")]
