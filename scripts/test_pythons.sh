#!/usr/bin/env bash
# Runs CPython's tests of sqlite3, those of the Python that runs and ours that make the same claims, on every Python >= 3.10
# found but the one in .venv, which scripts/test.sh tests. Environments stay in target/pythons for the next time.
#
#   scripts/test_pythons.sh tests/copies/test_dump.py -k filter     other tests
#   PYTHONS="/opt/python3.14" scripts/test_pythons.sh        other Pythons besides those on PATH and pyenv's
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/pythons.sh
. scripts/pythons.sh

environments=$PWD/target/pythons
failed=()

say() { printf '==> %s\n' "$*"; }

# As scripts/setup.sh installs the package, without what only checks need.
install_package() {
    local environment=$1 python=$2 inputs
    inputs=$(cat pyproject.toml scripts/constraints.txt | sha256sum)
    [ "$(cat "$environment/installed" 2>/dev/null)" != "$inputs" ] || return 0
    say "installing the package and pytest into $environment"
    rm -rf "$environment"
    "$python" -m venv "$environment"
    local pip=("$environment/bin/python" -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt)
    "${pip[@]}" hatchling
    "${pip[@]}" --no-build-isolation --editable '.[test]'
    printf '%s' "$inputs" >"$environment/installed"
}

main() {
    local version python tests=("$@") own
    [ ${#tests[@]} -gt 0 ] ||
        tests=(tests/compat/cpython tests/compat/test_cpython_suite.py tests/compat/test_cpython_inventory.py)
    bash scripts/setup.sh
    own=$(.venv/bin/python -c 'import platform; print(platform.python_version())')
    # shellcheck disable=SC2086 # several paths
    while read -r version python; do
        [ "$version" != "$own" ] || continue
        say "Python $version ($python)"
        install_package "$environments/$version" "$python"
        # The loop's own input must not be eaten by what it runs.
        "$environments/$version/bin/python" -m pytest -p no:cacheprovider "${tests[@]}" </dev/null || failed+=("$version")
    done < <(pythons ${PYTHONS:-})
    [ ${#failed[@]} -eq 0 ] || { printf 'error: failed on Python %s\n' "${failed[*]}" >&2; exit 1; }
}

main "$@"
