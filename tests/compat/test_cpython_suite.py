"""The running Python's own tests of sqlite3, unmodified, with `cpython.blocking` instead of sqlite3.

All of them pass on asyncio and Trio, except the ones that ``cpython/inventory.tsv`` assigns to a row of
docs/compatibility.md, and the few below. If Python was installed without its tests, the ones in ``cpython/`` make the
same claims.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
import unittest
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.compat.cpython import blocking
from tests.compat.test_cpython_inventory import DIFFERENCES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AREAS = ["backup", "dbapi", "dump", "factory", "hooks", "regression", "transactions", "types", "userfunctions"]
# Behaviour that Python 3.11 changed, and that is the same under 3.10 here: the page's row "Python 3.10" and
# tests/compat/test_errors.py.
CHANGED_SINCE_310 = {
    "dbapi.CursorTests.test_execute_too_much_sql", "dbapi.ExtensionTests.test_cursor_executescript_as_bytes",
    "dbapi.ModuleTests.test_thread_safety", "hooks.CollationTests.test_create_collation_not_ascii",
    "regression.RegressionTests.test_collation", "regression.RegressionTests.test_cursor_registration",
    "transactions.TransactionTests.test_rollback_cursor_consistency",
    "userfunctions.AggregateTests.test_aggr_no_finalize", "userfunctions.AggregateTests.test_aggr_no_step",
    "userfunctions.FunctionTests.test_func_return_too_large_int",
    "userfunctions.FunctionTests.test_non_contiguous_blob",
}  # fmt: skip
# Checks that the warning is for its own line; here that is a line of the blocking wrapper, which awaits.
LINE_OF_THE_FACE = {"dbapi.CursorTests.test_execute_named_param_and_sequence"}


@contextmanager
def standing_in() -> Iterator[None]:
    """Make modules imported from now on get our wrapper for sqlite3."""
    names = ("sqlite3", "sqlite3.dbapi2")
    before = {name: sys.modules[name] for name in names}
    face = blocking.module()
    sys.modules.update(dict.fromkeys(names, face))
    try:
        yield
    finally:
        sys.modules.update(before)


def suite() -> dict[str, type[unittest.TestCase]]:
    """Return the tests of the running Python by name, with their classes; nothing if it was installed without them."""
    package, prefix = ("test.test_sqlite3", "test_") if sys.version_info >= (3, 11) else ("sqlite3.test", "")
    try:
        if importlib.util.find_spec(package) is None:
            return {}
    except ModuleNotFoundError:
        return {}
    importlib.import_module(package)
    found = {}
    with standing_in(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for area in AREAS:
            module = importlib.import_module(f"{package}.{prefix}{area}")
            for cls in [each for each in vars(module).values() if is_test_case(each, module.__name__)]:
                for name in unittest.TestLoader().getTestCaseNames(cls):
                    found[f"{area}.{cls.__name__}.{name}"] = cls
    return found


def is_test_case(thing: Any, module: str) -> bool:
    return isinstance(thing, type) and issubclass(thing, unittest.TestCase) and thing.__module__ == module


SUITE = suite()
LEFT_OUT = DIFFERENCES.keys() | LINE_OF_THE_FACE | (CHANGED_SINCE_310 if sys.version_info < (3, 11) else set())
HOLDING = sorted(SUITE.keys() - LEFT_OUT)


def test_suite_runs_on_this_package() -> None:
    """If it were empty, or tested sqlite3, everything below would pass."""
    if not SUITE:
        pytest.skip("this Python came without its tests")
    modules = {sys.modules[cls.__module__] for cls in SUITE.values()}

    assert len(HOLDING) > 250
    assert all(
        vars(module)["sqlite"].Connection is blocking.Connection for module in modules if "sqlite" in vars(module)
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", HOLDING)
def test_passes(name: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running Python's own tests of sqlite3 hold here, unmodified."""
    monkeypatch.chdir(tmp_path)
    blocking.use_backend(backend)
    result = unittest.TestResult()
    with warnings.catch_warnings():
        # Some of the tests leave connections open, which sqlite3 allows before Python 3.13.
        warnings.simplefilter("ignore", ResourceWarning)
        SUITE[name](name.rpartition(".")[2]).run(result)
        gc.collect()

    assert result.testsRun == 1
    assert [text for _, text in (*result.errors, *result.failures)] == []
