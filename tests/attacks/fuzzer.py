"""Mutations of what a guest writes and requests: ``python -m tests.attacks.fuzzer SEED COUNT``.

It runs in a separate process, so a crash is a failure with a seed. Each part plays another side of the guest:
its replies and control words, its argument block, the arguments of host functions, and an engine whose memory is
overwritten while it runs. Nothing may raise an unexpected exception, occupy the loop's thread for long, or exhaust
memory, descriptors or mappings. Times are CPU times of the thread, so that a busy machine fails nothing.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import mmap
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._files.file_table import FileTable
from rapsqlite._files.imports import file_imports
from rapsqlite._guest.error_reply import reported_error
from rapsqlite._guest.guest import Guest
from rapsqlite._guest.request import PendingRequest
from rapsqlite._values.wire import decode_columns, decode_declared_columns, decode_dicts, decode_lists, decode_tuples
from rapsqlite._wasm.imports import SIGNATURES
from rapsqlite._wasm.rings import Request, Rings
from rapsqlite.errors import Error
from rapsqlite.runtime import Memory
from tests.guest.calling import ARGUMENT_BLOCK as PLAYED_BLOCK
from tests.guest.calling import ARGUMENTS, ROOM, Played

if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL, ARGUMENT_BLOCK, REQUESTS = 1024, 2048, 65536
REPLIES = REQUESTS + abi.REQUEST_RING_BYTES
MEMORY_BYTES = REPLIES + abi.REPLY_RING_BYTES
EXTREMES = (0, 1, 2, 7, 8, 63, 64, 4095, 4096, 32_768, 65_535, 65_536, (1 << 24) - 1, 1 << 30, abi.WINDOWS_START)
LONGEST_S = 0.05  # how long the loop's thread may be occupied
LONGEST_IMPORT_S = 0.5  # how long a single call may occupy the guest's own thread
MOST_RSS_KIB = 1 << 20
MOST_DESCRIPTORS = 400
MOST_MAPPINGS = 4000


def some_integer(dice: random.Random, bits: int) -> int:
    """Return an integer that is often just beyond the valid range."""
    kind = dice.random()
    if kind < 0.5:
        value = dice.choice(EXTREMES) + dice.randint(-2, 2)
    elif kind < 0.7:
        value = (1 << dice.randint(0, bits)) + dice.randint(-1, 1)
    elif kind < 0.8:
        value = -dice.choice(EXTREMES)
    else:
        value = dice.getrandbits(dice.randint(1, bits))
    return value & ((1 << bits) - 1)


def some_value(dice: random.Random, depth: int = 0) -> Any:
    """Return something that MessagePack can encode."""
    kind = dice.randint(0, 8 if depth < 3 else 5)
    if kind <= 5:
        number = some_integer(dice, 63)
        return (None, True, number, -number, dice.random(), "text" * dice.randint(0, 20))[kind]
    if kind == 6:
        return dice.randbytes(dice.randint(0, 40))
    if kind == 7:
        return {f"c{column}": some_value(dice, depth + 1) for column in range(dice.randint(0, 4))}
    return [some_value(dice, depth + 1) for _ in range(dice.randint(0, 6))]


def some_body(dice: random.Random) -> bytes:
    """Return MessagePack, usually with a few wrong bytes."""
    body = bytearray(msgspec.msgpack.encode(some_value(dice)))
    for _ in range(dice.randint(0, 3)):
        at = dice.randrange(len(body))
        body[at : at + dice.randint(0, 2)] = dice.randbytes(dice.randint(1, 5))
        body = body or bytearray(b"\xc0")
    return bytes(body)


class LoopStub:
    """An event loop as seen by the queue, which never sleeps."""

    allows_polling = False
    key = object()

    def post(self, *_: object) -> bool:
        return True

    def wake(self, *_: object) -> None:
        return None


def timed(most_s: float, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function``; fail if it used the processor for long.

    The collector does not run meanwhile: it would free what other attacks have left.
    """
    gc.disable()
    start = time.thread_time()
    try:
        return call(*arguments)
    finally:
        took_s = time.thread_time() - start
        gc.enable()
        assert took_s < most_s, f"{call} took {took_s:.3f} s of the processor"


