#!/usr/bin/env python3
"""Write ``rapsqlite/_constants.py`` from the guest's own numbers and SQLite's.

Sources, so that nothing is typed twice: ``wasm/src/abi.rs`` and ``abi/`` (the contract with the guest, docs/abi.md),
``wasm/extensions/provided.txt`` (the C functions that the guest has for extensions) and the bindings of the
``libsqlite3-sys`` crate, in the version that ``wasm/Cargo.lock`` pins, as far as the package or its tests name them.
Cargo is asked where the crate is; it is downloaded only if it is not there yet.

    scripts/generate_constants.py            write the file
    scripts/generate_constants.py --check    exit 1 if the committed file is not what would be written
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ABI = [ROOT / "wasm" / "src" / name for name in ("abi.rs", "abi/callback.rs")]
PROVIDED = ROOT / "wasm" / "extensions" / "provided.txt"
MANIFEST = ROOT / "wasm" / "Cargo.toml"
TARGET = ROOT / "rapsqlite" / "_constants.py"
BINDINGS = Path("sqlite3") / "bindgen_bundled_version.rs"

RUST_CONSTANT = re.compile(r"^pub const (?P<name>\w+): [iu](?:8|16|32|64) = (?P<value>-?\w+);", re.MULTILINE)
SQLITE_VERSION = re.compile(r'^pub const SQLITE_VERSION: .* = c"(?P<version>[0-9.]+)";', re.MULTILINE)

# SQLite's header lists every result code, and nothing else, from SQLITE_OK up to the first open flag.
FIRST_RESULT_CODE = "SQLITE_OK"
FIRST_OPEN_FLAG = "SQLITE_OPEN_READONLY"

HEADER = '''"""Numbers of the guest's contract and of SQLite {version}. Generated, never edited.

Written by ``scripts/generate_constants.py`` from ``wasm/src/abi.rs`` and SQLite's header.
"""

SQLITE_VERSION = "{version}"
'''


def constants_of(text: str) -> dict[str, int]:
    """Return the integer constants of Rust source, in source order."""
    return {match["name"]: int(match["value"].replace("_", ""), 0) for match in RUST_CONSTANT.finditer(text)}


def bindings_path() -> Path:
    """Return the path of the bindings in the pinned crate's source directory."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--manifest-path", str(MANIFEST)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    for package in json.loads(answer)["packages"]:
        if package["name"] == "libsqlite3-sys":
            return Path(package["manifest_path"]).parent / BINDINGS
    raise SystemExit(f"{MANIFEST}: no dependency libsqlite3-sys")


def result_codes(sqlite: dict[str, int]) -> dict[int, str]:
    """Return the name of each result code, primary and extended."""
    names = list(sqlite)
    listed = names[names.index(FIRST_RESULT_CODE) : names.index(FIRST_OPEN_FLAG)]
    codes = {sqlite[name]: name for name in listed}
    if len(codes) != len(listed):
        raise SystemExit("two result codes share a number: the header's order is not what this script expects")
    return codes


def named() -> set[str]:
    """Return the words of the package and its tests that may be names of SQLite's."""
    sources = [path for folder in ("rapsqlite", "tests") for path in (ROOT / folder).rglob("*.py") if path != TARGET]
    return {word for path in sources for word in re.findall(r"\bSQLITE_\w+", path.read_text(encoding="utf-8"))}


def rendered() -> str:
    """Return the text of the generated module."""
    bindings = bindings_path().read_text(encoding="utf-8")
    version = SQLITE_VERSION.search(bindings)
    abi = constants_of("".join(path.read_text(encoding="utf-8") for path in ABI))
    sqlite = constants_of(bindings)
    if version is None or not abi or not sqlite:
        raise SystemExit("found no constants: the sources are not what this script expects")
    lines = [HEADER.format(version=version["version"])]
    lines.append("# The contract with the guest: wasm/src/abi.rs, docs/abi.md.")
    lines += [f"{name} = {value}" for name, value in abi.items()]
    lines.append("\n# SQLite: https://sqlite.org/c3ref/constlist.html")
    used = named()
    lines += [f"{name} = {value}" for name, value in sqlite.items() if name in used]
    lines.append("\n# Result code, primary or extended, to its name.")
    lines.append("RESULT_CODES: dict[int, str] = {")
    lines += [f'    {code}: "{name}",' for code, name in sorted(result_codes(sqlite).items())]
    lines.append("}\n\n# What extensions may import: wasm/extensions/provided.txt.")
    lines.append("EXTENSION_FUNCTIONS: frozenset[str] = frozenset({")
    lines += [f'    "{name}",' for name in PROVIDED.read_text(encoding="utf-8").split()]
    lines.append("})\n")
    return "\n".join(lines)


def main() -> int:
    """Write or check the file; return the exit code."""
    parser = argparse.ArgumentParser(description="Generate rapsqlite/_constants.py.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    checking = parser.parse_args().check
    text = rendered()
    current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else None
    if text == current:
        return 0
    if checking:
        print(f"{TARGET.relative_to(ROOT)} is out of date: run scripts/generate_constants.py", file=sys.stderr)
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
