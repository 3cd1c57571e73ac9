"""What `import rapsqlite` offers, and what it must not cost."""

from __future__ import annotations

import inspect
import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from tests.programs import run_python

if TYPE_CHECKING:
    from collections.abc import Iterator

# Imported at the first connect() instead: each costs more than everything that the name `connect` needs.
HEAVY = {"anyio", "asyncio", "trio", "uvloop", "sniffio", "wasmtime", "dataclasses", "inspect"}

LIST_MODULES = """
import json, sys
import sqlite3, msgspec, logging  # from Python 3.14 on logging loads dataclasses and inspect itself
before = set(sys.modules)
import rapsqlite
if len(sys.argv) > 1:
    getattr(rapsqlite, sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""


# A task that gets the last reply asks for the guest, which has ended by then except for closing its files.
CLOSE_SLOWLY = """
import asyncio, sys, threading
from rapsqlite import _constants as abi
from rapsqlite._files.file_table import FileTable
from rapsqlite._wasm.rings import Request
from tests.vfs.driver import Driven
answered, leaving, awaited = threading.Event(), threading.Event(), threading.Event()
class Files(FileTable):
    def close(self):
        leaving.set()
        assert awaited.wait(30)
        super().close()
async def close(guest):
    finish = guest._queue.finish
    guest._queue.finish = lambda failure: answered.wait(30) and finish(failure)
    await guest.call(Request(abi.OP_CLOSE))
    answered.set()
    assert leaving.wait(30)
    ending = asyncio.ensure_future(guest.close())
    await asyncio.sleep(0)
    awaited.set()
    await ending
driven = Driven(':memory:', files=Files(b':memory:'))
driven._loop.run_until_complete(close(driven.guest))
print(*sorted(name for name in sys.modules if name.startswith('anyio._backends')))
"""


def modules_loaded_by_import(*name: str) -> set[str]:
    """Return what `import rapsqlite` and one of its names load on top of what it needs, in a new interpreter."""
    answer = run_python("-c", LIST_MODULES, *name, check=True)
    return set(json.loads(answer.stdout))


def test_closing_a_connection_does_not_load_what_only_cancelled_tasks_need() -> None:
    """It does not matter how long closing the files takes."""
    done = run_python("-c", CLOSE_SLOWLY)

    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_importing_the_package_loads_no_submodule() -> None:
    """What a program imports at its start costs something only once it is used."""
    assert {name for name in modules_loaded_by_import() if name.startswith("rapsqlite")} == {"rapsqlite"}


def test_modules_are_found_by_their_names() -> None:
    """Including modules without public names; a module missing from the list would import all the others."""
    package = Path(rapsqlite.__file__).parent
    files = {path.stem for path in package.glob("[a-z]*.py")}
    files |= {path.parent.name for path in package.glob("[a-z]*/__init__.py")}

    assert files == rapsqlite._MODULES
    assert modules_loaded_by_import("errors") < modules_loaded_by_import("connect")


def test_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rapsqlite' has no attribute 'conect'"):
        _ = rapsqlite.conect  # type: ignore[attr-defined]


def test_star_imports_every_public_name() -> None:
    code = "from rapsqlite import *; import rapsqlite; print(set(rapsqlite.__all__) - set(globals()))"

    done = run_python("-c", code, check=True)

    assert done.stdout == "set()\n"


def documented_objects() -> Iterator[tuple[str, Any]]:
    """Yield each public class, function and public method with its dotted name."""
    for name in rapsqlite.__all__:
        value = getattr(rapsqlite, name)
        if not inspect.isclass(value) and not inspect.isroutine(value):
            continue
        if not getattr(value, "__module__", "").startswith("rapsqlite"):
            continue
        yield name, value
        if inspect.isclass(value):
            yield from methods_of(name, value)


def methods_of(class_name: str, cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            yield f"{class_name}.{name}", value


def test_import_loads_no_event_loop_and_no_runtime() -> None:
    """A command-line tool that imports rapsqlite and never connects must not pay for wasmtime."""
    loaded = {name.split(".")[0] for name in modules_loaded_by_import("connect")}

    assert not loaded & HEAVY


def test_names_in_all_exist_and_are_unique() -> None:
    names = rapsqlite.__all__

    assert len(set(names)) == len(names)
    assert not [name for name in names if not hasattr(rapsqlite, name)]


def test_no_public_name_is_forgotten_in_all() -> None:
    """A star import and the documentation use __all__, autocompletion uses the module's names."""
    offered = {
        name
        for name, value in vars(rapsqlite).items()
        if not name.startswith(("_", "SQLITE_"))
        and not inspect.ismodule(value)
        and name not in {"annotations", "TYPE_CHECKING"}
    }

    assert offered <= set(rapsqlite.__all__)


def test_public_names_have_docstrings() -> None:
    assert not [name for name, value in documented_objects() if not inspect.getdoc(value)]


def test_version_is_the_distribution_s() -> None:
    """A version written in two places is wrong in one of them."""
    assert rapsqlite.__version__ == metadata.version("rapsqlite")
