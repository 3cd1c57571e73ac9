"""Hatch's build hook: a wheel contains the compiled module, so build it first.

An sdist contains the crate instead, and building a wheel from that sdist runs this hook again. The script that it calls
skips a module that is newer than its inputs, so repeated builds cost nothing.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "rapsqlite/engine.wasm"
EXTENSIONS = "rapsqlite/extension_modules"


def compile_modules(root: Path) -> None:
    """Compile the engine and the extensions; exit with a message that says what is needed if that fails."""
    try:
        subprocess.run(["bash", str(root / "scripts" / "build_wasm.sh")], cwd=root, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"rapsqlite's engine was not compiled ({error}). A build from source needs bash, Rust with its library's"
            " source, and a C compiler for WebAssembly (docs/architecture.md, Building); the wheel needs none of them:"
            " pip install --only-binary rapsqlite rapsqlite"
        ) from None


class EngineBuildHook(BuildHookInterface[Any]):
    """Builds ``rapsqlite/engine.wasm`` and the bundled extensions, and adds them to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatch's signature
        """Run before the wheel's files are collected; ``version`` is "standard" or "editable"."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        compile_modules(root)
        if not (root / MODULE).is_file():
            raise FileNotFoundError(f"scripts/build_wasm.sh ended well but left no {MODULE}")
        # These files are git-ignored, and hatch skips ignored files by default. There are no extensions if their source
        # was not available, which the script has reported.
        modules = [MODULE, *(path.relative_to(root).as_posix() for path in (root / EXTENSIONS).glob("*.wasm"))]
        build_data["artifacts"].extend(f"/{name}" for name in modules)
