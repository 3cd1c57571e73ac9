#!/usr/bin/env bash
# Installs libraries that use aiosqlite in an environment of their own, .work/libraries, and unpacks their sdists there, for
# tests/compat/test_library_suites.py. Needs the package index. Run again, it does only what is out of date.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly place=.work/libraries constraints=scripts/library_constraints.txt python=.venv/bin/python
readonly libraries=(aiohttp-client-cache aiosqlitepool apscheduler databases fastapi-users-db-sqlalchemy
    langgraph-checkpoint-sqlite ormar sqlspec tortoise-orm)
# What their tests import, this package needs, and their sdists are built with: pip asks a build backend for the name of each.
readonly others=(pytest pytest-asyncio pytest-lazy-fixtures pytest-mock time-machine cbor2 pymongo
    aiosqlite 'sqlalchemy[asyncio]' wasmtime msgspec anyio
    setuptools setuptools-scm wheel hatchling hatch-regex-commit poetry-core pdm-backend)

bash scripts/setup.sh
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    printf '==> two of the libraries need Python 3.11: their tests are skipped\n'
    exit
fi
inputs=$("$python" --version | cat - "$constraints" scripts/library_tests.sh | sha256sum)
if [ "$(cat "$place/installed" 2>/dev/null)" = "$inputs" ] && "$place/environment/bin/python" -c '' 2>/dev/null; then
    printf '==> the libraries that use aiosqlite are installed\n'
    exit
fi
printf '==> installing libraries that use aiosqlite into %s\n' "$place"
rm -rf "$place"
mkdir -p "$place/sdists" "$place/sources"
"$python" -m venv "$place/environment"
pip=("$place/environment/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install -c "$constraints" "${libraries[@]}" "${others[@]}"
for library in "${libraries[@]}"; do
    grep -i "^$library==" "$constraints"
done >"$place/sdists.txt"
"${pip[@]}" download --no-deps --no-binary :all: --no-build-isolation -d "$place/sdists" -r "$place/sdists.txt"
for library in "${libraries[@]}"; do
    mkdir "$place/sources/$library"
    tar -xzf "$(find "$place/sdists" -name "${library//-/_}-*.tar.gz")" --strip-components=1 -C "$place/sources/$library"
done
printf '%s' "$inputs" >"$place/installed"
