#!/usr/bin/env bash
# Builds the wheel and runs the tests from it, away from the sources: on each minor Python >= 3.10 found, each time in a
# new environment, and on the oldest of them once more with the lowest versions that pyproject.toml allows.
#
#   scripts/test_wheel.sh tests/copies/test_dump.py -k filter   some tests only
#   scripts/test_wheel.sh --share      the whole suite on the Python of .venv and, beside it, an eighth of it in each other
#                                      environment, one after the other
#   PYTHONS="/opt/python3.14" scripts/test_wheel.sh     other Pythons besides the ones on PATH and pyenv's
set -euo pipefail
cd "$(dirname "$0")/.."

readonly root=$PWD shares=8
mkdir -p .work
work=$(mktemp -d "$root/.work/wheel.XXXXXX") # not in /tmp, which a test lays another file system over
beside=
trap '[ -z "$beside" ] || kill -- "-$beside" 2>/dev/null || true; rm -rf "$work"' EXIT

say() { printf '==> %s\n' "$*"; }

# A line "minor-version path" for each minor version >= 3.10: .venv's, PYTHONS, those on PATH, pyenv's.
pythons() {
    local candidate
    # shellcheck disable=SC2086 # several paths
    for candidate in .venv/bin/python ${PYTHONS:-} python3 python3.{10..20} "$HOME"/.pyenv/versions/*/bin/python3; do
        "$candidate" -c 'import sys, venv, ensurepip
if sys.version_info >= (3, 10): print("%d.%d" % sys.version_info[:2], sys._base_executable)' 2>/dev/null || true
    done | awk '!seen[$1]++' | sort -V
}

build_wheel() {
    say "building the wheel"
    .venv/bin/python -m build --wheel --no-isolation --outdir "$work/dist" . >"$work/build.log" 2>&1 ||
        { cat "$work/build.log" >&2; exit 1; }
    wheel=$(echo "$work"/dist/*.whl)
}

# Everything that tests read, except the package and the modules in it: what they import is installed, or missing.
copy_tests() {
    mkdir "$work/tree"
    cp -R tests docs examples scripts wasm benchmarks pyproject.toml ./*.md LICENSE "$work/tree"
}

# Print the lowest version of each requirement as a constraint.
lowest_versions() {
    sed -nE 's/^ +"([A-Za-z0-9_-]+)(\[[a-z]+\])?>=([0-9.]+)[^0-9.].*$/\1==\3/p' pyproject.toml
}

# The quick examples come first, while nothing but the wheel's own requirements is there.
install_wheel() {
    local environment=$1 python=$2 constraints=$3
    local pip=("$environment/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints")
    "$python" -m venv "$environment" && "${pip[@]}" "$wheel[trio]" &&
        try_example "$environment" quickstart && try_example "$environment" trio_quickstart &&
        "${pip[@]}" "$wheel[test]"
}

try_example() {
    (cd "$work" && "$1/bin/python" -I -W error "$work/tree/examples/$2.py" >/dev/null)
}

# What tests compile goes where the checkout keeps it.
run_tests() {
    local environment=$1 share=$2
    shift 2
    cd "$work/tree"
    env -u PYTHONPATH CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}" \
        RAPSQLITE_INSTALLED_IN="$environment" RAPSQLITE_SHARE="$share" \
        "$environment/bin/python" -m pytest -p no:cacheprovider -m "not sources" "$@"
}

# test_on NAME PYTHON CONSTRAINTS SHARE [ARGUMENT...]; a share of 1/1 is everything.
test_on() {
    local name=$1 python=$2 constraints=$3 share=$4 environment=$work/$1
    shift 4
    say "$name: $python, share $share"
    # The input is the list of Pythons: what runs here must not read it.
    (install_wheel "$environment" "$python" "$constraints" && run_tests "$environment" "$share" "$@") </dev/null ||
        printf '%s ' "$name" >>"$work/failed"
    rm -rf "$environment"
}

# Start the whole suite on the Python of .venv, with its output in a file.
start_beside() {
    local name=$1 python=$2
    shift 2
    say "the whole suite on Python $name runs beside the others; its output follows theirs"
    set -m # a process group of its own: others in the background ignore Ctrl-C, which tests send
    test_on "$name" "$python" scripts/constraints.txt 1/1 "$@" >"$work/beside.log" 2>&1 &
    beside=$!
    set +m
}

end_beside() {
    wait "$beside" || printf '%s ' "$own" >>"$work/failed"
    beside=
    cat "$work/beside.log"
}

# Set share for the next environment.
take_share() {
    share=1/1
    [ -z "$is_shared" ] || share=$((taken++ % shares + 1))/$shares
}

main() {
    local own version python share taken=0 is_shared='' oldest=''
    [ "${1:-}" != --share ] || { is_shared=1; shift; }
    bash scripts/setup.sh
    build_wheel
    copy_tests
    pythons >"$work/pythons"
    lowest_versions >"$work/lowest.txt"
    own=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [ -z "$is_shared" ] || start_beside "$own" .venv/bin/python "$@"
    while read -r version python; do
        : "${oldest:=$python}"
        [ -z "$is_shared" ] || [ "$version" != "$own" ] || continue
        take_share
        test_on "$version" "$python" scripts/constraints.txt "$share" "$@"
    done <"$work/pythons"
    take_share
    test_on lowest "$oldest" "$work/lowest.txt" "$share" "$@"
    [ -z "$beside" ] || end_beside
    [ ! -e "$work/failed" ] || { printf 'error: failed on %s\n' "$(cat "$work/failed")" >&2; exit 1; }
    say "the wheel passed on Python $(cut -d' ' -f1 "$work/pythons" | tr '\n' ' ')and with the lowest versions"
}

main "$@"