class Replies:
    """A guest's side of the rings."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.memory = bytearray(MEMORY_BYTES)
        self.start()

    def start(self) -> None:
        self.guest = Guest("played", FileTable(b":memory:"), 1.0, result_limit_bytes=self.dice.choice((0, 100_000)))
        self.memory[CONTROL : CONTROL + abi.CONTROL_BYTES] = bytes(abi.CONTROL_BYTES)
        words = {
            abi.CONTROL_MAGIC: (abi.MAGIC, abi.ABI_VERSION, REQUESTS, abi.REQUEST_RING_BYTES, REPLIES),
            abi.CONTROL_REPLY_RING + 4: (abi.REPLY_RING_BYTES, ARGUMENT_BLOCK),
        }
        for offset, values in words.items():
            struct.pack_into(f"<{len(values)}I", self.memory, CONTROL + offset, *values)
        self.guest.host.memory = Memory.__new__(Memory)
        self.guest._queue.attach(Rings(self.view, CONTROL))
        self.head = 0

    def view(self, address: int, length: int) -> memoryview:
        if not 0 <= address <= address + length <= MEMORY_BYTES:
            raise IndexError("outside")
        return memoryview(self.memory)[address : address + length]

    def attack(self) -> str:
        dice, queue, loop = self.dice, self.guest._queue, LoopStub()
        if queue.state != "ok" or len(queue._pending) > 50:
            self.start()
            queue = self.guest._queue
        op = dice.choice((abi.OP_FETCH, abi.OP_EXECUTE, abi.OP_CONTROL, abi.OP_NEXT, abi.OP_BLOB_READ))
        asked = Request(op, b"SELECT 1" * dice.randint(1, 30), b"\x90")
        request = PendingRequest(queue, loop, asked)  # type: ignore[arg-type]
        queue.submit(request, loop)  # type: ignore[arg-type]
        self.answer(request.number)
        if dice.random() < 0.2:
            word = dice.choice(range(abi.CONTROL_REQUEST_HEAD, abi.CONTROL_BYTES, 4))
            struct.pack_into("<I", self.memory, CONTROL + word, some_integer(dice, 32))
        timed(LONGEST_S, queue.drain, loop)
        while request.replies:
            timed(LONGEST_S, self.use, request.replies.popleft(), request)
        return f"reply {queue.state}"

    def answer(self, request_id: int) -> None:
        """Publish a reply, which may be wrong in some way."""
        dice = self.dice
        body, columns = some_body(dice), some_body(dice) if dice.random() < 0.3 else b""
        length = (abi.REPLY_HEADER_BYTES + len(body) + len(columns) + 7) & ~7
        to_end = abi.REPLY_RING_BYTES - self.head % abi.REPLY_RING_BYTES
        if length > to_end:
            self.store(self.head, struct.pack("<II", to_end, 0))
            self.head += to_end
        fields = [length, request_id, dice.choice((1, 2, 2, 2, 3, 4)), dice.getrandbits(4) & ~abi.REPLY_SPILLED, 1]
        fields += [len(columns), len(body), 1, 0, 0, -1, 0, 0, dice.choice((0, 0, 1, some_integer(dice, 32)))]
        fields += [some_integer(dice, 32)]
        if dice.random() < 0.3:
            which = dice.randrange(10)
            fields[which] = some_integer(dice, (32, 32, 8, 8, 16, 32, 32, 32, 32, 32)[which])
        frame = struct.pack("<IIBBHIIIIIqqqII", *fields) + columns + body
        self.store(self.head, frame)
        tail = int(struct.unpack_from("<I", self.memory, CONTROL + abi.CONTROL_REQUEST_HEAD)[0])
        struct.pack_into("<I", self.memory, CONTROL + abi.CONTROL_REQUEST_TAIL, tail)
        self.head = (self.head + length) & 0xFFFF_FFFF
        struct.pack_into("<I", self.memory, CONTROL + abi.CONTROL_REPLY_HEAD, self.head)

    def store(self, position: int, data: bytes) -> None:
        start = REPLIES + position % abi.REPLY_RING_BYTES
        self.memory[start : start + len(data)] = data

    def use(self, reply: Any, request: Any) -> None:
        decode = self.dice.choice((decode_lists, decode_tuples, decode_dicts))
        for call, data in (
            (decode, reply.rows),
            (self.dice.choice((decode_columns, decode_declared_columns)), reply.columns),
            (lambda rows: reported_error(rows, request, self.guest.files), reply.rows),
        ):
            with suppress(Error):
                call(data)


class Callbacks:
    """What a guest writes to the argument block."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.start()

    def start(self) -> None:
        self.played = Played()
        callbacks = self.played.callbacks

        class Sums:
            def step(self, *_: object) -> None: ...
            def inverse(self, *_: object) -> None: ...
            def value(self) -> int:
                return 1

            def finalize(self) -> str:
                return "x" * 2000

        functions: dict[int, Callable[..., Any]] = {
            abi.CALLBACK_FUNCTION: lambda *values: values[0] if values else None,
            abi.CALLBACK_NEW: lambda: callbacks.hold_instance(Sums()),
            abi.CALLBACK_COLLATION: lambda a, b: (a > b) - (a < b),
            abi.CALLBACK_TRACE: lambda _sql: None,
            abi.CALLBACK_OUTPUT: lambda _data: None,
        }
        self.keys = [callbacks.hold(kind, function) << 8 | kind for kind, function in functions.items()]
        for _ in range(3):
            instance = callbacks.hold_instance(Sums())
            self.keys += [instance << 8 | abi.CALLBACK_VALUE, instance << 8 | abi.CALLBACK_FINALIZE]
        self.keys += [abi.CALLBACK_STEPS, 1000 << 8 | abi.CALLBACK_CALLS]

    def runs(self) -> bytes:
        """Return deferred calls or steps."""
        dice = self.dice
        runs: list[Any] = []
        for _ in range(dice.randint(0, 3)):
            handle = dice.choice(self.keys) >> dice.choice((0, 8))
            runs += [dice.choice((handle, -handle)), some_integer(dice, dice.choice((2, 3, 40)))]
            runs.append([some_value(dice, 2) for _ in range(dice.randint(0, 6))])
        return bytes(msgspec.msgpack.encode(runs))

    def attack(self) -> str:
        dice, played = self.dice, self.played
        if played.ended_by or len(played.callbacks) < 5 or len(played.callbacks) > 100:
            self.start()
            played = self.played
        data = dice.choice((self.runs, lambda: some_body(dice)))()[: abi.ARGUMENT_BLOCK_ROOM]
        played.memory[ROOM : ROOM + len(data)] = data
        played.memory[ARGUMENTS : ARGUMENTS + len(data)] = data
        key = dice.choice(self.keys) if dice.random() < 0.9 else some_integer(dice, 40)
        form = dice.choice((dice.randint(-1, 16), abi.FORM_ARRAY, abi.FORM_ARRAY | abi.FORM_FAR))
        length = len(data) if dice.random() < 0.8 else some_integer(dice, 62) - (1 << 61)
        address = ARGUMENTS if dice.random() < 0.8 else some_integer(dice, 62) - (1 << 61)
        struct.pack_into("<6q", played.memory, PLAYED_BLOCK, key, form, length, address, 0, dice.getrandbits(1))
        returned = timed(LONGEST_S, played.callbacks.call)
        assert returned in (0, 1)
        if dice.random() < 0.3:
            with suppress(IndexError):
                played.callbacks.fetch_answer(played.view(ARGUMENTS, dice.choice((0, 2000, 1 << 21))))
        return f"callback {'ended' if returned else 'answered'}"


