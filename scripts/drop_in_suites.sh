#!/usr/bin/env bash
# Runs the tests of programs that use aiosqlite, from their sdists on the package index and unmodified: first with
# aiosqlite, then with this package under its name (`rapsqlite.install_as_aiosqlite`). Prints both counts.
# docs/compatibility.md has the result and its date. Needs the package index; takes about an hour.
#
#   scripts/drop_in_suites.sh [NAME...]          all suites, or those named
#   WORKPLACE=dir scripts/drop_in_suites.sh      keep environments and sources there, to run again
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
wanted=" $* "
place=${WORKPLACE:-$(mktemp -d)}
mkdir -p "$place/plugin" "$place/sources" "$place/environments" "$place/output"
ln -sfn "$root/rapsqlite" "$place/plugin/rapsqlite"
printf 'import rapsqlite\n\nrapsqlite.install_as_aiosqlite()\n' >"$place/plugin/rapsqlite_as_aiosqlite.py"

prepare() { # name distribution==version packages...
    local name=$1 distribution=$2
    shift 2
    [ -e "$place/sources/$name" ] && return
    "$root/.venv/bin/python" -m venv "$place/environments/$name"
    "$place/environments/$name/bin/pip" install -q --disable-pip-version-check "$distribution" \
        pytest pytest-asyncio aiosqlite==0.22.1 "wasmtime>=50.0.1,<51" "msgspec>=0.20" "anyio>=4.14" "$@" || return
    "$place/environments/$name/bin/pip" download -q --disable-pip-version-check --no-deps --no-binary :all: \
        -d "$place/downloads/$name" "$(sed "s/\[.*\]//" <<<"$distribution")" || return
    mkdir "$place/sources/$name"
    tar xzf "$place/downloads/$name"/*.tar.gz --strip-components=1 -C "$place/sources/$name"
}

suite() { # name distribution==version packages... -- arguments of pytest
    local name=$1 driver packages=() plugin
    [ "$wanted" = "  " ] || [[ $wanted == *" $name "* ]] || return
    shift
    while [ "$1" != -- ]; do
        packages+=("$1")
        shift
    done
    shift
    prepare "$name" "${packages[@]}" || { echo "$name: cannot be installed"; return; }
    for driver in aiosqlite rapsqlite; do
        plugin=()
        [ $driver = aiosqlite ] || plugin=(-p rapsqlite_as_aiosqlite)
        (cd "$place/sources/$name" &&
            PYTHONPATH=$place/plugin timeout 1800 "$place/environments/$name/bin/python" -m pytest -q -p no:cacheprovider \
                "${plugin[@]}" "$@" </dev/null >"$place/output/$name.$driver" 2>&1)
        echo "$name, $driver: $(tail -1 "$place/output/$name.$driver")"
    done
}

suite langgraph langgraph-checkpoint-sqlite==3.1.2 pytest-mock pytest-rerunfailures langgraph-checkpoint-conformance -- -o addopts=
suite openai openai-agents==0.24.0 pytest-mock inline-snapshot sqlalchemy -- tests/extensions/memory/test_async_sqlite_session.py
suite sqlspec 'sqlspec[aiosqlite]==0.69.0' pytest-databases 'psycopg[binary]' pyarrow polars pandas pydantic attrs cattrs -- \
    --continue-on-collection-errors --confcutdir=tests/unit/adapters/test_aiosqlite tests/unit/adapters/test_aiosqlite
suite users fastapi-users-db-sqlalchemy==7.0.0 pytest-mock httpx -- tests
TEST_DATABASE_URLS=sqlite+aiosqlite:///testsuite.db suite databases 'databases[aiosqlite]==0.9.0' 'sqlalchemy<2.1' \
    asyncpg aiomysql aiopg asyncmy pymysql psycopg2-binary starlette httpx requests -- tests
suite aiohttp 'aiohttp-client-cache[all]==0.15.0' pytest-aiohttp faker aioresponses brotli -- test/integration/test_sqlite.py
suite alchemy advanced-alchemy==1.12.0 'sqlalchemy<2.1' pytest-mock pytest-lazy-fixtures pytest-xdist pytest-databases click \
    rich-click alembic pydantic attrs cattrs time-machine numpy google-cloud-spanner oracledb asyncpg asyncmy duckdb-engine \
    sqlalchemy-spanner passlib 'psycopg[binary]' -- \
    tests/integration -k aiosqlite --continue-on-collection-errors --ignore tests/integration/test_extensions
suite tortoise tortoise-orm==1.1.9 asyncpg asyncmy blacksheep fastapi sanic aiohttp quart 'psycopg[binary,pool]' pyyaml \
    httpx asgi_lifespan pydantic -- tests
suite ormar ormar==0.26.0 'pydantic[email]' httpx asgi-lifespan fastapi orjson cryptography faker nest-asyncio pytest-benchmark \
    pydantic-extra-types -- tests
