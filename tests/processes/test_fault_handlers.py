"""faulthandler, and other handlers of signals that wasmtime needs: a fault in the engine is still an error."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.programs import run_python
from tests.systems import not_on_windows

if TYPE_CHECKING:
    import subprocess

ROOT = Path(__file__).resolve().parents[2]

COMMON = """
    import asyncio, ctypes, faulthandler, logging, os, signal, sys
    import rapsqlite
    from rapsqlite import _constants as abi
    from rapsqlite._wasm.rings import Request
    from tests.guest.played import guest_of

    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    UNREACHABLE = "unreachable"
    OUT_OF_BOUNDS = "(i32.load (i32.const -4))"
    DIVISION = "(i32.div_s (i32.const 1) (i32.load (i32.const 0)))"

    async def trap(body):
        guest = guest_of(body)
        guest.start()
        try:
            await guest.call(Request(abi.OP_OPEN))
        except rapsqlite.OperationalError as error:
            print("error")
        await guest.close()
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    text = textwrap.dedent(COMMON) + textwrap.dedent(program)
    return run_python("-c", text, *arguments, cwd=ROOT)


TRAPS = ["UNREACHABLE", "OUT_OF_BOUNDS", "DIVISION"]


PRINTED = not_on_windows("faulthandler prints a fault there before wasmtime handles it")


@pytest.mark.parametrize("enabled", ["before", pytest.param("after", marks=PRINTED)])
def test_trap_is_an_error_whenever_faulthandler_was_enabled(enabled: str) -> None:
    """pytest enables it, and programs may do so after their first connection: then the next trap used to end the
    process.
    """
    program = """
        async def main():
            if sys.argv[1] == "before":
                faulthandler.enable()
            async with rapsqlite.connect(":memory:") as conn:
                await conn.execute("SELECT 1")
            if sys.argv[1] == "after":
                faulthandler.enable()
            for body in (UNREACHABLE, OUT_OF_BOUNDS, DIVISION):
                await trap(body)

        asyncio.run(main())
    """
    done = run(program, enabled)

    assert (done.returncode, done.stderr) == (0, "")
    told = [line for line in done.stdout.splitlines() if line != "error"]
    assert done.stdout.splitlines().count("error") == len(TRAPS)
    assert len(told) == (enabled == "after")
    assert all("enable it before the first connection" in line for line in told)


@not_on_windows("a file that is mapped cannot be truncated there")
def test_file_that_is_truncated_after_faulthandler_was_enabled_is_an_error(tmp_path: Path) -> None:
    """Reads of a mapped file then raise SIGBUS."""
    program = """
        async def main():
            path = sys.argv[1]
            async with rapsqlite.connect(path) as conn:
                await conn.execute("CREATE TABLE t (a)")
                await conn.execute("INSERT INTO t SELECT randomblob(500000) FROM json_each('[1, 2, 3]')")
                await conn.commit()
            faulthandler.enable()
            async with rapsqlite.connect(path, pragmas={"cache_size": 5}) as conn:
                await conn.fetch_scalar("SELECT sum(length(a)) FROM t")
                os.truncate(path, 4096)
                try:
                    await conn.fetch_scalar("SELECT sum(length(hex(a))) FROM t")
                except rapsqlite.Error:
                    print("error")

        asyncio.run(main())
    """
    done = run(program, str(tmp_path / "test.db"))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "error"


@PRINTED
def test_trap_in_the_request_after_faulthandler_was_enabled_is_an_error() -> None:
    """Handlers used to be checked only when a guest started or a file was mapped."""
    program = """
        async def main():
            guest = guest_of("(drop (call $park (i32.const 0))) unreachable")
            guest.start()
            while not guest._queue.host.is_asleep():
                await asyncio.sleep(0.001)
            faulthandler.enable()
            try:
                await guest.call(Request(abi.OP_OPEN))
            except rapsqlite.OperationalError as error:
                print("error")
            await guest.close()

        asyncio.run(main())
    """
    done = run(program)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "error"


