"""The example applications, with real servers, real HTTP clients, several processes and real signals."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@contextmanager
def started(folder: Path, *command: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program in ``folder`` and end it afterwards."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder, env={**os.environ, **variables, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    """Return the address that a server reports."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        found = re.search(r"http://127\.0\.0\.1:[1-9]\d*", line)
        if found:
            return found[0]
    raise AssertionError("".join(lines))


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    return output


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = "-m uvicorn --port 0 examples.applications.fastapi_service:app".split()
    with started(tmp_path, *command) as process, httpx.Client(base_url=address_of(process), timeout=30) as client:
        yield process, client


def test_fastapi_service_stores_reads_and_pages(
    service: tuple[subprocess.Popen[str], httpx.Client], tmp_path: Path
) -> None:
    process, client = service
    created = [client.post("/notes", json={"body": f"note {number}"}) for number in range(5)]
    pages, after = [], None
    while True:
        page = client.get("/notes", params={"after": after} if after else None).json()
        pages.append([note["id"] for note in page["notes"]])
        after = page["next"]
        if after is None:
            break
    answers = [client.get("/notes/3"), client.get("/notes/9"), client.get("/notes?after=nonsense")]
    replaced = client.put("/notes", json=[{"body": "only"}])
    output = stop(process)

    assert [answer.status_code for answer in created] == [201] * 5
    assert pages == [[1, 2], [3, 4], [5]]
    assert [answer.status_code for answer in answers] == [200, 404, 400]
    assert answers[0].json() == {"id": 3, "body": "note 2"}
    assert replaced.json() == {"count": 1}
    assert "Traceback" not in output
    assert os.listdir(tmp_path) == ["notes.db"]
    with closing(sqlite3.connect(tmp_path / "notes.db")) as native:
        assert list(native.execute("SELECT body FROM note")) == [("only",)]


def test_statement_ends_when_the_client_of_a_stream_goes_away(
    service: tuple[subprocess.Popen[str], httpx.Client],
) -> None:
    _, client = service
    short = client.get("/numbers?most=3").text
    with client.stream("GET", "/numbers") as answer:
        lines = answer.iter_lines()
        first = [next(lines) for _ in range(1000)]
        during = client.get("/out").json()

    while client.get("/out").json():  # the test's own time limit ends this
        pass
    assert short == "[1]\n[2]\n[3]\n"
    assert first[-1] == "[1000]"
    assert during == 1


def test_trio_service_counts_visits(tmp_path: Path) -> None:
    with started(tmp_path, str(EXAMPLES / "applications" / "trio_service.py"), "127.0.0.1:0") as process:
        with httpx.Client(base_url=address_of(process), timeout=30) as client:
            visits = [client.get(f"/{page}").json()["visits"] for page in ("a", "b", "a")]
        output = stop(process)

    assert visits == [1, 1, 2]
    assert "Traceback" not in output.replace("KeyboardInterrupt", "") or "KeyboardInterrupt" in output
    with closing(sqlite3.connect(tmp_path / "visits.db")) as native:
        assert sorted(native.execute("SELECT * FROM visit")) == [("a", 2), ("b", 1)]


def test_each_job_is_done_once_by_several_processes(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with started(tmp_path, str(EXAMPLES / "job_queue.py"), str(path)) as process:
        process.communicate(timeout=30)
    with closing(sqlite3.connect(path)) as native, native:
        native.executemany("INSERT INTO job (payload) VALUES (?)", [(f"job {number}",) for number in range(200)])

    with (
        started(tmp_path, str(EXAMPLES / "job_queue.py"), str(path)) as one,
        started(tmp_path, str(EXAMPLES / "job_queue.py"), str(path)) as two,
    ):
        outputs = [one.communicate(timeout=50)[0], two.communicate(timeout=50)[0]]

    done = [int(output.split()[0]) for output in outputs if re.fullmatch(r"\d+ jobs done by 8 workers\n", output)]
    assert sum(done) == 200, outputs
    with closing(sqlite3.connect(path)) as native:
        assert list(native.execute("SELECT count(*), count(DISTINCT result) FROM job")) == [(200, 200)]


def test_ctrl_c_ends_a_program_cleanly(tmp_path: Path) -> None:
    with started(tmp_path, "-W", "error", str(EXAMPLES / "applications" / "ticker.py")) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(5)]
        output = "".join(seen) + stop(process)
        code = process.returncode

    *ticks, last = output.splitlines()
    assert (code, last) == (0, "stopped")
    assert ticks == [f"tick {number}" for number in range(1, len(ticks) + 1)]
    assert os.listdir(tmp_path) == ["ticks.db"]
    with closing(sqlite3.connect(tmp_path / "ticks.db")) as native:
        assert next(native.execute("SELECT count(*) FROM tick"))[0] in {len(ticks), len(ticks) + 1}
