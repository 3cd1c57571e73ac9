"""The process that measures one peer: reads requests, one JSON object a line, and answers with figures.

Request: ``{"workload", "size", "directory"}``. Answer: ``{"figures"}``, ``{"unsupported"}`` or ``{"error"}``.
The first line sent is ``{"version", "python"}``. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.peers import Peer, UnsupportedError, load
from benchmarks.workloads import WORKLOADS


def measure(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Run one workload on an event loop of its own, after the garbage of the one before is gone."""
    gc.collect()
    workload = WORKLOADS[request["workload"]]
    try:
        return {"figures": asyncio.run(workload.run(peer, Path(request["directory"]), request["size"]))}
    except UnsupportedError:
        return {"unsupported": True}
    except Exception:  # noqa: BLE001
        # The coordinator prints it and leaves this peer out of this workload.
        return {"error": traceback.format_exc()}


def main(name: str) -> None:
    """Serve requests until the input ends."""
    # Whatever the library prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = load(name)
    print(json.dumps({"version": peer.version(), "python": platform.python_version()}), file=answers)
    for line in sys.stdin:
        print(json.dumps(measure(peer, json.loads(line))), file=answers)
