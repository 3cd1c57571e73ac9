#!/usr/bin/env python3
"""Record what a day's SQL runs of SQLite: wasm/sqlite_cold.csv and wasm/sqlite_hot.proftext.

    python3 -m scripts.record_profile            write both; takes some minutes, and Debian's clang-22, llvm-22 and
                                                 libclang-rt-22-dev
    python3 -m scripts.record_profile --check    exit 1 if one was recorded from another SQLite

SQLite is compiled for this machine with counters in it and runs scripts/profile_workload.py. The build of the module
then compiles the functions of the first file, which run never or seldom, for size, and the others for speed, with the
counters of the second file; a function that is unknown to either side does no harm. Record again when libsqlite3-sys
changes.
https://clang.llvm.org/docs/UsersManual.html#profiling-with-instrumentation
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.generate_constants import bindings_path
from scripts.profile_database import Database
from scripts.profile_workload import run

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
COLD_LIST = ROOT / "wasm" / "sqlite_cold.csv"
HOT_PROFILE = ROOT / "wasm" / "sqlite_hot.proftext"
LOCK = ROOT / "wasm" / "Cargo.lock"
MARK = "# recorded from: "
SOURCE = re.compile(r'^name = "libsqlite3-sys"\nversion = "(.+)"\n.*\nchecksum = "(.+)"', re.MULTILINE)

COMPILER, TOOL = "clang-22", "llvm-profdata-22"
# What libsqlite3-sys defines beside the options in build_wasm.sh, as far as it changes the code.
CRATE_OPTIONS = (
    "-DSQLITE_CORE",
    "-DSQLITE_SOUNDEX",
    "-DHAVE_USLEEP=1",
    "-DHAVE_ISNAN",
    "-DHAVE_LOCALTIME_R",
    "-DLONGDOUBLE_TYPE=double",
)
JOURNALS = ("DELETE", "WAL", "MEMORY")
# A function none of whose blocks ran more often than this, of some three thousand million that ran, costs no time.
SELDOM = 3000


def source(lock: str) -> str:
    """Return name, version and checksum of the crate that SQLite's source comes from."""
    found = SOURCE.search(lock)
    if found is None:
        raise SystemExit("wasm/Cargo.lock names no libsqlite3-sys")
    return f"libsqlite3-sys {found[1]} {found[2]}"


def compile_instrumented(directory: Path) -> Path:
    """Compile SQLite for this machine, with counters, and return the shared library."""
    command = ["bash", str(ROOT / "scripts" / "build_wasm.sh"), "--sqlite-options"]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    options = [option for option in answer.split() if not option.startswith("-DSQLITE_OS_OTHER")]
    library = directory / "libsqlite3.so"
    code = bindings_path().with_name("sqlite3.c")
    flags = ["-O1", "-fPIC", "-shared", "-fprofile-instr-generate", "-w"]
    subprocess.run([COMPILER, *flags, *CRATE_OPTIONS, *options, str(code), "-o", str(library), "-lm"], check=True)
    return library


def work(library: Path, directory: Path) -> None:
    """Run the workload on a database of each kind; the counters are written when the process ends."""
    for journal in JOURNALS:
        path = ":memory:" if journal == "MEMORY" else str(directory / f"{journal}.db")
        database = Database(library, path)
        database.script(f"PRAGMA journal_mode = {journal}; PRAGMA synchronous = NORMAL")
        run(database)
        database.close()


def functions(profile: str) -> Iterator[tuple[list[str], int]]:
    """Yield each function of a profile's text form: its lines, and how often its busiest block ran.

    A record is a name behind its file's, a hash, the number of counters, and the counters, one a line; an empty line
    ends it, and comments are strewn in.
    """
    for record in profile.split("\n\n"):
        lines = [line for line in record.splitlines() if line and not line.startswith("#")]
        if lines:
            yield lines, max(int(count) for count in lines[3:])


def attributes(profile: str) -> list[str]:
    """Return a line ``function,attribute`` for each function that is compiled for size."""
    return sorted(
        f"{lines[0].rpartition(':')[2]},{'optsize' if most else 'minsize'}"
        for lines, most in functions(profile)
        if most < SELDOM
    )


def counters(profile: str) -> list[str]:
    """Return the records of the other functions."""
    return sorted("\n".join(lines) + "\n" for lines, most in functions(profile) if most >= SELDOM)


def record() -> None:
    """Write both files."""
    with tempfile.TemporaryDirectory() as name:
        library, raw = compile_instrumented(Path(name)), Path(name) / "raw"
        # In a process of its own: the counters are written at its end.
        command = [sys.executable, "-m", "scripts.record_profile", "--work", str(library), name]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "LLVM_PROFILE_FILE": str(raw)})
        command = [TOOL, "merge", "--text", str(raw)]
        profile = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    write(profile, MARK + source(LOCK.read_text(encoding="utf-8")))


def write(profile: str, mark: str) -> None:
    """Write both files from a profile's text form."""
    COLD_LIST.write_text("\n".join([mark, *attributes(profile)]) + "\n", encoding="utf-8")
    HOT_PROFILE.write_text("\n".join([mark, *counters(profile)]), encoding="utf-8")


def stale(recording: str, lock: str) -> str | None:
    """Return why a file's content does not fit the SQLite that ``lock`` pins, or None if it does."""
    recorded = recording.partition("\n")[0].removeprefix(MARK)
    if recorded == source(lock):
        return None
    return f"the profile was recorded from {recorded}, not from {source(lock)}: run scripts/record_profile.py"


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description="Record which functions of SQLite run how often.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it was another SQLite")
    parser.add_argument("--work", nargs=2, type=Path, metavar=("LIBRARY", "DIRECTORY"), help="run the workload only")
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
    elif not arguments.check:
        record()
    else:
        lock = LOCK.read_text(encoding="utf-8")
        for path in (COLD_LIST, HOT_PROFILE):
            if fault := stale(path.read_text(encoding="utf-8"), lock):
                print(fault, file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
