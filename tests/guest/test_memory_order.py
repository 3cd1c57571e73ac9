"""How host and guest see each other's words: every interleaving of the two, on a processor with store buffers.

x86-64 keeps every order but one: a load may take effect before earlier stores, which wait in their processor's buffer.
The model does the same: a store goes into a buffer, and leaves it at any later time. A fence empties it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import pytest

from rapsqlite import _constants as abi
from rapsqlite._wasm import control_block
from rapsqlite._wasm.rings import Rings
from tests.guest.test_rings import CONTROL, REQUESTS, PlayedGuest, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


Words: TypeAlias = "tuple[tuple[str, int], ...]"


class State(NamedTuple):
    """Where both sides are, what each knows, what waits in its buffer, and the memory."""

    steps: tuple[int, int]
    known: tuple[Words, Words]
    buffers: tuple[Words, Words]
    memory: Words


Step = tuple[Any, ...]
FENCE: Step = ("fence",)


def store(word: str, value: int) -> Step:
    return ("store", word, value)


def load(word: str) -> Step:
    """Remember the word's value."""
    return ("load", word)


def swap(word: str, value: int) -> Step:
    """Remember the word's old value and set it, in one step with a fence on either side."""
    return ("swap", word, value)


def when(word: str, value: int, *steps: Step) -> Step:
    """Do the steps if the remembered word has the value; they are stores and marks."""
    return ("when", word, value, steps)


def sleep_unless(*words: str) -> Step:
    """Continue if a word is known to be set, otherwise once the wake-up is there, which is consumed."""
    return ("sleep", words)


def results(host: list[Step], guest: list[Step]) -> Iterator[dict[str, int]]:
    """Yield the memory at every end: both are done, or asleep forever; it contains what each knows, by name."""
    programs = (host, guest)
    seen: set[State] = set()
    open_states = [State((0, 0), ((), ()), ((), ()), ())]
    while open_states:
        state = open_states.pop()
        if state in seen:
            continue
        seen.add(state)
        following = list(_following(state, programs))
        open_states += following
        if not following:
            asleep = int(state.steps[1] < len(guest))
            yield {**dict(state.memory), **dict(state.known[0]), **dict(state.known[1]), "asleep": asleep}


def _following(state: State, programs: tuple[list[Step], ...]) -> Iterator[State]:
    for side in (0, 1):
        if state.buffers[side]:
            yield _flushed(state, side)
        if state.steps[side] < len(programs[side]):
            yield from _stepped(state, side, programs[side][state.steps[side]])


def _with(items: tuple[Any, Any], side: int, item: Any) -> tuple[Any, Any]:
    return (item, items[1]) if side == 0 else (items[0], item)


def _set(words: tuple[tuple[str, int], ...], word: str, value: int) -> tuple[tuple[str, int], ...]:
    return tuple(sorted({**dict(words), word: value}.items()))


def _flushed(state: State, side: int) -> State:
    (word, value), *rest = state.buffers[side]
    return state._replace(
        buffers=_with(state.buffers, side, tuple(rest)),
        memory=_set(state.memory, word, value),
    )


def _stepped(state: State, side: int, step: Step) -> Iterator[State]:
    known, buffer = state.known[side], state.buffers[side]
    memory = state.memory
    kind = step[0]
    if kind == "store":
        buffer = (*buffer, (step[1], step[2]))
    elif kind == "load":
        known = _set(known, step[1], {**dict(memory), **dict(buffer)}.get(step[1], 0))
    elif kind == "when":
        if dict(known).get(step[1], 0) == step[2]:
            buffer = (*buffer, *((each[1], each[2]) for each in step[3]))
    elif kind == "sleep":
        if not any(dict(known).get(word) for word in step[1]):
            if buffer or not dict(memory).get("wake"):
                return
            memory = _set(memory, "wake", 0)
    else:
        if buffer:
            return  # continues when the buffer is empty
        if kind == "swap":
            known = _set(known, step[1], dict(memory).get(step[1], 0))
            memory = _set(memory, step[1], step[2])
    steps = _with(state.steps, side, state.steps[side] + 1)
    yield State(steps, _with(state.known, side, known), _with(state.buffers, side, buffer), memory)


class Pair(NamedTuple):
    """One of the pairs of docs/architecture.md: what either side does, and what must not happen."""

    host: list[Step]
    guest: list[Step]
    is_wrong: Callable[[dict[str, int]], bool]


def parking(news: str) -> Pair:
    """The guest sleeps until there is news; ``swap`` includes a fence, so the guest needs no other."""
    return Pair(
        [store(news, 1), FENCE, load("parked"), when("parked", 1, store("wake", 1))],
        [store("parked", 1), FENCE, load(news), sleep_unless(news), swap("parked", 0)],
        lambda end: bool(end["asleep"]),
    )


