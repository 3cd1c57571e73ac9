# Sourced by the scripts in this folder: makes a root with packages of another Debian or processor, to chroot into.
# The machine's own apt is not changed, and no program of the new root runs while it is made: apt fetches and verifies
# the packages with a separate configuration, and they are unpacked.
# shellcheck shell=bash

# What is kept between runs: roots and packages.
platforms=$(realpath -m "${RAPSQLITE_PLATFORMS:-/var/cache/rapsqlite-platforms}")
readonly platforms
readonly needed_mb=4000 # the three roots take 3 300
is_fault=

say() { printf '==> %s (%d s so far)\n' "$*" "$SECONDS"; }
die() { printf 'error: %s\n' "$*" >&2; is_fault=1; exit 1; }
# Not an error of this project: .ci/run goes on after exit code 75.
unsuitable() { printf 'nothing was tested: %s\n' "$*" >&2; exit 75; }
unreachable() { unsuitable "$* cannot be fetched"; }

# In namespaces of its own, which end with the script, however it ends: no process and no mount outlives it.
readonly namespaces=(unshare --mount --pid --fork --kill-child --mount-proc)
if [ $$ != 1 ]; then
    if [ "$(id -u)" != 0 ] || ! "${namespaces[@]}" true 2>/dev/null; then
        unsuitable "this needs root, and the right to mount file systems"
    fi
    exec "${namespaces[@]}" bash "scripts/platforms/${0##*/}" "$@"
fi

# set_up: from here on, what fails is the machine's or a mirror's fault. One script at a time: they share what is kept.
set_up() {
    local free used
    trap end_set_up EXIT
    mkdir -p "$platforms"
    exec 8>"$platforms/lock"
    flock -w 1200 8 || unsuitable "another run has used $platforms for 20 minutes"
    free=$(df --output=avail -BM "$platforms" | tail -n 1 | tr -dc 0-9)
    used=$(du -sm "$platforms" | cut -f 1)
    [ $((free + used)) -ge $needed_mb ] && [ "$free" -ge 500 ] ||
        unsuitable "$platforms needs $needed_mb MB, of which it has $used; $free are free"
}

end_set_up() {
    local code=$?
    [ $code = 0 ] || [ $code = 75 ] || [ -n "$is_fault" ] || unsuitable "this machine could not be set up"
}

# ready COMMAND...: if this does nothing without failing, what fails from here on is this project's.
ready() {
    "$@" || unsuitable "this machine cannot run it"
    trap - EXIT
}

# limited COMMAND...: a mirror that is too slow is like one that is unreachable.
limited() { timeout --foreground 400 "$@"; }

# Install missing Debian packages on this machine, and say so.
apt_install() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]} with apt"
    limited apt-get update -q >/dev/null || unreachable "${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null ||
        unreachable "${missing[*]}"
}

# Print the address of the Debian archive that this machine uses.
archive() {
    apt-cache policy | grep -oE 'https?://[^ ]+/debian ' | head -n 1 | tr -d ' ' | grep . ||
        unsuitable "this machine's apt knows no Debian archive"
}

# apt_for SUITE ARCHITECTURE COMMAND...: apt-get on another suite and processor, as if nothing were installed.
apt_for() {
    local suite=$1 architecture=$2 home=$platforms/apt-$1-$2 address
    shift 2
    address=$(archive)
    mkdir -p "$home"/{lists,cache/archives}/partial
    : >"$home/status"
    printf 'deb%s [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        '' "$address" "$suite" -src "$address" "$suite" >"$home/sources.list"
    limited apt-get -q -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o Dir::Cache="$home/cache" \
        -o Dir::Etc::SourceList="$home/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$home/lists" \
        -o Dir::State::Status="$home/status" -o APT::Install-Recommends=false -o Acquire::Languages=none \
        -o APT::Sandbox::User=root "$@"
}

