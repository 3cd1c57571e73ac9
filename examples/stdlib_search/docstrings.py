"""Find the docstrings of the standard library by parsing its sources; nothing is imported."""

from __future__ import annotations

import ast
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = {"test", "tests", "idle_test"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
KINDS = {ast.Module: "module", ast.ClassDef: "class"}


class Document(NamedTuple):
    """One docstring and its location."""

    module: str
    name: str
    kind: str
    line: int
    body: str


def standard_library() -> list[Path]:
    """Return the source files of the standard library's modules, without tests, in a stable order."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[Path] = []
    for name in sorted(sys.stdlib_module_names):
        module = root / f"{name}.py"
        if module.is_file():
            found.append(module)
        elif (root / name / "__init__.py").is_file():
            sources = (root / name).rglob("*.py")
            found += sorted(path for path in sources if not TESTS & set(path.relative_to(root).parts))
    return found


def module_name(path: Path) -> str:
    """Return the dotted name of a source file of the standard library."""
    parts = path.relative_to(sysconfig.get_path("stdlib")).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def documents_of(path: Path) -> list[Document]:
    """Return the docstrings in one file; none if this Python version cannot parse it."""
    try:
        with warnings.catch_warnings():
            # Ignore warnings about old escape sequences in old modules.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError:
        return []
    return list(walk(tree, module_name(path), ""))


def walk(node: ast.AST, module: str, prefix: str) -> Iterator[Document]:
    """Yield the docstring of a node, then the docstrings of its definitions."""
    name = prefix or module
    if isinstance(node, DOCUMENTED):
        body = ast.get_docstring(node)
        if body:
            kind = KINDS.get(type(node), "function")
            yield Document(module, name, kind, getattr(node, "lineno", 1), body)
    for child in ast.iter_child_nodes(node):
        child_name = getattr(child, "name", "") if isinstance(child, DOCUMENTED) else ""
        yield from walk(child, module, f"{name}.{child_name}" if child_name else prefix)
