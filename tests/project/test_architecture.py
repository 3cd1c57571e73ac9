"""Rules of the source tree that no linter knows: imports, the size of functions, forbidden words.

docs/architecture.md explains the folders; the tables here are enforced.
"""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rapsqlite._platform.interface import System

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "rapsqlite"
pytestmark = pytest.mark.sources

# Lowest first: what is in a row may import from its own row and those above it, never from those below.
# Names are folders and top-level modules; a top-level module that is not listed is one of the nouns.
LEVELS = (
    {"errors", "types", "rows", "_constants", "_identifiers", "_sqlite_names"},
    {"_values"},
    {"_platform"},
    {"_files"},
    {"_wasm", "runtime"},
    {"_callbacks"},
    {"_loops"},
    {"_guest"},
    {"_client"},
    {"the nouns"},
    {"pool", "_pooled"},
    {"cache", "pages", "retries", "recipes"},
    {"aiosqlite", "_aiosqlite_name"},
    {"sqlalchemy"},
    {"opentelemetry", "pytest_plugin"},
    {"_cli", "_public", "__init__", "__main__"},
)
FIRST_ASYNC_LEVEL = 6  # _loops

# The same for the crate: folders and modules of `wasm/src`.
RUST_LEVELS = (
    {"abi", "allocator", "buffers", "error"},
    {"wire"},
    {"host", "ring"},
    {"vfs"},
    {"sqlite"},
    {"callbacks"},
    {"deferral"},
    {"connection"},
    {"requests"},
)

GENERATED = {"_constants"}
PYTHON_FUNCTION_CAP = 50
RUST_FUNCTION_CAP = 60

