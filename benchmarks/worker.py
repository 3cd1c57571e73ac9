"""The process that measures one peer: reads requests, one JSON object per line, and answers with figures.

Request: ``{"workload", "size", "directory"}``. Answer: ``{"figures"}``, ``{"unsupported"}`` or ``{"error"}``. The first
line sent is ``{"version", "python"}``. It ends when its input does.
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
    """Run one workload on a new event loop, after the previous one's garbage is collected."""
    gc.collect()
    workload = WORKLOADS[request["workload"]]
    try:
        return {"figures": asyncio.run(workload.run(peer, Path(request["directory"]), request["size"]))}
    except UnsupportedError:
        return {"unsupported": True}
    except Exception:  # noqa: BLE001
        # The coordinator prints it and skips this workload for this peer.
        return {"error": traceback.format_exc()}


def main(name: str) -> None:
    """Serve requests until the input ends."""
    # Output of the library must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = load(name)
    print(json.dumps({"version": peer.version(), "python": platform.python_version()}), file=answers)
    for line in sys.stdin:
        print(json.dumps(measure(peer, json.loads(line))), file=answers)
