#!/usr/bin/env bash
# Runs the tests of programs that use aiosqlite, unmodified and each in an environment of its own: first with aiosqlite, then
# with this package under its name (`rapsqlite.install_as_aiosqlite`). Prints a table, and the names of the tests that pass
# with aiosqlite only. The tests come from a program's sdist, or from a commit of its repository if the sdist has none.
# docs/compatibility.md has the result and its date. Needs the package index and GitHub; takes about an hour.
#
#   scripts/drop_in_suites.sh [NAME...]       all programs, or those named; environments and archives are kept and used again
#   PYTHON=/opt/python3.14/bin/python …       in environments of another Python
#   SUITES_DIR=dir …                          keep them there, not in .work/drop_in
set -uo pipefail
cd "$(dirname "$0")/.."
readonly root=$PWD wanted=" $* " python=${PYTHON:-$PWD/.venv/bin/python} place=${SUITES_DIR:-$PWD/.work/drop_in}
readonly own=(pytest pytest-asyncio aiosqlite==0.22.1 "wasmtime>=50.0.1,<51" "msgspec>=0.20" "anyio>=4.14")
mkdir -p "$place"
: >"$place/pytest.ini" # a program without settings for pytest has none, rather than this project's
names=()
failed=()
known=" "

sdist() { # distribution==version, archive to write
    # Its build requirements may be wheels: they are only there to read its name.
    "$python" -m pip download -q --disable-pip-version-check --no-deps --no-binary "${1%%==*}" -d "${2%/*}/sdist" "$1" &&
        mv "${2%/*}/sdist"/*.tar.gz "$2"
}

commit() { # owner/name@commit, archive to write
    local repository=${2%/*}/repository
    git init -q --bare "$repository" && git -C "$repository" fetch -q --depth 1 "https://github.com/${1%@*}" "${1#*@}" &&
        git -C "$repository" archive --prefix=source/ -o "$2" FETCH_HEAD
}

prepare() { # name, origin of the tests, packages...
    local name=$1 origin=$2 recipe="$*" directory=$place/$1
    shift 2
    [ "$(cat "$directory/recipe" 2>/dev/null)" = "$recipe" ] && return
    rm -rf "$directory"
    mkdir -p "$directory"
    "$python" -m venv "$directory/environment" &&
        "$directory/environment/bin/python" -m pip install -q --disable-pip-version-check "${own[@]}" "$@" || return
    case $origin in
    sdist) sdist "$(sed "s/\[.*\]//" <<<"$1")" "$directory/source.tar.gz" || return ;;
    *) commit "$origin" "$directory/source.tar.gz" || return ;;
    esac
    printf %s "$recipe" >"$directory/recipe"
}

progress() { # text: on a terminal, the line that the next one replaces
    [ ! -t 1 ] || printf '\r\033[K%s' "$1"
}

follow() { # process, log, text: until the process has ended, show how far its tests are
    local start=$SECONDS
    while kill -0 "$1" 2>/dev/null; do
        progress "$3: $((SECONDS - start)) s $(grep -o '\[ *[0-9]*%\]' "$2" | tail -n 1)"
        sleep 1
    done
    wait "$1"
    progress ""
    echo "$3: $((SECONDS - start)) s, $(cat "${2%.log}.txt" 2>/dev/null | wc -l) passed, $(grep -Eo '^[0-9]+ connections' "$2")"
}

run() { # name, driver, arguments of pytest...: in fresh copies, so that no run finds another one's files, and edits do not matter
    local directory=$place/$1 name=$1 driver=$2 under_its_name=
    shift 2
    [ "$driver" = aiosqlite ] || under_its_name=1
    rm -rf "$directory/source" "$directory/path" "$directory/$driver.txt"
    mkdir "$directory/source" "$directory/path"
    cp -R "$root/rapsqlite" "$root"/scripts/suite_{comparison,tortoise}.py "$directory/path"
    tar -xzf "$directory/source.tar.gz" --strip-components=1 -C "$directory/source"
    : >"$directory/$driver.log"
    (cd "$directory/source" &&
        PYTHONPATH=$directory/path RAPSQLITE_AS_AIOSQLITE=$under_its_name RAPSQLITE_PASSED=$directory/$driver.txt \
            exec timeout 1800 "$directory/environment/bin/python" -m pytest -q -p suite_comparison -p no:cacheprovider "$@" \
            </dev/null >"$directory/$driver.log" 2>&1) &
    follow $! "$directory/$driver.log" "$name, $driver"
    [ -e "$directory/$driver.txt" ]
}

suite() { # name, sdist or owner/name@commit, distribution==version, packages... -- arguments of pytest
    local name=$1 packages=() driver
    known+="$name "
    [ "$wanted" = "  " ] || [[ $wanted == *" $name "* ]] || return
    while [ "$1" != -- ]; do
        packages+=("$1")
        shift
    done
    shift
    progress "$name: installing"
    prepare "${packages[@]}" || { echo "$name: cannot be installed"; failed+=("$name"); return; }
    for driver in aiosqlite rapsqlite; do
        run "$name" $driver "$@" || { echo "$name: did not run; see $place/$name/$driver.log"; failed+=("$name"); return; }
    done
    names+=("$name")
}

table() {
    local name only directory
    for name in $wanted; do [[ $known == *" $name "* ]] || failed+=("$name"); done
    printf '\n%-16s %10s %10s\n' tests aiosqlite here
    for name in "${names[@]}"; do
        directory=$place/$name
        only=$("$python" "$root/scripts/suite_comparison.py" "$directory/aiosqlite.txt" "$directory/rapsqlite.txt" | tail -n +2)
        printf '%-16s %10s %10s\n' "$name" "$(wc -l <"$directory/aiosqlite.txt")" "$(wc -l <"$directory/rapsqlite.txt")"
        [ -z "$only" ] || echo "$only"
    done
    [ ${#failed[@]} = 0 ] || echo "did not run: ${failed[*]}"
}

suite aiosqlitepool slaily/aiosqlitepool@47bc8e262a822aec4669d0f4d8b8df5b61a1b619 aiosqlitepool==1.0.0 -- tests
suite apscheduler sdist apscheduler==4.0.0a6 'sqlalchemy[asyncio]<2.1' 'cbor2<6' pymongo paho-mqtt redis trio pytest-lazy-fixtures \
    pytest-mock time-machine asyncpg asyncmy 'psycopg[binary]' pymysql -- tests -m 'not external_service'
suite sqladmin smithyhq/sqladmin@a88b1e47d13a0be723c8c724dcdb5df2f6240885 'sqladmin[full]==0.31.0' arrow asyncpg colour \
    email-validator fastapi-storages greenlet httpx phonenumbers pillow psycopg2-binary 'psycopg[binary]' python-dateutil \
    sqlalchemy_utils sqlmodel -- tests
suite zigpy zigpy/zigpy@dfeb958b1f737b0a6c9dedbdb7fc169a188a516e zigpy==0.69.0 aioresponses 'aiohttp<3.14' filelock freezegun \
    pytest-timeout 'pytest-asyncio<0.24' -- tests/test_appdb.py tests/test_appdb_migration.py
PICCOLO_CONF=tests.sqlite_conf suite piccolo piccolo-orm/piccolo@3599b756a2e70e18e7758b5bb475d33f5192ca4e \
    'piccolo[orjson,sqlite]==1.36.0' httpx python-dateutil asyncpg uvicorn uvloop ipython -- tests -m 'not integration'
suite langgraph sdist langgraph-checkpoint-sqlite==3.1.2 pytest-mock pytest-rerunfailures langgraph-checkpoint-conformance -- \
    -o addopts=
suite openai sdist openai-agents==0.24.0 pytest-mock inline-snapshot sqlalchemy -- \
    tests/extensions/memory/test_async_sqlite_session.py
suite sqlspec sdist 'sqlspec[aiosqlite]==0.69.0' pytest-databases 'psycopg[binary]' pyarrow polars pandas pydantic attrs cattrs -- \
    --continue-on-collection-errors --confcutdir=tests/unit/adapters/test_aiosqlite tests/unit/adapters/test_aiosqlite
suite users sdist fastapi-users-db-sqlalchemy==7.0.0 pytest-mock httpx -- tests
TEST_DATABASE_URLS=sqlite+aiosqlite:///testsuite.db suite databases sdist 'databases[aiosqlite]==0.9.0' 'sqlalchemy<2.1' \
    asyncpg aiomysql aiopg asyncmy pymysql psycopg2-binary starlette httpx requests -- tests
suite aiohttp sdist 'aiohttp-client-cache[all]==0.15.0' pytest-aiohttp faker aioresponses brotli -- test/integration/test_sqlite.py
suite alchemy sdist advanced-alchemy==1.12.0 'sqlalchemy<2.1' pytest-mock pytest-lazy-fixtures pytest-xdist pytest-databases click \
    rich-click alembic pydantic attrs cattrs time-machine numpy google-cloud-spanner oracledb asyncpg asyncmy duckdb-engine \
    sqlalchemy-spanner passlib 'psycopg[binary]' google-cloud-bigquery google-cloud-storage pymysql pymssql pymongo redis -- \
    tests/integration -k aiosqlite --continue-on-collection-errors --ignore tests/integration/test_extensions
suite tortoise sdist tortoise-orm==1.1.9 asyncpg asyncmy blacksheep fastapi sanic aiohttp quart 'psycopg[binary,pool]' pyyaml \
    httpx asgi_lifespan pydantic -- -p suite_tortoise tests
suite ormar sdist ormar==0.26.0 'pydantic[email]' httpx asgi-lifespan fastapi orjson cryptography faker nest-asyncio \
    pytest-benchmark pydantic-extra-types -- tests
table
[ ${#failed[@]} = 0 ]
