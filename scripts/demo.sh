#!/usr/bin/env bash
# Sets up what is missing, then indexes the documentation of Python's standard library into a database
# and searches it, from asyncio and from Trio; arguments go to the program.
#
#   scripts/demo.sh --searches 10000 --database docs.db
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
printf '==> indexing and searching the documentation of the standard library\n'
exec .venv/bin/python -m examples.stdlib_search "$@"