# One home per fact: any other importer of these has taken over a module's job.
ONLY_USERS = {
    "wasmtime": {
        "_files.sigbus",
    },
    "ctypes": {
        "_callbacks.async_exception",
        "_files.mapping",
        "_files.sigbus",
        "_platform._posix",
        "_platform.darwin",
        "_platform.fault_handlers",
        "_platform.linux",
        "_platform.placeholders",
        "_platform.windows",
        "_wasm.c_functions",
        "_wasm.linking",
        "_wasm.reply_watcher",
        "_wasm.table",
        "runtime",
    },
    "fcntl": {
        "_platform._posix",
        "_platform.darwin",
        "_platform.linux",
    },
    "mmap": {
        "_files.mapping",
        "_platform._posix",
        "_platform.linux",
        "_platform.windows",
    },
    "msvcrt": {
        "_platform.windows",
    },
    "resource": {
        "_platform._posix",
    },
    "pickle": set[str](),
    "marshal": set[str](),
}
# What may be imported inside a function, because `import rapsqlite` must not wait for it. The first ones are slow to
# import, which needs no further explanation.
HEAVY = {"anyio", "asyncio", "trio", "uvloop", "sniffio", "wasmtime"}
LAZY = HEAVY | set(
    "dataclasses inspect ctypes rapsqlite logging tempfile shutil concurrent contextvars uuid platform hashlib "
    "argparse code readline sysconfig importlib prompt_toolkit rich".split()
)
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc", "stuff"}
# Split, so that this file does not contain what it forbids.
FORBIDDEN = {
    "a path of one machine": re.compile("|".join([r"/ro" r"ot/", r"/wo" r"rk/", r"/ho" r"me/\w", r"/tm" r"p/\w"])),
    "an unfinished thought without an issue": re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b(?!\(#\d+\))"),
}


def modules() -> list[Path]:
    """The package's modules."""
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a module's dotted name within the package; for a folder, the folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def level_of(module: str) -> int:
    top = module.split(".", maxsplit=1)[0]
    found = [level for level, row in enumerate(LEVELS) if top in row]
    return found[0] if found else LEVELS.index({"the nouns"})


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def tracked_files() -> tuple[Path, ...]:
    """Every file of the checkout that is not ignored; for an unpacked sdist, all of its files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for part in ("rapsqlite", "tests", "examples", "docs") for path in (ROOT / part).rglob("*.*")]
    return tuple(path for path in paths if path.is_file())


def python_sources() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py" and path.stem not in GENERATED]


def rust_sources() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".rs"]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports_in(
    node: ast.AST, *, in_function: bool = False, annotations: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield each import that runs, with ``annotations`` the others too, and whether it is in a function."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child) and not annotations:
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, in_function
        nested = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports_in(child, in_function=nested, annotations=annotations)


def imported_names(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """Return absolute dotted names; inside this package, the names of its modules."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    source = statement.module or ""
    if source.split(".")[0] != "rapsqlite":
        return [source]
    inner = source.removeprefix("rapsqlite").removeprefix(".")
    submodules = [".".join(filter(None, [inner, alias.name])) for alias in statement.names]
    return [f"rapsqlite.{name}" if name in MODULES else source for name in submodules]


def imports_of(path: Path, *, annotations: bool = False) -> list[tuple[str, int, bool]]:
    """Return (dotted name, line, is in a function) of each import of a module."""
    found = imports_in(tree_of(path), annotations=annotations)
    return [(name, node.lineno, inside) for node, inside in found for name in imported_names(node)]


def internal_imports(path: Path, *, annotations: bool = False) -> list[tuple[str, int]]:
    """Return the package's own modules that a module imports, with the lines."""
    names = [
        (name.removeprefix("rapsqlite."), line)
        for name, line, _ in imports_of(path, annotations=annotations)
        if name.startswith("rapsqlite.")
    ]
    return [(name, line) for name, line in names if name in MODULES and name != "__init__"]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    """A lower layer that knows a higher one makes every file depend on every other. Annotations count."""
    level = level_of(name_of(path))

    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for name, line in internal_imports(path, annotations=True)
        if level_of(name) > level
    ]

    assert not wrong


def test_no_modules_import_each_other() -> None:
    """Siblings may import each other, but not in a circle, annotations included.

    One exception: the nouns name the type of the connection that creates them, and it imports them.
    """
    graph = {
        name: {target for target, _ in internal_imports(path, annotations=True)} - {name, "connection"}
        | {target for target, _ in internal_imports(path)} - {name}
        for name, path in MODULES.items()
    }

    sorter = TopologicalSorter(graph)
    sorter.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_in_functions_are_lazy_ones_with_a_reason(path: Path) -> None:
    """Only modules that `import rapsqlite` must not load may be imported late; a comment explains it unless it is
    obvious.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    late = [(name, line) for name, line, inside in imports_of(path) if inside]

    unexpected = [f"{path.name}:{line} {name}" for name, line in late if name.split(".")[0] not in LAZY]
    silent = [
        f"{path.name}:{line} {name}"
        for name, line in late
        if name.split(".")[0] not in HEAVY and "#" not in lines[line - 1] and not preceded_by_comment(lines, line - 1)
    ]

    assert not unexpected
    assert not silent, "say in a comment why this is imported late"


# `_wasm.requirements` runs where nothing else can, and only names the system in a message.
KNOW_THE_SYSTEM = {name for name in MODULES if name.startswith("_platform")} | {"_wasm.requirements"}


@pytest.mark.parametrize("path", [path for path in modules() if name_of(path) not in KNOW_THE_SYSTEM], ids=name_of)
def test_only_the_platform_package_knows_the_system(path: Path) -> None:
    """All other modules work on every system, or ask `system` for a feature by name."""
    asked = [
        f"{relative(path)}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.expr)
        if ast.unparse(node) in {"sys.platform", "os.name", "os.uname", "platform.system"}
        or (isinstance(node, ast.Call) and ast.unparse(node).startswith("hasattr(os,"))
    ]

    assert not asked


@pytest.mark.parametrize("path", [path for path in modules() if path.parent.name != "_platform"], ids=name_of)
def test_features_of_the_system_are_those_of_the_interface(path: Path) -> None:
    """A name that only one system has would be an AttributeError on the others."""
    unknown = {
        f"{relative(path)}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "system" and not hasattr(System, node.attr)
        if node.attr not in System.__annotations__
    }

    assert not unknown


def rust_modules() -> list[Path]:
    return sorted(path for path in (ROOT / "wasm" / "src").rglob("*.rs") if path.name != "lib.rs")


def rust_level_of(name: str) -> int:
    return next(level for level, row in enumerate(RUST_LEVELS) if name in row)


@pytest.mark.parametrize("path", rust_modules(), ids=relative)
def test_uses_of_the_crate_point_downward(path: Path) -> None:
    """As for Python: a folder that uses one above it cannot be understood, or tested, without it."""
    own = path.relative_to(ROOT / "wasm" / "src").parts[0].removesuffix(".rs")
    code = [line.split("//")[0] for line in path.read_text(encoding="utf-8").splitlines()]

    wrong = [
        f"{relative(path)}:{number} uses {name}"
        for number, line in enumerate(code, 1)
        for name in re.findall(r"\bcrate::(\w+)", line)
        if rust_level_of(name) > rust_level_of(own)
    ]

    assert not wrong


def rust_paths(tree: str) -> list[str]:
    """Return the paths of a `use` with nested braces: `a::{b, c::{d, e}}` is three."""
    head, brace, inner = tree.strip().partition("{")
    if not brace:
        return [head]
    parts, depth = [""], 0
    for letter in inner.rpartition("}")[0]:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [head + path for part in parts if part.strip() for path in rust_paths(part)]


def rust_uses(own: tuple[str, ...], path: Path, files: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Return the files of the crate that a file uses, except the `mod.rs` files that it is part of."""
    code = "\n".join(line.split("//")[0] for line in rust_lines(path))
    statements = re.findall(r"\buse\s+([^;]+);", code)
    words = [each for statement in statements for each in rust_paths(statement)]
    words += re.findall(r"(?<![\w:])\w+(?:::\w+)+", code)
    used = set()
    for parts in (word.split("::") for word in words):
        base = own
        while parts[0] == "super":
            base, parts = base[:-1], parts[1:] or [""]
        if parts[0] in {"crate", "self"}:
            base, parts = () if parts[0] == "crate" else own, parts[1:]
        full = (*base, *(part.strip() for part in parts))
        used.add(next((full[:end] for end in range(len(full), 0, -1) if full[:end] in files), own))
    return {each for each in used if own[: len(each)] != each}


def test_no_files_of_the_crate_use_each_other() -> None:
    """As for Python: a circle of files can only be understood as a whole. A `mod.rs` may be used by its own files."""
    source = ROOT / "wasm" / "src"
    files = {}
    for path in rust_modules():
        parts = path.relative_to(source).with_suffix("").parts
        if parts[-1] != "tests":
            files[parts[:-1] if parts[-1] == "mod" else parts] = path

    sorter = TopologicalSorter({own: rust_uses(own, path, files) for own, path in files.items()})
    sorter.prepare()  # raises CycleError, which names the circle


def preceded_by_comment(lines: list[str], index: int) -> bool:
    """Whether there is a comment above a block of import statements."""
    while index > 0 and re.match(r"\s*(from|import)\s", lines[index - 1]):
        index -= 1
    return index > 0 and lines[index - 1].lstrip().startswith("#")


@pytest.mark.parametrize("module", sorted(ONLY_USERS))
def test_low_level_module_has_one_importer(module: str) -> None:
    users = {name_of(path) for path in modules() if module in {name.split(".")[0] for name, _, _ in imports_of(path)}}

    assert users <= ONLY_USERS[module]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_below_the_loop_is_async(path: Path) -> None:
    """Files, rings and values are plain functions, so they can be tested and understood without a loop."""
    if level_of(name_of(path)) >= FIRST_ASYNC_LEVEL:
        return

    asynchronous = [
        node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.AsyncFunctionDef | ast.Await)
    ]

    assert not asynchronous


