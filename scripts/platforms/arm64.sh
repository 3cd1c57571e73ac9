#!/usr/bin/env bash
# Runs the wheel on Linux arm64 under qemu: the quick examples, the doctor, and some tests. As root on Debian 12.
# Installs qemu-user-static, and registers it for arm64 programs; everything else is in RAPSQLITE_PLATFORMS.
#
#   scripts/platforms/arm64.sh                       a subset that takes some minutes
#   scripts/platforms/arm64.sh tests/vfs -k lock     other arguments for pytest
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/platforms/debian_root.sh
source scripts/platforms/debian_root.sh

root=$platforms/bookworm-arm64
readonly register=/proc/sys/fs/binfmt_misc
# What the order of memory accesses, mappings and locks depend on. Timings under emulation say nothing.
subset=(tests/connection/test_many_threads.py tests/connection/test_unsupported_machines.py
    tests/guest/test_memory_order.py tests/guest/test_parking.py tests/guest/test_rings.py tests/guest/test_safepoints.py
    tests/statements/test_rows.py tests/statements/test_values.py
    tests/vfs/test_processes.py::test_mixed_writers_lose_nothing
    tests/vfs/test_processes.py::test_killed_writers_leave_whole_transactions)
[ $# -eq 0 ] || subset=("$@")

bash scripts/setup.sh
set_up
apt_install qemu-user-static
[ -e "$register/register" ] || mount -t binfmt_misc none "$register"
# Of the program's head: 64 bits, little-endian, arm64. F: the emulator is opened now, so the root needs no copy.
[ -e "$register/qemu-aarch64" ] || printf '%s' ':qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F' >"$register/register"
make_root bookworm arm64 "$root" python3 libpython3-stdlib ca-certificates media-types tzdata procps libstdc++6 \
    util-linux mount
build_wheel
install_wheel "$root/usr/local/lib/python3.11/dist-packages" 3.11 "$(manylinux aarch64)" uvloop pytest pytest-timeout pytest-randomly pytest-asyncio aiosqlite
copy_checkout "$root/checkout"
enter_root "$root"
ready in_root "$root" python3 -c pass
for example in quickstart trio_quickstart; do in_root "$root" python3 -I -W error "examples/$example.py"; done
in_root "$root" python3 -m rapsqlite doctor
in_root "$root" python3 -m pytest -p no:cacheprovider --durations 5 -m "not sources" "${subset[@]}"
