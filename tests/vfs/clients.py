"""Database clients in separate processes, driven by a test: ``python -m tests.vfs.clients LIBRARY``.

A client reads one *batch* of steps per line and answers with one line, so several clients work at the same time while
the test decides what each does. A step is a list: ``["open", path, timeout]``, ``["close"]``, ``["die"]``, which kills
the process immediately, or ``["sql", statement, parameters]``. The answer is ``[rows of the last statement, error]``;
an error ends the batch.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from rapsqlite.errors import Error
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vfs.worker import Library

# Ends a process at once. Its exit code is then the signal's number, on POSIX the negative one.
DEATH = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL
KILLED = DEATH if sys.platform == "win32" else -DEATH

Step = list[Any]
BUSY = "database is locked"


class Answer(NamedTuple):
    """The result of a batch: the rows of its last statement, or the message of the error that ended it."""

    rows: list[list[Any]]
    error: str


class Client:
    """The test's side of one client."""

    def __init__(self, library: str) -> None:
        self.library = library
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.vfs.clients", library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, *steps: Step) -> None:
        """Let the client work; `answer` waits for it."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(steps) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Answer:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the client has ended: {self._process.wait()}"
        return Answer(*json.loads(line))

    def run(self, *steps: Step) -> list[list[Any]]:
        """Do the steps and return the rows of the last one; none may fail."""
        self.send(*steps)
        answer = self.answer()
        assert not answer.error, answer.error
        return answer.rows

    def fails(self, *steps: Step) -> str:
        """Do the steps, of which one must fail; return the message."""
        self.send(*steps)
        answer = self.answer()
        assert answer.error
        return answer.error

    def wait_for_death(self) -> None:
        """Wait for a client that was sent ``["die"]``."""
        assert self._process.stdout
        assert self._process.stdout.read() == ""
        assert self._process.wait() == KILLED
        self._close_pipes()

    def end(self) -> None:
        """End the process, which closes its connection in whatever state it is."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()


class _Native:
    def __init__(self, database: str, timeout_s: float) -> None:
        self._connection = sqlite3.connect(database, timeout=timeout_s, isolation_level=None)

    def run(self, sql: str, *parameters: object) -> list[Any]:
        return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self._connection.close()


class _Ours:
    def __init__(self, database: str, timeout_s: float) -> None:
        self._connection = Driven(database, timeout_s=timeout_s)

    def run(self, sql: str, *parameters: object) -> list[Any]:
        return self._connection.sql(sql, *parameters)

    def close(self) -> None:
        self._connection.close()


class Served:
    """The client's side: one connection, or none."""

    def __init__(self, library: str) -> None:
        self._open: Any = _Ours if library == "ours" else _Native
        self._connection: Library | None = None
        self.rows: list[Any] = []

    def do(self, step: Step) -> None:
        match step:
            case ["open", path, timeout_s]:
                self._close()
                self._connection = self._open(path, timeout_s)
            case ["close"]:
                self._close()
            case ["die"]:
                os.kill(os.getpid(), DEATH)
            case ["sql", statement, parameters]:
                assert self._connection
                self.rows = self._connection.run(statement, *parameters)
            case _:
                raise ValueError(f"no step: {step}")

    def _close(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None


def serve(library: str) -> None:
    """Answer batches until the test closes the pipe."""
    served = Served(library)
    for line in sys.stdin:
        served.rows = []
        error = ""
        try:
            for step in json.loads(line):
                served.do(step)
        except (Error, sqlite3.Error) as failure:
            error = str(failure) or type(failure).__name__
        sys.stdout.write(json.dumps([served.rows, error]) + "\n")
        sys.stdout.flush()


def sql(statement: str, *parameters: object) -> Step:
    """Return the step that runs a statement."""
    return ["sql", statement, list(parameters)]


def connect(database: Path, timeout_s: float = 60.0) -> Step:
    """Return the step that opens the database, after closing another one."""
    return ["open", str(database), timeout_s]


if __name__ == "__main__":
    serve(sys.argv[1])
