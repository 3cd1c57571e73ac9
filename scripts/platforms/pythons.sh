#!/usr/bin/env bash
# Runs the wheel on CPython 3.14 of Debian's testing release: the quick examples, the doctor, and some tests. As root on
# Debian 12. Installs nothing on this machine: the other Debian is in RAPSQLITE_PLATFORMS.
#
#   scripts/platforms/pythons.sh                      a subset that takes some minutes
#   scripts/platforms/pythons.sh -m "not sources"     other arguments for pytest, here the whole suite
#   PYTHON=3.15 scripts/platforms/pythons.sh          another version that testing has
#
# PYTHONS="/path/to/python3.14t" scripts/test_wheel.sh tests a free-threaded one.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/platforms/debian_root.sh
source scripts/platforms/debian_root.sh

version=${PYTHON:-3.14}
root=$platforms/forky-amd64-$version
subset=(tests/connection/test_{connection,concurrency,many_threads,memory_of_connections,service,unsupported_machines}.py
    tests/guest/test_{bell,callbacks,memory_order,parking,processors,rings,safepoints}.py tests/statements/test_{rows,values}.py)
[ $# -eq 0 ] || subset=("$@")

bash scripts/setup.sh
set_up
make_root forky amd64 "$root" "python$version" "libpython$version-stdlib" ca-certificates media-types tzdata procps \
    libstdc++6 util-linux mount
build_wheel
install_wheel "$root/usr/local/lib/python$version/dist-packages" "$version" "$(manylinux x86_64)" uvloop pytest pytest-timeout pytest-randomly pytest-asyncio \
    aiosqlite 'sqlalchemy[asyncio]' alembic pydantic attrs
copy_checkout "$root/checkout"
enter_root "$root"
ready in_root "$root" "python$version" -c pass
for example in quickstart trio_quickstart; do in_root "$root" "python$version" -I -W error "examples/$example.py"; done
in_root "$root" "python$version" -m rapsqlite doctor
in_root "$root" "python$version" -m pytest -p no:cacheprovider --durations 5 -m "not sources" "${subset[@]}"
