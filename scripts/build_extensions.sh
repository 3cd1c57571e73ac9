#!/usr/bin/env bash
# Builds rapsqlite/extension_modules/*.wasm: extensions of SQLite's own, each as a WebAssembly side module that
# load_extension() finds by its name. scripts/build_wasm.sh calls this once the engine is built.
#
#   scripts/build_extensions.sh            build if an input or the compiler changed since the last time
#   scripts/build_extensions.sh --force    build in any case
#
# Their source is SQLite's source archive as Debian has it, checked against the digest below. It comes from the Debian
# mirror that this machine's apt knows, without changing apt's own lists; elsewhere, download the file and name it:
#
#   RAPSQLITE_SQLITE_SOURCE=/path/to/sqlite3_3.40.1.orig.tar.xz
#
# Where there is neither, the engine is complete all the same, and load_extension() says that these are missing. Modules of
# an earlier build that do not belong to these inputs are removed in any case: better none than others.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
own=$root/wasm/extensions
output=$root/rapsqlite/extension_modules
stamp=$output/inputs
work=${CARGO_TARGET_DIR:-$root/target}/extensions

version=3.40.1
archive=sqlite3_$version.orig.tar.xz
digest=aaa776260ab4dc976db34aa7891819484c8676b5b2783123ebc6301e2ca5d655
release=bookworm

# The name to load it by, and the file under ext/misc.
extensions=(csv:csv decimal:decimal regexp:regexp series:series sha3:shathree spellfix:spellfix uuid:uuid)

say() { printf 'build_extensions: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# What the stamp holds: a digest of the inputs, the compiler, and the digests of all modules.
inputs_digest() {
  (cd "$root" && sha256sum scripts/build_extensions.sh wasm/Cargo.lock wasm/extensions/*) | sha256sum | cut -d' ' -f1
}

compiler_name() { "$compiler" --version | head -n 1; }

modules_digests() { (cd "$output" && LC_ALL=C sha256sum -- *.wasm); }

# is_current INPUTS: whether the modules are those that would be built. Without a compiler the one that built them will do.
is_current() {
  [ "$(sed -n 1p "$stamp" 2>/dev/null)" = "$1" ] || return 1
  ! choose_compiler || [ "$(sed -n 2p "$stamp")" = "$(compiler_name)" ] || return 1
  [ "$(sed 1,2d "$stamp")" = "$(modules_digests 2>/dev/null)" ]
}

is_ours() { [ -s "$1" ] && printf '%s  %s\n' "$digest" "$1" | sha256sum --check --status; }

# apt with lists and a cache of its own, so that neither root nor a deb-src line is needed.
fetch_with_apt() {
  local apt=$work/apt mirror
  command -v apt-get >/dev/null || return 1
  # shellcheck disable=SC2016 # apt fills these in
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' \
    | awk -v release=$release '$2 == release { print $1; exit }')
  [ -n "$mirror" ] || return 1
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  echo "deb-src $mirror $release main" >"$apt/sources.list"
  local options=(
    -q -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status=/dev/null
    -o Dir::Cache="$apt/cache" -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=-
    -o APT::Sandbox::User= -o Acquire::Retries=3
  )
  apt-get "${options[@]}" update >&2
  (cd "$work" && apt-get "${options[@]}" source --download-only --tar-only sqlite3 >&2)
}

# Leaves the archive at $work/$archive.
fetch() {
  mkdir -p "$work"
  if [ -n "${RAPSQLITE_SQLITE_SOURCE:-}" ]; then
    is_ours "$RAPSQLITE_SQLITE_SOURCE" || die "$RAPSQLITE_SQLITE_SOURCE is not the $archive that is wanted: its SHA-256 differs"
    cp "$RAPSQLITE_SQLITE_SOURCE" "$work/$archive"
  elif ! is_ours "$work/$archive"; then
    fetch_with_apt || return 1
    is_ours "$work/$archive" || die "$archive was downloaded, but is not the one that is wanted: its SHA-256 differs"
  fi
}

# Sets the compiler and its flags: the one that build_wasm.sh takes for the same machine.
choose_compiler() {
  flags=(--target=wasm32-wasip1)
  if [ -n "${WASI_SDK_PATH:-}" ] && [ "${RAPSQLITE_TOOLCHAIN:-sdk}" = sdk ]; then
    compiler=$WASI_SDK_PATH/bin/clang
    flags+=(--sysroot="$WASI_SDK_PATH/share/wasi-sysroot")
  else
    compiler=clang-22
    flags+=(-nostdlibinc -isystem /usr/include/wasm32-wasi)
  fi
  command -v "$compiler" >/dev/null
}

# The directory with the header files of the very SQLite that the engine is made of.
headers() {
  local crate
  crate=libsqlite3-sys-$(sed -n '/^name = "libsqlite3-sys"/{n;s/version = "\(.*\)"/\1/p}' "$root/wasm/Cargo.lock")
  find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -path "*/$crate/sqlite3/sqlite3ext.h" -printf '%h\n' -quit
}

# build NAME FILE INTO: one side module.
build() {
  local name=$1 source=$work/misc/$2.c more=()
  # Built in a directory of their own and under relative names, so that the same sources give the same bytes anywhere.
  case $name in
    csv) more=(-include sqlite3ext.h -include stdio.h -include "$own/files.h" "$own/files.c") ;;
    sha3) more=(-Dsqlite3_shathree_init=sqlite3_sha3_init) ;; # SQLite makes the entry point's name from the module's
  esac
  "$compiler" "${flags[@]}" -O2 -mbulk-memory -DNDEBUG -fPIC -fvisibility=hidden -shared -nostdlib \
    -include "$own/prelude.h" -I "$include" -I "$own" -ffile-prefix-map="$work"=sqlite -ffile-prefix-map="$own"=extensions \
    -Wl,--no-entry -Wl,--strip-all -Wl,--unresolved-symbols=import-dynamic -Wl,--export="sqlite3_${name}_init" \
    "$source" "${more[@]}" -o "$3" 2>"$work/$name.log" || { cat "$work/$name.log" >&2; die "$name cannot be built"; }
}

main() {
  local inputs extension built=$work/built include compiler flags
  inputs=$(inputs_digest)
  if [ "${1:-}" != --force ] && is_current "$inputs"; then
    exit 0
  fi
  rm -rf "$output"
  if ! choose_compiler; then
    say "no clang with a WASI C library (see scripts/build_wasm.sh): the extensions are left out"
    exit 0
  fi
  if ! fetch; then
    say "SQLite's source archive cannot be had: apt knows no mirror of Debian's $release. The extensions are left out;"
    say "to have them, download $archive and set RAPSQLITE_SQLITE_SOURCE to its path"
    exit 0
  fi
  include=$(headers)
  [ -n "$include" ] || die "the crate libsqlite3-sys is not in cargo's registry: run scripts/build_wasm.sh, which fetches it"
  mkdir -p "$work/misc" "$built" "$output"
  tar -xJf "$work/$archive" -C "$work/misc" --strip-components=3 "sqlite3-$version/ext/misc"
  for extension in "${extensions[@]}"; do
    build "${extension%:*}" "${extension#*:}" "$built/${extension%:*}.wasm"
  done
  for extension in "${extensions[@]}"; do
    chmod 644 "$built/${extension%:*}.wasm"
    mv "$built/${extension%:*}.wasm" "$output/"
  done
  printf '%s\n' "$inputs" "$(compiler_name)" "$(modules_digests)" >"$stamp"
  say "built ${extensions[*]%:*}"
}

main "$@"
