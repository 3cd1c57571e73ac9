#!/usr/bin/env bash
# Runs the wheel on CPython 3.12 for Windows under Wine 10: the quick example, the doctor, and some tests. As root on
# Debian 12. Installs unzip and osslsigncode; everything else is in RAPSQLITE_PLATFORMS: Wine from Debian 13; Python,
# python.org's own build as the package QEnvPython312 carries it, by hash and signature; and wheels for Windows.
#
#   scripts/platforms/windows.sh                     a subset that takes some minutes
#   scripts/platforms/windows.sh --all               everything but Trio, which takes long; some tests need POSIX
#   scripts/platforms/windows.sh tests/vfs -k lock   other arguments for pytest
#
# Trio does not run under Wine, so its tests are left out; so is one that makes a thousand nested directories, which
# takes a minute there.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/platforms/debian_root.sh
source scripts/platforms/debian_root.sh

root=$platforms/trixie-amd64-wine
win=$root/win
# Values, connections, files shared with native SQLite while both run, names, the event loops with Ctrl-C, guests that are
# killed, and interpreters that exit.
subset=(tests/statements/test_values.py tests/compat/test_values.py tests/statements/test_cursor.py
    tests/connection/test_connection.py tests/transactions/test_transactions.py
    tests/vfs/test_{names_of_windows,files_of_windows,names,databases,uris,facts,locks,kept_locks,wal}.py
    tests/vfs/test_processes.py::test_mixed_writers_lose_nothing
    tests/vfs/test_processes.py::test_killed_writers_leave_whole_transactions
    tests/processes/test_{asyncio_loops,interpreter_exit}.py tests/guest/test_safepoints.py)
all=(tests/blobs tests/callbacks tests/cancellation tests/connection tests/copies tests/guest tests/pool tests/processes
    tests/sessions tests/statements tests/transactions tests/vfs tests/compat/test_values.py)
[ $# -eq 0 ] || subset=("$@")
[ "${1:-}" != --all ] || subset=("${all[@]}" "${@:2}")

# Whether the two digests of the file agree, and the signer is the one. Whether the certificate was valid when
# it signed could only be verified with revocation lists from the network; the pinned hash makes up for it.
is_signed() {
    local report
    report=$(osslsigncode verify -in "$1" 2>&1 || true)
    [ "$(sed -n 's/^Current message digest *: *//p' <<<"$report")" = \
        "$(sed -n 's/^Calculated message digest *: *//p' <<<"$report")" ] &&
        grep -q 'CN=Python Software Foundation' <<<"$report"
}

# What Debian's package of Wine does when it is configured: mark another package's library as one of Wine's own.
mark_zlib() {
    local from=$root/usr/x86_64-w64-mingw32/lib/zlib1.dll to=$root/usr/lib/x86_64-linux-gnu/wine/x86_64-windows/zlib1.dll
    { head -c 64 "$from"; printf 'Wine builtin DLL'; head -c 16 /dev/zero; tail -c +97 "$from"; } >"$to"
}

install_python() {
    local wanted=QEnvPython312==3.12.0 file
    local hash=4cc840cf01084a52ba04ceed5fffcc711e1999e8119763029fb922c9ec6a1128
    [ "$(cat "$win/python/installed" 2>/dev/null)" != "$wanted" ] || return 0
    say "fetching Python for Windows"
    rm -f "$win/python/installed"
    rm -rf "$win"
    mkdir -p "$win"
    printf '%s --hash=sha256:%s\n' "$wanted" "$hash" >"$win/pinned.txt"
    fetch_wheels "$wanted" download --no-deps --require-hashes -r "$win/pinned.txt" -d "$win"
    unzip -qo "$win"/QEnvPython312-*.whl 'QPT_SDK/QEnvPython/python312/*' -d "$win"
    for file in python.exe python312.dll _ctypes.pyd sqlite3.dll; do
        is_signed "$win/QPT_SDK/QEnvPython/python312/$file" || die "$file is not signed by the Python Software Foundation"
    done
    mv "$win/QPT_SDK/QEnvPython/python312" "$win/python"
    rm -r "$win"/QEnvPython312-*.whl "$win/QPT_SDK"
    printf 'python312.zip\r\n.\r\n..\\site\r\n..\\checkout\r\nimport site\r\n' >"$win/python/python312._pth"
    printf '%s' "$wanted" >"$win/python/installed"
}

in_wine() {
    chroot "$root" env -i PATH=/usr/lib/wine:/usr/bin:/bin HOME=/root LANG=C.UTF-8 XDG_RUNTIME_DIR=/tmp \
        WINEPREFIX=/opt/wine WINEDEBUG=-all RAPSQLITE_SLOWNESS=10 "$@"
}
# Python needs pipes as its standard streams, and the server must not inherit them. Nothing waits for the end of the
# pipe, which a process that a failed test has left may hold.
run() { in_wine sh -c 'cd /win/checkout && exec wine64 /win/python/python.exe "$@"' sh "$@" </dev/null > >(cat) 2>&1; }
# The server stays until the script ends, and with it the processes that every new one needs.
start_wine() {
    local prefix=$root/opt/wine
    [ -e "$prefix/made" ] || rm -rf "$prefix"
    root=$root setsid bash -c 'in_wine sh -c "wineserver -p600; wine64 cmd /c exit"' </dev/null >/dev/null 2>&1
    [ -e "$prefix/made" ] || { in_wine wineserver -k && in_wine wineserver -w && touch "$prefix/made" && start_wine; }
}
export -f in_wine
# End everything there that has the pipe of "run", and wait until what is in it has been printed.
leave() {
    in_wine wineserver -k >/dev/null 2>&1 || true
    wait
}

bash scripts/setup.sh
set_up
apt_install unzip osslsigncode
make_root trixie amd64 "$root" wine64 libwine ca-certificates
mark_zlib
install_python
build_wheel
# The last three: what pip would add on Windows.
install_wheel "$win/site" 3.12 win_amd64 pytest pytest-timeout pytest-randomly pytest-asyncio aiosqlite \
    colorama cffi pycparser
copy_checkout "$win/checkout"
# What tests that failed have left, which pytest would remove.
rm -rf "$root"/opt/wine/drive_c/users/*/AppData/Local/Temp/pytest-of-*
enter_root "$root"
say "starting Wine"
start_wine
ready run -c pass
trap leave EXIT
say "running the quick example and the doctor"
run -I -W error examples/quickstart.py
run -m rapsqlite doctor
say "running the tests"
run -m pytest -p no:cacheprovider --timeout-method=thread -o faulthandler_timeout=0 \
    --durations 5 -m "not sources" -k "not trio and not thousand_nested" \
    "${subset[@]}"
say "done"
