#!/usr/bin/env bash
# Sets up what is missing and runs the tests; arguments go to pytest.
#
#   scripts/test.sh tests/statements/test_rows.py -k dict     some tests only
#   RAPSQLITE_LONG=1 scripts/test.sh               the long ones too
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
printf '==> running the tests\n'
exec .venv/bin/python -m pytest "$@"
