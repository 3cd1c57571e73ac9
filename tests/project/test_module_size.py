"""The profile that SQLite is compiled with: wasm/sqlite_cold.csv, wasm/sqlite_hot.proftext and their scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts import record_profile

if TYPE_CHECKING:
    import pytest

LOCK = """[[package]]
name = "libsqlite3-sys"
version = "{version}"
source = "registry"
checksum = "{checksum}"
"""

PROFILE = """sqlite3.c:hotFunction
# Func Hash:
12
# Num Counters:
2
# Counter Values:
10
900000

sqlite3.c:rareFunction
# Func Hash:
13
# Num Counters:
2
# Counter Values:
1
40

exported
# Func Hash:
14
# Num Counters:
1
# Counter Values:
0

"""


def test_list_was_made_for_the_sqlite_that_is_built() -> None:
    """With another SQLite's list, new functions would all be compiled for speed, and the module would grow."""
    lock = record_profile.LOCK.read_text(encoding="utf-8")

    for path in (record_profile.COLD_LIST, record_profile.HOT_PROFILE):
        assert record_profile.stale(path.read_text(encoding="utf-8"), lock) is None


def test_list_for_another_sqlite_is_reported() -> None:
    cold_list = f"{record_profile.MARK}libsqlite3-sys 0.1.0 aa\nfunction,optsize\n"

    fault = record_profile.stale(cold_list, LOCK.format(version="0.2.0", checksum="bb"))

    assert fault is not None
    assert "0.1.0 aa" in fault
    assert "0.2.0 bb" in fault


def test_check_option_exits_with_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """scripts/build_wasm.sh runs it with --check and warns if the exit code is not 0."""
    monkeypatch.setattr(record_profile, "source", lambda _lock: "libsqlite3-sys 9.9.9 cc")
    monkeypatch.setattr("sys.argv", ["record_profile", "--check"])

    code = record_profile.main()

    assert code == 1
    assert "9.9.9" in capsys.readouterr().err


def test_functions_are_sorted_by_how_often_they_ran() -> None:
    """Never run: as small as possible; rarely: small; otherwise not listed, which means speed."""
    assert record_profile.attributes(PROFILE) == ["exported,minsize", "rareFunction,optsize"]


def test_counters_are_kept_for_functions_that_are_not_listed() -> None:
    """Each function is in one of the two files."""
    assert record_profile.counters(PROFILE) == ["sqlite3.c:hotFunction\n12\n2\n10\n900000\n"]


def test_functions_that_every_statement_runs_are_compiled_for_speed() -> None:
    """A workload that failed halfway would leave a list that slows everything down."""
    listed = {line.partition(",")[0] for line in record_profile.COLD_LIST.read_text(encoding="utf-8").splitlines()}
    hot = {
        "sqlite3VdbeExec", "sqlite3BtreeTableMoveto", "sqlite3BtreeIndexMoveto", "sqlite3VdbeRecordCompare",
        "sqlite3BtreeInsert", "sqlite3Parser", "sqlite3GetToken", "vdbeSorterSort", "jsonLookupStep",
        "fts5MultiIterNext",
    }  # fmt: skip

    assert not hot & listed
    assert {"fts3UpdateMethod", "porter_stemmer", "sqlite3Fts3ExprParse"} <= listed
    assert len(listed) > 1000
    profile = record_profile.HOT_PROFILE.read_text(encoding="utf-8")
    counted = {lines[0].rpartition(":")[2] for lines, _ in record_profile.functions(profile)}
    assert hot <= counted
    assert not counted & listed
