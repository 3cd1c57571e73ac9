#!/usr/bin/env bash
# Runs SQLAlchemy's own dialect and asyncio tests with this package and with aiosqlite, for a database in memory and for a
# file, and prints which tests pass with aiosqlite only. The tests come from SQLAlchemy's sdist on the package index; they
# use that version of SQLAlchemy, whichever is installed. Some ten minutes for one version.
#
#   scripts/sqlalchemy_suite.sh [VERSION…]    default: the newest of 2.0 and of 2.1
set -euo pipefail
cd "$(dirname "$0")/.."
scripts=$PWD/scripts
python=${PYTHON:-$PWD/.venv/bin/python}
work=${RAPSQLITE_SUITE_DIR:-$(mktemp -d)}
tests="test/dialect/sqlite test/dialect/test_suite.py test/ext/asyncio"
# Drops a table and detaches its database, which SQLite refuses in one transaction. By default DDL is part of it, so this
# package passes with `autocommit=-1` only; it is counted then.
legacy=KeywordInDatabaseNameTest

run() { # tree, driver, name of the database, file for the names of the tests that passed, further options of pytest
    (
        cd "$1"
        # A test that fails is no failure of the run: the comparison is what counts.
        # shellcheck disable=SC2086
        PYTHONPATH=$scripts RAPSQLITE_PASSED=$4 "$python" -m pytest -p suite_comparison -p sqlalchemy_suite -p no:randomly \
            -p no:anyio -p no:asyncio -p no:timeout -p no:cacheprovider -q --maxfail=100000 --dburi "sqlite+$2:///$3" $tests "${@:5}" \
            >"$4.log" 2>&1 || true
        tail -n 1 "$4.log"
    )
}

[ $# -gt 0 ] || set -- '2.0.*' '2.1.*'
for version in "$@"; do
    sdist=$work/sdist-${version//[^0-9.]/}
    "$python" -m pip download -q --no-deps --no-binary sqlalchemy "sqlalchemy==$version" -d "$sdist"
    archive=$(ls "$sdist"/*.tar.gz)
    tar -xzf "$archive" -C "$work"
    tree=$work/$(basename "$archive" .tar.gz)
    results=$work/$(basename "$tree")
    for kind in memory file; do
        for driver in aiosqlite rapsqlite; do
            name=:memory:
            [ $kind = memory ] || name=${driver}test.db
            echo "== $(basename "$tree"), $driver, $kind"
            run "$tree" $driver "$name" "$results-$driver-$kind.txt"
        done
        echo "== $(basename "$tree"), rapsqlite, $kind, only $legacy, with ?autocommit=-1"
        run "$tree" rapsqlite "$name?autocommit=-1" "$results-legacy-$kind.txt" -k $legacy
        cat "$results-legacy-$kind.txt" >>"$results-rapsqlite-$kind.txt"
        "$python" "$scripts/suite_comparison.py" "$results"-{aiosqlite,rapsqlite}-$kind.txt
    done
done
