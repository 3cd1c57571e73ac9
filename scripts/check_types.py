"""Check with pyright that every public name of the installed package has an explicit type.

Fails for a name whose type is unknown or inferred, such as an attribute set in ``__init__`` without annotation: two
type checkers may infer different types.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


def completeness(package: str) -> dict[str, Any]:
    """Return pyright's report about a package of the running environment."""
    # pyright finds the environment only through PATH when it verifies a package.
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [str(BIN / "basedpyright"), "--verifytypes", package, "--ignoreexternal", "--outputjson"]
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    report: dict[str, Any] = json.loads(answer.stdout)["typeCompleteness"]
    return report


def main() -> int:
    """Print the figures and the problems."""
    report = completeness("rapsqlite")
    counts = report["exportedSymbolCounts"]
    known, inferred, unknown = (counts[f"with{kind}Type"] for kind in ("Known", "Ambiguous", "Unknown"))
    print(f"public names: {known} typed, {inferred} inferred, {unknown} unknown")
    for symbol in report["symbols"]:
        if symbol["isExported"] and not symbol["isTypeKnown"]:
            reasons = "; ".join(" ".join(diagnostic["message"].split()) for diagnostic in symbol["diagnostics"])
            print(f"  {symbol['name']}: {reasons or 'because of one of its members'}", file=sys.stderr)
    # No names found means that the package was not found, so nothing was checked.
    return 1 if inferred or unknown or not known else 0


if __name__ == "__main__":
    sys.exit(main())