class Imports:
    """The host functions for files, called with arbitrary arguments."""

    SKIPPED = frozenset({"park", "bell", "busy", "sleep", "callback", "callback_answer"})

    def __init__(self, dice: random.Random, directory: Path) -> None:
        self.dice = dice
        self.directory = directory
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
        self.space = mmap.mmap(-1, 1 << 32, flags=flags)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.space))
        self.memory = Memory(base, lambda: 32 << 20)
        self.names = [os.fsencode(directory / name) for name in ("a.db", "a.db-wal", "b", "../outside", "x" * 300)]
        self.start()

    def start(self) -> None:
        files = FileTable(self.names[0], directories=[os.fsencode(self.directory)])
        self.guest = Guest("played", files, 0.0)
        self.guest.host.memory = self.memory
        self.guest.host.rings = rings = Rings.__new__(Rings)
        rings.spilled = deque()
        self.functions = {
            **self.guest.host.table(),
            **file_imports(files, self.memory.view, self.memory.window, self.memory.view),
        }
        self.calls = 0

    def argument(self, name: str, index: int, letter: str) -> int:
        dice = self.dice
        if index == 0 and dice.random() < 0.8 and SIGNATURES[name][0][:2] in ("ii", "i", "iI") and "path" not in name:
            return dice.randint(0, 12)  # usually a file's number
        if dice.random() < 0.3:
            return dice.choice((4096, 65536, abi.WINDOWS_START + 65536 * dice.randint(0, 9)))
        return some_integer(dice, 64 if letter == "I" else 32)

    def attack(self) -> str:
        dice = self.dice
        self.calls += 1
        if self.calls > 300:
            self.guest.files.close()
            self.start()
        name = dice.choice([name for name in self.functions if name not in self.SKIPPED])
        params = SIGNATURES[name][0]
        arguments = [self.argument(name, index, letter) for index, letter in enumerate(params)]
        arguments = [
            value - (1 << 64) if letter == "I" and value >> 63 else value
            for value, letter in zip(arguments, params, strict=True)
        ]
        if name in ("file_open", "path_full", "file_access", "file_delete") and dice.random() < 0.8:
            chosen = dice.choice(self.names)
            self.memory.view(4096, len(chosen))[:] = chosen
            arguments[:2] = 4096, len(chosen)
            if name == "file_open":
                arguments[2] = dice.choice((6, 0x106, 0x806, 0x80006, 1, some_integer(dice, 32)))
                arguments[3] = 65536
        try:
            timed(LONGEST_IMPORT_S, self.functions[name], *arguments)
        except Exception as error:  # which traps the guest, whatever its class
            if isinstance(error, AssertionError):
                raise
            return f"import {type(error).__name__}"
        self.guest.host.rings.spilled.clear()  # type: ignore[union-attr]
        return "import answered"

    def close(self) -> None:
        self.guest.files.close()