def rust_lines(path: Path) -> list[str]:
    """Lines of a Rust file up to the tests in it."""
    return path.read_text(encoding="utf-8").split("\n#[cfg(test)]\nmod ")[0].splitlines()


def function_size(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its decorators and docstring."""
    body = node.body
    end = node.end_lineno or node.lineno
    size = end - node.lineno + 1
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        size -= (first.end_lineno or first.lineno) - first.lineno + 1
    return size


def test_python_functions_are_short() -> None:
    long = {
        f"{relative(path)}:{node.lineno} {node.name}": function_size(node)
        for path in python_sources()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and function_size(node) > PYTHON_FUNCTION_CAP
    }

    assert not long


RUST_FUNCTION = re.compile(r'^(?P<indent> *)(?:pub(?:\([^)]*\))? )?(?:const |unsafe |extern "C" )*fn (?P<name>\w+)')


def rust_functions(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Yield (name, size in lines): rustfmt puts a function's closing brace under its first column."""
    for start, line in enumerate(lines):
        match = RUST_FUNCTION.match(line)
        if match is None or line.rstrip().endswith((";", "}")):
            continue
        closing = f"{match['indent']}}}"
        ends = (end for end in range(start, len(lines)) if lines[end] == closing)
        yield match["name"], next(ends, start) - start + 1


def test_rust_functions_are_short() -> None:
    long = {
        f"{relative(path)} {name}": size
        for path in rust_sources()
        for name, size in rust_functions(rust_lines(path))
        if size > RUST_FUNCTION_CAP
    }

    assert not long


def test_every_unsafe_block_says_why_it_is_sound() -> None:
    silent = []
    for path in rust_sources():
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            code = line.split("//")[0]
            if not re.search(r"\bunsafe\b\s*(\{|impl)", code):
                continue
            above = lines[max(0, number - 8) : number + 1]
            if not any("SAFETY" in text for text in above):
                silent.append(f"{relative(path)}:{number + 1}")

    assert not silent


def test_no_file_has_a_vague_name() -> None:
    parts = {part for path in tracked_files() for part in (path.stem, *path.relative_to(ROOT).parts[:-1])}

    assert not parts & VAGUE_NAMES


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_no_file_contains(what: str) -> None:
    """Paths of one machine and words without meaning for a reader stay out of the project."""
    found = [
        f"{relative(path)}:{number}"
        for path in tracked_files()
        if path.suffix in {".py", ".rs", ".md", ".sh", ".toml", ".txt", ".c", ".h", ""}
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]

    assert not found, f"{what} in {found}"


def test_every_module_has_a_docstring_of_its_purpose() -> None:
    assert not [
        relative(path)
        for path in python_sources()
        if path.name != "__init__.py" and not ast.get_docstring(tree_of(path))
    ]


def test_no_compiled_file_is_committed() -> None:
    built = {".wasm", ".so", ".o", ".a", ".whl", ".pyc", ".cwasm", ".db"}

    assert not [relative(path) for path in tracked_files() if path.suffix in built]
