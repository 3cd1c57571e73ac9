#!/usr/bin/env bash
# Builds the documentation site into target/site. Its tools have an environment of their own, .venv-docs, made when
# needed. A broken link, a page outside the navigation or an unknown name ends the build with an error.
#
#   scripts/docs.sh serve      build, then show the site at http://127.0.0.1:8000, and build again when a page changes
#   scripts/docs.sh browser    install the Chromium that tests/project/test_site_in_browser.py opens the site with
set -euo pipefail
cd "$(dirname "$0")/.."

install_browser() {
    chromium --version 2>/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        printf '==> installing chromium with apt\n'
        timeout 300 apt-get install -y --no-install-recommends chromium >/dev/null 2>&1 ||
            { timeout 100 apt-get update -q >/dev/null && timeout 300 apt-get install -y --no-install-recommends chromium >/dev/null; } || true
    fi
    chromium --version 2>/dev/null || { printf 'error: no chromium that starts: install one\n' >&2; return 1; }
}

if [ "${1:-build}" = browser ]; then
    install_browser
    exit
fi

readonly venv=.venv-docs constraints=scripts/docs_constraints.txt
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
inputs=$(cat "$constraints" scripts/docs.sh | sha256sum)
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$inputs" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    printf '==> installing MkDocs into %s\n' "$venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" \
        mkdocs-material 'mkdocstrings[python]' ruff
    printf '%s' "$inputs" >"$venv/installed"
fi
export NO_MKDOCS_2_WARNING=1 # Zensical, its successor, reads the same mkdocs.yml
case ${1:-build} in
    build) exec "$venv/bin/python" -m mkdocs build --clean --strict ;;
    serve) exec "$venv/bin/python" -m mkdocs serve ;;
    *) printf 'error: unknown command: %s\n' "$1" >&2; exit 2 ;;
esac