PAIRS = {
    "a request for a guest that parks": parking("request_head"),
    "room for a guest that parks": parking("reply_tail"),
    "the stop of a guest that parks": parking("stop"),
    "a reply and who is to ring": Pair(
        [store("notify", 1), FENCE, load("reply_head")],
        [store("reply_head", 1), FENCE, load("notify"), when("notify", 1, store("rung", 1))],
        lambda end: not end["reply_head"] and not end.get("rung"),
    ),
    "room for requests and who is to ring": Pair(
        [store("notify", 1), FENCE, load("request_tail")],
        [store("request_tail", 1), FENCE, load("notify"), when("notify", 1, store("rung", 1))],
        lambda end: not end["request_tail"] and not end.get("rung"),
    ),
    "an answer and who unlocks": Pair(
        [store("waited", 1), FENCE, load("reply_head")],
        [store("reply_head", 1), FENCE, load("waited"), when("waited", 1, store("unlocked", 1))],
        lambda end: not end["reply_head"] and not end.get("unlocked"),
    ),
    "a cancelled request behind another": Pair(
        [store("cancel", 1), FENCE, load("request_tail"), when("request_tail", 0, store("told_as_not_begun", 1))],
        [store("request_tail", 1), FENCE, load("cancel"), when("cancel", 0, store("run", 1))],
        lambda end: bool(end.get("told_as_not_begun") and end.get("run")),
    ),
}


def wrong_ends(pair: Pair) -> list[dict[str, int]]:
    return [end for end in results(pair.host, pair.guest) if pair.is_wrong(end)]


@pytest.mark.parametrize("name", PAIRS)
def test_one_of_the_two_sides_sees_the_other(name: str) -> None:
    assert not wrong_ends(PAIRS[name])


@pytest.mark.parametrize("side", ["host", "guest"])
@pytest.mark.parametrize("name", PAIRS)
def test_without_a_fence_both_sides_may_miss_the_other(name: str, side: str) -> None:
    """The model detects faults: with one fence less there is one."""
    pair = PAIRS[name]
    host, guest = ([step for step in steps if step is not FENCE] for steps in (pair.host, pair.guest))
    unfenced = pair._replace(host=host) if side == "host" else pair._replace(guest=guest)

    assert wrong_ends(unfenced)


class RecordedRings(Rings):
    """Rings that record their loads and fences."""

    __slots__ = ("done",)

    def __init__(self, guest: PlayedGuest) -> None:
        self.done: list[str] = []
        super().__init__(guest.view, CONTROL)
        self._words = cast("memoryview", RecordedWords(self._words, self.done))

    def _full_fence(self) -> None:
        self.done.append("fence")
        super()._full_fence()


class RecordedWords:
    """The words of a control block; records the offset of each word that is read."""

    def __init__(self, words: memoryview, done: list[str]) -> None:
        self._words = words
        self._done = done

    def __getitem__(self, index: int) -> int:
        self._done.append(f"load {4 * index}")
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = value


def test_host_checks_behind_a_fence_after_a_cancellation() -> None:
    guest = PlayedGuest()
    rings = RecordedRings(guest)
    first, second = put(rings, 1, b"first"), put(rings, 2, b"second")
    assert first is not None
    assert second is not None
    rings.done.clear()

    rings.cancel(second)
    assert rings.is_unanswered(first)

    tail = f"load {abi.CONTROL_REQUEST_TAIL}"
    assert rings.done == [tail, "fence", tail]
    assert guest.memory[REQUESTS + second + 8] == 1


def test_host_checks_behind_a_fence_after_a_request_or_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a weakly ordered processor there are more fences than these."""
    monkeypatch.setattr(control_block, "_STRONGLY_ORDERED", True)
    rings = RecordedRings(PlayedGuest())
    rings.done.clear()
    woken: list[None] = []

    rings.ask_for_bell()
    rings.has_replies()
    rings.wake_if_parked(woken.append, None)

    assert rings.done == [
        "fence", f"load {abi.CONTROL_REPLY_HEAD}",
        "fence", f"load {abi.CONTROL_PARKED}",
    ]  # fmt: skip


def test_guest_is_woken_only_once_per_sleep() -> None:
    """Unlocking a mutex again while the guest locks it ends the process: the C library considers it corrupt."""
    guest = PlayedGuest()
    rings = Rings(guest.view, CONTROL)
    woken: list[None] = []
    guest.word(abi.CONTROL_PARKED, 1)

    rings.wake_if_parked(woken.append, None)
    rings.wake_if_parked(woken.append, None)

    assert len(woken) == 1
    assert guest.read(abi.CONTROL_PARKED) == 0
