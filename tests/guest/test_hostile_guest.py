"""A guest that lies, traps or hangs costs its connection: an error for every waiting task, no crash, no hang."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from rapsqlite import _constants as abi
from rapsqlite import runtime
from rapsqlite._guest import bell
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import InternalError, OperationalError, ProgrammingError
from tests.guest.played import (
    AWAIT_REQUEST,
    CONTROL,
    FREE,
    PARK_FOR_EVER,
    REPLIES,
    RING,
    RING_BY_WRITING,
    RING_ONCE,
    SLEEP_UNSAID,
    guest_of,
    module,
    publish,
    store,
)
from tests.played_time import let_killed_guests_end_late

if TYPE_CHECKING:
    from rapsqlite._loops import Loop


def load(address: int) -> str:
    return f"(i32.load (i32.const {address}))"


# Each is a quarter of the ring, and the head advances from one to the next.
ENDLESS_SKIPS = " ".join(store(REPLIES + quarter * RING // 4, RING // 4, 0) for quarter in range(4)) + (
    f"(i32.store (i32.const {FREE}) (i32.add {load(FREE)} (i32.const {RING // 4})))"
    + publish(0).replace("(i32.const 0)", load(FREE))
)
FRAME = abi.REPLY_HEADER_BYTES  # a reply without a body
DONE = abi.REPLY_DONE  # kind in the third word of a reply; the flags are zero
LIES = {
    "a counter beyond the ring": publish(RING + 8),
    "a counter that is not a multiple of eight": publish(12),
    "a frame of length zero": store(REPLIES, 0, 1) + publish(FRAME),
    "a frame longer than published": store(REPLIES, 4096, 1, DONE) + publish(FRAME),
    "a frame longer than the ring": store(REPLIES, 0x7FFFFFF8, 1, DONE) + publish(FRAME),
    "a skip frame at the start": store(REPLIES, RING, 0) + publish(RING),
    "a skip frame that ends early": store(REPLIES, 8, 0) + publish(8),
    "endless skip frames": f"(loop $l {ENDLESS_SKIPS} (br_if $l (i32.eqz {load(CONTROL + abi.CONTROL_STOP)})))",
    "more rows than bytes": store(REPLIES, 64, 1, DONE, 0, 4, 0x7FFFFFFF) + publish(64),
    "more columns than SQLite has": store(REPLIES, FRAME, 1, DONE | 0x7FFF_0000 + 0x1_0000) + publish(FRAME),
    "a reply to nobody": store(REPLIES, FRAME, 77, DONE) + publish(FRAME),
    "a reply of no known kind": store(REPLIES, FRAME, 1, 9) + publish(FRAME),
    "a body longer than its frame": store(REPLIES, FRAME, 1, DONE, 0, 4000) + publish(FRAME),
    "columns longer than the address space": store(REPLIES, FRAME, 1, DONE, -1, -1) + publish(FRAME),
    "a spilled body that was not spilled": store(REPLIES, FRAME, 1, DONE | abi.REPLY_SPILLED << 8, 0, 16)
    + publish(FRAME),
    "an empty spilled body that was not spilled": store(REPLIES, FRAME, 1, DONE | abi.REPLY_SPILLED << 8)
    + publish(FRAME),
}
TRAPS = {
    "unreachable": "unreachable",
    "a load outside of the memory": "(i32.load (i32.const -4))",
    "a bell outside of the memory": "(call $log (i32.const -16) (i32.const 64)) (i32.const 0)",
    "a spill outside of the memory": "(call $spill (i32.const 65536) (i32.const -1))",
    "a result outside of the memory": "(call $file_size (i32.const 3) (i32.const -8))",
    "endless recursion": "(call $run)",
}


@pytest.mark.parametrize("lie", LIES)
async def test_lie_in_the_reply_ring_breaks_the_connection(lie: str) -> None:
    guest = guest_of(AWAIT_REQUEST + LIES[lie] + PARK_FOR_EVER)
    guest.start()

    with pytest.raises(OperationalError, match="has failed and is closed"):
        await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))

    assert guest.state == "broken"
    with pytest.raises(OperationalError, match="has failed and is closed"):
        await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))
    await guest.close()
    assert not guest.is_running()


@pytest.mark.parametrize("trap", TRAPS)
async def test_trap_reaches_every_waiting_task(trap: str) -> None:
    guest = guest_of(AWAIT_REQUEST + TRAPS[trap])
    errors: list[BaseException] = []

    async def ask() -> None:
        try:
            await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))
        except OperationalError as exc:
            errors.append(exc)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        guest.start()

    assert len(errors) == 5
    assert all(error.__cause__ is not None for error in errors)
    await guest.close()
    assert not guest.is_running()


async def test_guest_that_stops_unasked_breaks_the_connection() -> None:
    guest = guest_of(AWAIT_REQUEST + "(i32.const 0)")
    guest.start()

    with pytest.raises(OperationalError, match="has failed and is closed"):
        await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))

    assert guest.state == "broken"
    await guest.close()


async def test_guest_of_another_version_is_refused() -> None:
    guest = guest_of(PARK_FOR_EVER, version=abi.ABI_VERSION + 1)
    guest.start()

    with pytest.raises(InternalError, match="another version"):
        await guest.call(Request(abi.OP_OPEN))

    await guest.close()


@pytest.mark.parametrize(
    "offset, value",
    [(abi.CONTROL_MAGIC, 1), (abi.CONTROL_REPLY_RING, 0x7FFFFFF8), (abi.CONTROL_REQUEST_RING + 4, 12345)],
)
async def test_impossible_control_block_is_refused(offset: int, value: int) -> None:
    guest = guest_of(PARK_FOR_EVER, control={offset: value})
    guest.start()

    with pytest.raises(OperationalError, match="has failed and is closed"):
        await guest.call(Request(abi.OP_OPEN))

    await guest.close()


async def test_cancelled_close_kills_only_its_endless_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    let_killed_guests_end_late(monkeypatch)
    guest = guest_of(AWAIT_REQUEST + "(loop $l (br $l)) (i32.const 0)", grace_period_s=0.1)
    bystander = guest_of(AWAIT_REQUEST + store(REPLIES, FRAME, 1, DONE) + publish(FRAME) + PARK_FOR_EVER)
    guest.start()
    bystander.start()

    with anyio.move_on_after(0.05):
        await guest.close()

    assert not guest.is_running()
    reply = await bystander.call(Request(abi.OP_FETCH, b"SELECT 1"))
    assert reply.kind == DONE
    bystander.stop()
    bystander.join(30)


@pytest.mark.parametrize("body", ["", SLEEP_UNSAID], ids=["loops", "sleeps unsaid"])
async def test_cancelled_request_kills_its_endless_guest(body: str) -> None:
    guest = guest_of(AWAIT_REQUEST + f"(loop $l {body} (br $l)) (i32.const 0)", grace_period_s=0.1)
    guest.start()
    while guest._queue._rings is None:  # until then a cancelled request has not begun
        await anyio.lowlevel.checkpoint()

    with anyio.move_on_after(0.05) as scope:
        await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))

    assert scope.cancelled_caught
    assert guest.state == "broken"
    await guest.close()


async def test_unrequested_batch_breaks_the_connection() -> None:
    """The batches after the first one would not be taken, and would pile up."""
    guest = guest_of(AWAIT_REQUEST + store(REPLIES, FRAME, 1, abi.REPLY_BATCH) + publish(FRAME) + PARK_FOR_EVER)
    guest.start()

    with pytest.raises(OperationalError, match="has failed and is closed"):
        await guest.call(Request(abi.OP_EXECUTE, b"SELECT 1"))

    await guest.close()


async def test_request_counter_that_runs_ahead_breaks_the_connection() -> None:
    """The next request that is written detects it, and its task must not wait forever."""
    answered = store(REPLIES, FRAME, 1, DONE) + store(CONTROL + abi.CONTROL_REQUEST_TAIL, 8000) + publish(FRAME)
    guest = guest_of(AWAIT_REQUEST + answered + PARK_FOR_EVER)
    guest.start()
    await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))

    with pytest.raises(OperationalError, match="has failed and is closed"):
        await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))

    assert guest.state == "broken"
    await guest.close()


@pytest.mark.parametrize("ring", ["(call $bell)", RING_BY_WRITING, RING_ONCE], ids=["calls", "writes", "writes bytes"])
async def test_endless_ringing_breaks_the_connection(
    anyio_backend_name: str, ring: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a guest used to occupy a processor, and keep the loop running, until the request was cancelled."""
    let_killed_guests_end_late(monkeypatch)
    guest = guest_of(AWAIT_REQUEST + f"(loop $l {ring} (br $l)) (i32.const 0)", grace_period_s=0.1)
    guest.start()
    while guest._queue._rings is None:  # until then no loop watches the pipe
        await anyio.lowlevel.checkpoint()
    if anyio_backend_name == "trio" and ring != "(call $bell)":
        # That pipe is not read: the guest is blocked, and costs nothing.
        with anyio.move_on_after(0.05):
            await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))
    else:
        with pytest.raises(OperationalError, match=r"nobody has asked|host function bell failed"):
            await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))

    assert guest.state == "broken"
    guest.join(10)
    assert not guest.is_running()
    await guest.close()


