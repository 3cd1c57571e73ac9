"""Compiling the engine takes a second or two, once: a terminal shows a line, and nothing else is written anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.played import PARK_FOR_EVER, module
from tests.programs import run_python

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"rapsqlite: compiling the engine, once \(\d+\.\d s\)\r?\n")
COMPILE = f"from rapsqlite import runtime; runtime.Engine({module(PARK_FOR_EVER)!r})"
# What may stand for standard error where there is no terminal: pythonw, daemons, notebooks, tees.
REPLACED = {
    "none": "None",
    "without isatty": "type('Tee', (), {'write': lambda *_: 0, 'flush': lambda _: None})()",
    "a terminal by its word alone": "type('Notebook', (io.StringIO,), {'isatty': lambda _: True})()",
    "closed": "open(os.devnull, 'w'); sys.__stderr__ = sys.stderr; sys.stderr.close()",
    "detached": "io.TextIOWrapper(io.BytesIO()); sys.__stderr__ = sys.stderr; sys.stderr.detach()",
}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")


@pytest.fixture(autouse=True)
def _cold_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPSQLITE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))


def on_terminal(code: str) -> tuple[str, str]:
    """Run a program whose standard error is a terminal; return what it printed and what the terminal showed."""
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 1000):
                shown += piece
        except OSError:  # Linux, once the program has ended
            pass
        os.close(ours)
        printed, _ = process.communicate(timeout=50)
    assert process.returncode == 0, shown
    return printed, shown.decode()


def in_pipe(code: str) -> str:
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_terminal_shows_what_the_first_connection_waits_for_and_only_the_first() -> None:
    code = (
        "import asyncio, rapsqlite\n"
        "async def main():\n"
        "    async with rapsqlite.connect(':memory:'): pass\n"
        "asyncio.run(main())\n"
    )

    assert LINE.fullmatch(on_terminal(code)[1])
    assert on_terminal(code) == ("", "")


def test_extensions_and_the_watcher_are_not_announced() -> None:
    """They take milliseconds."""
    code = COMPILE.replace("runtime.Engine(", "engine = runtime.Engine(") + "; engine.prepare_watching()"

    assert LINE.fullmatch(on_terminal(code)[1])


def test_nothing_is_announced_where_another_process_has_compiled_meanwhile(tmp_path: Path) -> None:
    on_terminal(COMPILE)
    code = (
        "from rapsqlite import runtime\n"
        "load, calls = runtime.Engine._load_cached, []\n"
        "def late(self, key):\n"
        "    calls.append(key)\n"
        "    return load(self, key) if len(calls) > 1 else None\n"
        "runtime.Engine._load_cached = late\n"
        f"path = runtime.Path({str(tmp_path / 'engine.wasm')!r})\n"
        f"path.write_bytes({module(PARK_FOR_EVER)!r})\n"
        "runtime.Engine(path)\n"
        "assert len(calls) == 2\n"
    )

    assert on_terminal(code) == ("", "")


def test_line_ends_although_the_module_does_not_compile() -> None:
    code = "from rapsqlite import runtime\ntry: runtime.Engine(b'no module')\nexcept runtime.OperationalError: pass\n"

    assert on_terminal(code) == ("", "rapsqlite: compiling the engine, once\r\n")


def test_pipe_gets_nothing() -> None:
    """The notice is for people; a program that reads standard error would take it for an error."""
    assert in_pipe(COMPILE) == ""


@pytest.mark.parametrize("stream", REPLACED.values(), ids=REPLACED)
def test_nothing_is_written_where_standard_error_is_replaced(stream: str) -> None:
    """Neither through the replacement nor past it to the terminal, and no error."""
    code = (
        "import io, os, sys\n"
        f"sys.stderr = {stream}\n"
        f"{COMPILE}\n"
        "if isinstance(sys.stderr, io.StringIO): sys.stdout.write(sys.stderr.getvalue())\n"
        "sys.stderr = sys.__stderr__ = None\n"  # the interpreter would flush it
    )

    assert on_terminal(code) == ("", "")


def test_log_has_it_at_info_and_not_otherwise() -> None:
    logged = "import logging; logging.basicConfig(level=logging.{}, format='%(name)s %(message)s');"

    assert in_pipe(logged.format("WARNING") + COMPILE) == ""
    forget = "import os, shutil; shutil.rmtree(os.environ['RAPSQLITE_CACHE_DIR']);"
    found = in_pipe(logged.format("INFO") + forget + COMPILE)
    assert re.fullmatch(r"rapsqlite compiled the engine in \d+\.\d s\n", found)
