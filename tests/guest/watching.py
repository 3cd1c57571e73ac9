"""Lets tasks wait for replies without the event loop, whatever the machine does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite._guest import polling, request_queue, spin_budget

if TYPE_CHECKING:
    import pytest

    from rapsqlite._wasm.reply_watcher import Unpublished
    from rapsqlite._wasm.rings import Rings

MANY_CHECKS = 4_000_000_000  # some seconds: the watcher returns for another reason


def let_tasks_poll(monkeypatch: pytest.MonkeyPatch, *, crowded: bool) -> None:
    """On two processors; ``crowded``: more guests are active than may spin."""
    monkeypatch.setattr(request_queue, "may_spin", lambda: True)
    monkeypatch.setattr(request_queue, "is_crowded", lambda: crowded)
    monkeypatch.setattr(spin_budget, "usable_processors", lambda: 2)
    monkeypatch.setattr(polling.Polling, "may_start", lambda _self, _rings: True)


def note_watches(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Watch for each reply until it arrives; return, by request that is watched for, whether it did."""
    found: list[bool] = []
    watch = polling.Polling.watch

    def note(self: polling.Polling, rings: Rings, request: Unpublished) -> bool:
        found.append(watch(self, rings, request))
        return found[-1]

    monkeypatch.setattr(polling, "_CHECKS", MANY_CHECKS)
    monkeypatch.setattr(polling.Polling, "watch", note)
    return found