async def test_endless_ringing_does_not_fill_the_queue_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ring used to add a callback to the loop's queue."""
    rings = f"(loop $l (call $bell) (br_if $l (i32.eqz {load(CONTROL + abi.CONTROL_STOP)}))) (i32.const 0)"
    guest = guest_of(AWAIT_REQUEST + rings, grace_period_s=0.1)
    monkeypatch.setattr(bell, "MOST_IDLE_BELLS", 1 << 30)
    drains = 0
    drain = guest._queue.drain

    def counted(loop: Loop) -> None:
        nonlocal drains
        drains += 1
        drain(loop)

    guest._queue.drain = counted  # type: ignore[method-assign]
    guest.start()
    turns = 0

    with anyio.move_on_after(0.3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.call, Request(abi.OP_FETCH, b"SELECT 1"))
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

    assert drains <= 2 * turns + 2
    await guest.close()


TURNS = 12


async def test_rings_after_each_drain_do_not_multiply_the_callbacks_of_the_loop() -> None:
    """A callback is posted twice, in case an exception ends the first; when both drained, a guest rang twice more."""
    waits = f"(loop $l (br_if $l (i32.eqz {load(CONTROL + abi.CONTROL_STOP)}))) (i32.const 0)"
    guest = guest_of(AWAIT_REQUEST + waits, grace_period_s=0.1)
    queue, drains, turns = guest._queue, 0, TURNS
    drain = queue.drain

    def then_ring(loop: Loop) -> None:
        nonlocal drains
        drains += 1
        drain(loop)
        if turns < TURNS:
            queue.ring()  # as the guest's thread may where no GIL keeps it from running

    queue.drain = then_ring  # type: ignore[method-assign]
    guest.start()
    while queue._rings is None:  # until then a cancelled request leaves the guest alone
        await anyio.lowlevel.checkpoint()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guest.call, Request(abi.OP_FETCH, b"SELECT 1"))
        await anyio.wait_all_tasks_blocked()
        drains = turns = 0
        queue.ring()
        while turns < TURNS:
            await anyio.lowlevel.checkpoint()
            turns += 1
        tasks.cancel_scope.cancel()

    assert TURNS / 2 <= drains <= 2 * TURNS + 4
    await guest.close()


async def test_malformed_error_reply_is_reported_as_malformed() -> None:
    guest = guest_of(
        AWAIT_REQUEST + store(REPLIES, FRAME + 8, 1, abi.REPLY_ERROR, 0, 3) + publish(FRAME + 8) + PARK_FOR_EVER
    )
    guest.start()

    with pytest.raises(InternalError, match="malformed"):
        await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))

    guest.stop()
    guest.join(30)
    with pytest.raises(ProgrammingError, match="closed"):
        await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))


def test_guest_cannot_sleep_in_wasi() -> None:
    """``poll_oneoff`` is WASI's sleep, and reading the standard input waits for someone to type."""
    for name in ("poll_oneoff", "fd_read"):
        function = f'(import "wasi_snapshot_preview1" "{name}" (func (param i32 i32 i32 i32) (result i32)))'
        wasm = module(PARK_FOR_EVER, imports=function)

        with pytest.raises(InternalError, match=f"imports {name} of WASI"):
            runtime.Engine(wasm)
