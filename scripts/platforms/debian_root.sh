# Sourced by the scripts in this folder: makes a root with packages of another Debian or processor, to chroot into.
# The machine's own apt is not changed, and no program of the new root runs while it is made: apt fetches and verifies
# the packages with a separate configuration, and they are unpacked.
# shellcheck shell=bash

readonly platforms=${RAPSQLITE_PLATFORMS:-/var/cache/rapsqlite-platforms} # kept between runs: roots and packages

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Install missing Debian packages on this machine, and say so.
apt_install() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "install these packages first: ${missing[*]}"
    say "installing ${missing[*]} with apt"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# Print the address of the Debian archive that this machine uses.
archive() {
    apt-cache policy | grep -oE 'https?://[^ ]+/debian ' | head -n 1 | tr -d ' ' | grep . ||
        die "this machine's apt knows no Debian archive"
}

# apt_for SUITE ARCHITECTURE COMMAND...: apt-get on another suite and processor, as if nothing were installed.
apt_for() {
    local suite=$1 architecture=$2 home=$platforms/apt-$1-$2
    shift 2
    mkdir -p "$home"/{lists,cache/archives}/partial
    : >"$home/status"
    printf 'deb%s [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        '' "$(archive)" "$suite" -src "$(archive)" "$suite" >"$home/sources.list"
    apt-get -q -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o Dir::Cache="$home/cache" \
        -o Dir::Etc::SourceList="$home/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$home/lists" \
        -o Dir::State::Status="$home/status" -o APT::Install-Recommends=false -o Acquire::Languages=none \
        -o APT::Sandbox::User=root "$@"
}

# make_root SUITE ARCHITECTURE FOLDER PACKAGE...: unpack the packages and what they need, unless they are there.
make_root() {
    local suite=$1 architecture=$2 root=$3 package folder
    shift 3
    [ "$(cat "$root/packages" 2>/dev/null)" != "$*" ] || return 0
    say "unpacking Debian $suite for $architecture into $root: $*"
    apt_for "$suite" "$architecture" update >/dev/null
    apt_for "$suite" "$architecture" clean
    apt_for "$suite" "$architecture" install -y --download-only base-files bash coreutils dash sed grep "$@" >/dev/null
    leave_root "$root"
    rm -rf "$root"
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{proc,dev,tmp,root}
    for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
    for package in "$platforms/apt-$suite-$architecture"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
    done
    apt_for "$suite" "$architecture" clean
    chmod 1777 "$root/tmp"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\n' >"$root/etc/group"
    printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
    printf '%s' "$*" >"$root/packages"
}

enter_root() {
    mountpoint -q "$1/proc" || mount -t proc proc "$1/proc"
    mountpoint -q "$1/dev" || mount --rbind /dev "$1/dev"
}

leave_root() {
    local place
    for place in "$1/proc" "$1/dev"; do
        ! mountpoint -q "$place" || umount -R -l "$place"
    done
}

# install_wheel ROOT PYTHON_VERSION PROCESSOR EXTRA...: this checkout's wheel with what it and its tests need, by this
# machine's pip: nothing is compiled, and nothing of the new root runs.
install_wheel() {
    local root=$1 version=$2 processor=$3 built=$platforms/dist each
    local target=$root/usr/local/lib/python$version/dist-packages
    shift 3
    say "building the wheel"
    rm -rf "$built" "$root"/usr/local/lib/python"$version"/dist-packages/rapsqlite*
    .venv/bin/python -m build --wheel --no-isolation --outdir "$built" . >/dev/null
    local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --upgrade
        --only-binary :all: --implementation cp --python-version "$version" --target "$target"
        -c scripts/constraints.txt)
    for each in manylinux2014 manylinux_2_17 manylinux_2_24 manylinux_2_28; do pip+=(--platform "${each}_$processor"); done
    say "fetching wheels for Python $version on $processor into $target"
    "${pip[@]}" "$(echo "$built"/*.whl)[trio]" "$@"
    rm -rf "$root/checkout"
    mkdir "$root/checkout"
    cp -R tests docs examples scripts wasm benchmarks pyproject.toml ./*.md LICENSE "$root/checkout"
}

# in_root ROOT COMMAND...: run it there, in the copy of the checkout.
in_root() {
    local root=$1
    shift
    chroot "$root" env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
        sh -c 'cd /checkout && exec "$@"' sh "$@"
}