# make_root SUITE ARCHITECTURE FOLDER PACKAGE...: unpack the packages and what they need, unless they are there.
make_root() {
    local suite=$1 architecture=$2 root=$3 package folder
    shift 3
    [ "$(cat "$root/packages" 2>/dev/null)" != "libc-bin $*" ] || return 0
    say "unpacking Debian $suite for $architecture into $root: $*"
    apt_for "$suite" "$architecture" -o APT::Update::Error-Mode=any update >/dev/null || unreachable "Debian $suite"
    apt_for "$suite" "$architecture" clean
    apt_for "$suite" "$architecture" install -y --download-only base-files bash coreutils dash sed grep libc-bin "$@" \
        >/dev/null || unreachable "Debian $suite"
    rm -f "$root/packages" # first: what is only half removed or unpacked must not look whole
    rm -rf --one-file-system "$root"
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{proc,sys,dev,tmp,root,opt}
    for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
    for package in "$platforms/apt-$suite-$architecture"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
    done
    apt_for "$suite" "$architecture" clean
    chmod 1777 "$root/tmp"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\n' >"$root/etc/group"
    printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
    printf '%s' "libc-bin $*" >"$root/packages"
}

# A mount of the root's /proc and /dev ends with the script's namespace.
enter_root() {
    mount -t proc proc "$1/proc"
    mount -t sysfs -o ro sysfs "$1/sys"
    mount --rbind /dev "$1/dev"
}

# fetch_wheels WHAT ARGUMENT...: run pip. It is an error if an index that can be reached, which a package that everyone has
# tells, has no such wheel, or one with another hash.
fetch_wheels() {
    local pip=(limited .venv/bin/python -m pip --quiet --disable-pip-version-check --no-cache-dir) log=$platforms/pip.log what=$1
    shift
    rm -rf "$platforms/probe"
    "${pip[@]}" "$@" 2>&1 | tee "$log" && return
    if ! grep -qE 'No matching distribution|ResolutionImpossible|DO NOT MATCH THE HASHES' "$log" ||
        ! "${pip[@]}" download --no-deps -d "$platforms/probe" pip >/dev/null 2>&1; then
        unreachable "$what"
    fi
    die "the index has no $what as pinned"
}

# build_wheel: build this checkout's wheel, and set "wheel" to its path.
build_wheel() {
    say "building the wheel"
    rm -rf "$platforms/dist"
    .venv/bin/python -m build --wheel --no-isolation --outdir "$platforms/dist" . >/dev/null || die "it cannot be built"
    wheel=$(echo "$platforms"/dist/*.whl)
}

# install_wheel TARGET PYTHON_VERSION "PLATFORM..." EXTRA...: the wheel with what it and its tests need, by this machine's
# pip: nothing is compiled, and nothing of the new root runs. What the wheel needs stays if it is what it was.
install_wheel() {
    local target=$1 version=$2 platform options wanted
    options=(--no-compile --root-user-action ignore --only-binary :all: --implementation cp --python-version "$version"
        --target "$target" -c scripts/constraints.txt)
    for platform in $3; do options+=(--platform "$platform"); done
    shift 3
    wanted=$(printf '%s ' "$@" | cat - pyproject.toml scripts/constraints.txt | sha256sum)
    if [ "$(cat "$target/installed" 2>/dev/null)" != "$wanted" ]; then
        say "fetching wheels for Python $version into $target"
        rm -f "$target/installed"
        rm -rf "$target"
        fetch_wheels "wheels for Python $version" install "${options[@]}" "${wheel}[trio]" "$@"
        printf '%s' "$wanted" >"$target/installed"
    fi
    rm -rf "$target"/rapsqlite*
    .venv/bin/python -m zipfile -e "$wheel" "$target"
}

# copy_checkout FOLDER: everything that tests read, except the package.
copy_checkout() {
    rm -rf "$1"
    mkdir -p "$1"
    cp -R tests docs examples scripts wasm benchmarks pyproject.toml ./*.md LICENSE "$1"
}

# Print pip's names for the platforms of a processor on which glibc's wheels run.
manylinux() { printf "%s_$1 " manylinux2014 manylinux_2_17 manylinux_2_24 manylinux_2_28; }

# in_root ROOT COMMAND...: run it there, in the copy of the checkout.
in_root() {
    local root=$1
    shift
    chroot "$root" env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 RAPSQLITE_SLOWNESS=10 \
        sh -c 'cd /checkout && exec "$@"' sh "$@"
}
