#!/usr/bin/env bash
# Makes a checkout ready to use: a virtual environment in .venv, the compiled module, and the package
# installed in place with everything tests and checks need. Run again, it does only what is out of date.
#
#   PYTHON=python3.12 scripts/setup.sh    another interpreter than the first python3 of 3.10 or newer
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if is_recent "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "installing $* with apt"
    apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { apt-get update -q >/dev/null && apt-get install -y --no-install-recommends "$@" >/dev/null; }
}

make_venv() {
    local python version
    if ! python=$(find_python); then
        apt_install python3 python3-venv || true
        python=$(find_python) || die "no Python 3.10 or newer found; install one, or name it: PYTHON=/path/to/python3"
    fi
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        # Debian keeps these two in a package of their own.
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt_install "python$version-venv" || die "$python cannot make virtual environments; install python$version-venv"
    fi
    say "making .venv with $("$python" --version) ($python)"
    rm -rf .venv
    "$python" -m venv .venv
}

# An environment breaks when its interpreter goes away, and is another's when PYTHON asks for that one.
venv_fits() {
    is_recent .venv/bin/python || return 1
    [ -z "${PYTHON:-}" ] || [ "$(.venv/bin/python --version)" = "$("$PYTHON" --version)" ]
}

install_package() {
    local stamp=.venv/installed inputs
    inputs=$(cat pyproject.toml scripts/constraints.txt scripts/setup.sh | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$inputs" ]; then
        say "package and tools are installed"
        return
    fi
    say "installing the package and its tools into .venv"
    # The backend goes first and into the environment itself, so that it is a pinned one too.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt hatchling
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt \
        --no-build-isolation --editable '.[dev]'
    printf '%s' "$inputs" >"$stamp"
}

venv_fits || make_venv
say "building the module (scripts/build_wasm.sh)"
bash scripts/build_wasm.sh
install_package