@not_on_windows("ctypes raises an exception for a fault there")
def test_faulthandler_still_reports_faults_of_native_code() -> None:
    program = """
        async def main():
            faulthandler.enable()
            async with rapsqlite.connect(":memory:") as conn:
                await conn.execute("SELECT 1")
            ctypes.string_at(0)

        asyncio.run(main())
    """
    done = run(program)

    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr


@not_on_windows("faults raise no signals there")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGILL, signal.SIGFPE])
def test_programs_own_handler_is_kept_and_the_consequence_logged(number: int) -> None:
    """It may be there for good reasons, as other runtimes' handlers are."""
    program = """
        async def main():
            async with rapsqlite.connect(":memory:") as conn:
                await conn.execute("SELECT 1")
            handler = lambda *_: None
            signal.signal(int(sys.argv[1]), handler)
            for _ in range(2):
                async with rapsqlite.connect(":memory:") as conn:
                    print(await conn.fetch_scalar("SELECT 1"))
            print(signal.getsignal(int(sys.argv[1])) is handler)

        asyncio.run(main())
    """
    done = run(program, str(int(number)))

    assert (done.returncode, done.stderr) == (0, "")
    told, *rest = done.stdout.splitlines()
    assert told.startswith(f"a handler for {signal.Signals(number).name} was installed after the first connection")
    assert rest == ["1", "1", "True"]


@not_on_windows("faults raise no signals there")
def test_handler_for_bus_errors_is_restored_where_wasmtime_has_one() -> None:
    """macOS reports an access to a protected page, such as the polling page of a killed guest, as SIGBUS."""
    program = """
        from rapsqlite._platform import fault_handlers, system

        def handler(number):
            return fault_handlers._handler(fault_handlers._action(number))

        async def main():
            async with rapsqlite.connect(":memory:") as conn:
                await conn.execute("SELECT 1")
            # On other systems wasmtime has none; here it gets one, as if the engine were only now created.
            segv = fault_handlers._action(signal.SIGSEGV)
            fault_handlers._libc.sigaction(signal.SIGBUS, segv, None)
            fault_handlers._installed.clear()
            system.note_fault_handlers()
            wanted = handler(signal.SIGSEGV)

            faulthandler.enable()
            print(handler(signal.SIGBUS) == wanted)
            print(system.mend_fault_handlers(), handler(signal.SIGBUS) == wanted)

        asyncio.run(main())
    """
    done = run(program)

    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if "faulthandler" not in line] == ["False", "True True"]


@not_on_windows("faults raise no signals there")
def test_guest_that_cannot_be_killed_because_of_other_handlers_is_left_with_that_reason() -> None:
    """It used to be blamed on the file system."""
    program = """
        async def main():
            guest = guest_of("(drop (call $park (i32.const 0))) (loop $l (br $l)) unreachable")
            guest._queue.grace_period_s = 0.05
            guest.start()
            while not guest._queue.host.is_asleep():
                await asyncio.sleep(0.001)
            signal.signal(signal.SIGSEGV, lambda *_: None)
            task = asyncio.create_task(guest.call(Request(abi.OP_OPEN)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            try:
                await guest.call(Request(abi.OP_OPEN))
            except rapsqlite.Error as error:
                print(error, flush=True)
            os._exit(0)  # the guest's thread never ends

        asyncio.run(main())
    """
    done = run(program)

    assert (done.returncode, done.stderr) == (0, "")
    assert "other code's handler for a signal" in done.stdout.splitlines()[-1]
    assert "file system" not in done.stdout


@not_on_windows("faults raise no signals there")
def test_program_that_blocks_all_signals_survives_traps_and_killed_guests() -> None:
    """Threads inherit the mask, and a fault whose signal is blocked ends the process."""
    program = """
        from tests.guest.test_safepoints import Running

        async def main():
            for body in (UNREACHABLE, OUT_OF_BOUNDS, DIVISION):
                await trap(body)

        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        asyncio.run(main())
        running = Running("(loop $l (br $l))")
        running.instance.kill()
        print(running.wait())
        print(signal.SIGSEGV in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    """
    done = run(program)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["error"] * 3 + ["killed: it did not answer an interrupt", "True"]
