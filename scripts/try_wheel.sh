#!/usr/bin/env bash
# Builds the wheel and runs the quick example from it, in a new environment of each Python >= 3.10 found:
# those on PATH, pyenv's, and those given as arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/pythons.sh
. scripts/pythons.sh

root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
expected=$'[[1, \'hello\']]\n[[1, \'hello\']]'

say() { printf '==> %s\n' "$*"; }

try_python() {
    local version=$1 python=$2 printed
    "$python" -m venv "$work/$version"
    "$work/$version/bin/python" -m pip install --quiet --disable-pip-version-check \
        -c "$root/scripts/constraints.txt" "$work"/dist/*.whl trio
    mkdir "$work/run-$version"
    cd "$work/run-$version"
    printed=$("$work/$version/bin/python" -I -W error "$root/examples/quickstart.py")
    if [ "$printed" != "$expected" ]; then
        printf 'error: Python %s printed %s\n' "$version" "$printed" >&2
        return 1
    fi
    "$work/$version/bin/python" -I -W error "$root/examples/trio_quickstart.py" >/dev/null
    say "Python $version ($python): the quick examples ran"
    cd "$root"
}

bash scripts/setup.sh
say "building the wheel"
.venv/bin/python -m build --wheel --no-isolation --outdir "$work/dist" . >"$work/build.log" 2>&1 ||
    { cat "$work/build.log" >&2; exit 1; }
ls -l "$work/dist"
pythons "$@" >"$work/pythons"
[ -s "$work/pythons" ] || { echo "error: found no Python >= 3.10 with venv" >&2; exit 1; }
while read -r version python; do
    # The loop's own input must not be eaten by what it runs.
    try_python "$version" "$python" </dev/null
done <"$work/pythons"
say "ran on $(wc -l <"$work/pythons") Pythons"
