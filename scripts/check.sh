#!/usr/bin/env bash
# Checks everything that needs no test run: format, lint, types, spelling, generated files, Rust.
# Runs all of it even if something fails, and ends with the list of what did.
#
#   scripts/check.sh python    or rust: one half only
set -uo pipefail
cd "$(dirname "$0")/.."

readonly bin=.venv/bin
failed=()

say() { printf '==> %s\n' "$*"; }

run() {
    local name=$1
    shift
    say "$name"
    "$@" || failed+=("$name")
}

check_python() {
    local sources=(rapsqlite tests examples benchmarks scripts)
    run "ruff format" "$bin/ruff" format --check --quiet .
    run "ruff check" "$bin/ruff" check --quiet .
    run "mypy" "$bin/mypy" "${sources[@]}"
    run "pyright, the public types" "$bin/basedpyright" --pythonpath "$bin/python"
    run "pyright, completeness of the public types" "$bin/python" scripts/check_types.py
    run "generated constants" "$bin/python" scripts/generate_constants.py --check
    # SQL, a full-text prefix, a quoted type; checkin is a function of the engine.
    run "spelling" "$bin/codespell" --ignore-words-list iif,ther,doub,checkin --skip '*.wasm,*.pyc,*.inputs,*.svg,*_modules' \
        docs examples rapsqlite wasm/src mkdocs.yml README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md
}

# Debian's tools fit the compiler that Debian's toolchain builds the module with; elsewhere rustup's do.
find_rust() {
    if [ -x /usr/bin/cargo ] && [ -d /usr/lib/rustlib/src/rust/library/std ]; then
        if [ ! -x /usr/bin/cargo-clippy ] || [ ! -x /usr/bin/cargo-fmt ]; then
            [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
            say "installing rust-web-clippy and rustfmt-web with apt"
            apt-get install -y -qq --no-install-recommends rust-web-clippy rustfmt-web >/dev/null || return 1
        fi
        # Cargo looks for its tools in its own home first, unless PATH names that too: then PATH's order counts.
        PATH=/usr/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    else
        cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 || return 1
    fi
}

check_rust() {
    if ! find_rust; then
        say "no cargo with fmt and clippy: apt-get install rust-web-clippy rustfmt-web, or rustup component add them"
        failed+=("Rust tools")
        return
    fi
    say "Rust: $(cargo --version), $(cargo clippy --version)"
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
    run "cargo fmt" cargo fmt --manifest-path wasm/Cargo.toml --check
    run "cargo clippy, on this machine's target" \
        cargo clippy --quiet --locked --manifest-path wasm/Cargo.toml --all-targets -- -D warnings
    run "cargo clippy, on the module's target" bash scripts/build_wasm.sh --lint
    run "cargo test" cargo test --quiet --locked --manifest-path wasm/Cargo.toml
}

bash scripts/setup.sh || exit 1
case ${1:-all} in
    python) check_python ;;
    rust) check_rust ;;
    all) check_python; check_rust ;;
    *) say "unknown part: $1"; exit 2 ;;
esac

if [ ${#failed[@]} -gt 0 ]; then
    printf 'error: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
say "all checks passed"