QUERY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT i, 'text' || i FROM n"


async def attack_engine(dice: random.Random, seen: Counter[str], count: int) -> None:
    """Overwrite the memory of running engines, while another connection continues."""
    async with rapsqlite.connect(":memory:") as bystander:
        victim: rapsqlite.Connection | None = None
        for _ in range(count):
            victim = victim or await a_victim()
            guest = victim._state.guest
            instance, rings = guest._instance, guest._queue._rings
            if instance is not None and rings is not None:
                overwrite(dice, instance.memory, rings)
            try:
                with anyio.move_on_after(0.5) as scope:
                    await victim.fetch_all(dice.choice((QUERY, "SELECT f(1), f('x')")))
                seen["engine cancelled" if scope.cancelled_caught else "engine answered"] += 1
            except (rapsqlite.Error, rapsqlite.Warning, OverflowError) as error:
                seen[f"engine {type(error).__name__}"] += 1
            if guest.state != "ok" or dice.random() < 0.05:
                await end(victim)
                victim = None
            assert await bystander.fetch_scalar("SELECT 1 + 1") == 2
        if victim is not None:
            await end(victim)


async def a_victim() -> rapsqlite.Connection:
    victim = await rapsqlite.connect(":memory:", limits={"memory_bytes": 64 << 20, "directories": []})
    await victim.create_function("f", 1, lambda value: value)
    queue = victim._state.guest._queue
    queue.grace_period_s = 0.05
    drain = queue.drain
    queue.drain = lambda loop: timed(LONGEST_S, drain, loop)  # type: ignore[method-assign]
    return victim


async def end(victim: rapsqlite.Connection) -> None:
    victim._state.guest.kill()
    with suppress(rapsqlite.Error):
        await victim.close()


def overwrite(dice: random.Random, memory: Memory, rings: Rings) -> None:
    """Overwrite a word shared by host and guest, or any bytes of the guest's."""
    if dice.random() < 0.5:
        words = rings._words
        word = dice.choice(range(abi.CONTROL_REQUEST_HEAD, abi.CONTROL_BYTES, 4)) // 4
        words[word] = (words[word] + dice.choice((1, 4, 8, 64, -8, 1 << 20))) & 0xFFFF_FFFF
        return
    buffer = dice.choice((rings._replies, rings._requests, memory.view(0, min(memory._known_size, 2 << 20))))
    for _ in range(dice.choice((1, 20, 1000))):
        at = dice.randrange(len(buffer) - 8)
        buffer[at : at + 4] = dice.randbytes(4)


def check_resources() -> None:
    """Fail if the process has used more resources than allowed."""
    assert len(os.listdir("/proc/self/fd")) < MOST_DESCRIPTORS
    assert Path("/proc/self/maps").read_text().count("\n") < MOST_MAPPINGS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MOST_RSS_KIB


def main(seed: int, count: int) -> None:
    dice = random.Random(seed)
    seen: Counter[str] = Counter()
    logging.getLogger("rapsqlite").setLevel(logging.CRITICAL)  # exceptions of callbacks
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    with tempfile.TemporaryDirectory() as directory:
        imports = Imports(dice, Path(directory))
        for part, share in ((Replies(dice), 0.58), (Callbacks(dice), 0.2), (imports, 0.2)):
            for number in range(int(count * share)):
                seen[part.attack()] += 1
                if number % 1000 == 0:
                    check_resources()
        imports.close()
        anyio.run(attack_engine, dice, seen, int(count * 0.02))
    check_resources()
    print(dict(sorted(seen.items())))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
