#!/usr/bin/env bash
# Builds rapsqlite/engine.wasm: SQLite and the crate in wasm/, linked into one WASI reactor module. Then it has
# scripts/build_extensions.sh build the extensions that go with it.
#
#   scripts/build_wasm.sh            build if an input or the toolchain changed since the last time
#   scripts/build_wasm.sh --force    build in any case
#   scripts/build_wasm.sh --lint     build nothing; run clippy on what is compiled for wasm only
#   scripts/build_wasm.sh --sqlite-options    build nothing; print SQLite's compile-time options
#   scripts/build_wasm.sh --toolchain         build nothing; print what the stamp says of the toolchain
#
# The toolchain is the first of these that is complete (RAPSQLITE_TOOLCHAIN=debian|sdk|zig picks one):
#   debian   Debian's packages, installed here if this is Debian and the user is root
#   sdk      rustup's wasm32-wasip1 target, rust-src, and a WASI SDK in WASI_SDK_PATH
#   zig      the same Rust, with the C compiler of the PyPI package ziglang
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
crate=$root/wasm
output=$root/rapsqlite/engine.wasm
stamp=$root/rapsqlite/engine.wasm.inputs
target=wasm32-wasip1
target_dir=${CARGO_TARGET_DIR:-$root/target}
size_limit=2500000
debian_packages=(clang-22 lld-22 llvm-22 libclang-rt-22-dev-wasm32 wasi-libc rustc-web cargo-web rust-web-src)

say() { printf 'build_wasm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# SQLite's compile-time options: https://sqlite.org/compileopt.html. libsqlite3-sys puts them behind its own,
# so that a -U here takes one of those back.
sqlite_options=(
  -DSQLITE_OS_OTHER=1                   # files are src/vfs
  -DSQLITE_THREADSAFE=0                 # one instance, one thread
  -DSQLITE_DEFAULT_MEMSTATUS=0          # nobody asks for malloc counters; they cost at every call
  -DSQLITE_DEFAULT_LOOKASIDE=1200,6     # of 100: a connection touches all of it when it opens; SQL is slower without any
  -DSQLITE_DEFAULT_PCACHE_INITSZ=0      # no slots for twenty pages before the first is read
  -DSQLITE_TEMP_STORE=1                 # temporary tables in files unless asked otherwise, as stock SQLite
  -DSQLITE_MAX_MMAP_SIZE=0              # windows live below the VFS; xFetch has no use here
  -DSQLITE_OMIT_GET_TABLE               # only extensions could call it: 2 KB
  -DSQLITE_OMIT_SHARED_CACHE            # an instance holds one connection: nothing to share
  -USQLITE_ENABLE_LOAD_EXTENSION        # it would allow loading from the start; it can be allowed without
  -USQLITE_USE_URI -DSQLITE_USE_URI=0   # URIs only where the caller asks with SQLITE_OPEN_URI
  -DSQLITE_DEFAULT_FOREIGN_KEYS=0       # SQLite's default, not libsqlite3-sys's
  -USQLITE_ENABLE_API_ARMOR             # Rust's types do that work
  -DSQLITE_ENABLE_FTS3                  # for databases that have such tables; FTS5 is better
  -DSQLITE_ENABLE_FTS4                  # changes nothing but PRAGMA compile_options, where programs look for it
  -DSQLITE_ENABLE_FTS3_PARENTHESIS      # the query syntax of Debian's and macOS's SQLite: AND, OR, NOT, parentheses
  -DSQLITE_ENABLE_FTS5
  -DSQLITE_ENABLE_RTREE
  -DSQLITE_ENABLE_GEOPOLY
  -DSQLITE_ENABLE_MATH_FUNCTIONS
  -DSQLITE_ENABLE_STAT4                 # better plans after ANALYZE
  -DSQLITE_ENABLE_SESSION
  -DSQLITE_ENABLE_PREUPDATE_HOOK        # session needs it
  -DSQLITE_ENABLE_DBSTAT_VTAB
  -DSQLITE_ENABLE_BYTECODE_VTAB         # what a running statement does with the results of functions: src/deferral
  -DSQLITE_ENABLE_COLUMN_METADATA       # the origin of a column: converters, reflection
)

inputs_digest() {
  # File contents, not dates: a fresh checkout of the same commit needs no rebuild.
  (
    cd "$root"
    find wasm/src wasm/Cargo.toml wasm/Cargo.lock wasm/sqlite_cold.csv wasm/sqlite_hot.proftext wasm/sqlite_prelude.h wasm/extensions/provided.txt docs/abi.md scripts/build_wasm.sh scripts/check_wasm.py -type f -print0 \
      | LC_ALL=C sort -z | xargs -0 sha256sum
  ) | sha256sum | cut -d' ' -f1
}

have_debian() {
  command -v clang-22 wasm-ld-22 >/dev/null \
    && [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] \
    && [ -e /usr/lib/wasm32-wasi/crt1-reactor.o ] \
    && [ -e /usr/lib/llvm-22/lib/clang/22/lib/wasi/libclang_rt.builtins-wasm32.a ] \
    && [ -d /usr/lib/rustlib/src/rust/library/std ]
}

have_profdata() { command -v llvm-profdata-22 >/dev/null; }

install_debian() {
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
  say "installing ${debian_packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends "${debian_packages[@]}" >&2
}

have_rustup_target() {
  command -v cargo rustc >/dev/null \
    && [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] \
    && [ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library/std" ]
}

have_sdk() { [ -n "${WASI_SDK_PATH:-}" ] && [ -x "$WASI_SDK_PATH/bin/clang" ] && have_rustup_target; }

have_zig() { python3 -c 'import ziglang' 2>/dev/null && have_rustup_target; }

# The toolchain to take, of those that are complete already.
find_toolchain() {
  local asked=${RAPSQLITE_TOOLCHAIN:-} each
  case $asked in
    '') for each in debian sdk zig; do "have_$each" && echo "$each" && return; done; return 1 ;;
    debian | sdk | zig) "have_$asked" && echo "$asked" ;;
    *) die "RAPSQLITE_TOOLCHAIN is $asked; debian, sdk or zig are known" ;;
  esac
}

choose_toolchain() {
  local asked=${RAPSQLITE_TOOLCHAIN:-}
  find_toolchain && return
  case $asked in '' | debian) install_debian && have_debian && echo debian && return ;; esac
  if [ -n "$asked" ]; then
    die "RAPSQLITE_TOOLCHAIN=$asked: that toolchain is not complete; see the head of $0"
  else
    die "no toolchain for WebAssembly. One of these is needed:
  - Debian 12 with security updates: apt-get install ${debian_packages[*]}
  - rustup target add $target; rustup component add rust-src; and a WASI SDK
    (https://github.com/WebAssembly/wasi-sdk/releases), its directory in WASI_SDK_PATH
  - the same rustup commands, and: pip install ziglang"
  fi
}

# What it is made with, line by line: compilers by what they say of themselves, C libraries by their contents.
describe_toolchain() {
  echo "$1"
  case $1 in
    debian)
      /usr/bin/rustc --version --verbose
      PATH=/usr/bin:$PATH clang-22 --version | sed -n 1p
      PATH=/usr/bin:$PATH wasm-ld-22 --version
      ! have_profdata || echo "with llvm-profdata-22"
      sha256sum /usr/lib/wasm32-wasi/crt1-reactor.o /usr/lib/wasm32-wasi/libc.a \
        /usr/lib/llvm-22/lib/clang/22/lib/wasi/libclang_rt.builtins-wasm32.a
      ;;
    sdk)
      rustc --version --verbose
      "$WASI_SDK_PATH/bin/clang" --version | sed -n 1p
      (cd "$WASI_SDK_PATH/share/wasi-sysroot" && find . -name '*.[ao]' -path '*wasip1/*' -print0 \
        | LC_ALL=C sort -z | xargs -0 sha256sum)
      ;;
    zig) rustc --version --verbose && python3 -m ziglang version ;;
  esac
}

# The stamp is the digest of the inputs, then the toolchain. Without any toolchain the one that built it will do.
is_current() {
  local toolchain
  [ -s "$output" ] && [ "$(sed -n 1p "$stamp" 2>/dev/null)" = "$1" ] || return 1
  ! toolchain=$(find_toolchain) || [ "$(sed 1d "$stamp")" = "$(describe_toolchain "$toolchain")" ]
}

# forget_others TOOLCHAIN: Cargo sees another Rust, but neither another C compiler under the same name nor another C
# library. What may have been compiled or linked with those is done again.
forget_others() {
  local made_with=$target_dir/$target/toolchain
  [ "$(cat "$made_with" 2>/dev/null)" != "$1" ] || return 0
  if [ -d "$target_dir/$target/release" ]; then
    (cd "$crate" && CARGO_TARGET_DIR=$target_dir "$cargo" clean --quiet --locked --release --target "$target" \
      --package libsqlite3-sys --package rapsqlite-engine)
  fi
  mkdir -p "$target_dir/$target"
  printf '%s\n' "$1" >"$made_with"
}

# Flags for every C compiler and linker.
# C calls memcpy, memmove and memset (src/sqlite/memcmp.rs): it uses them on the WAL index, which `memory.copy` does not reach.
c_flags=(-O3 -mno-bulk-memory -mno-bulk-memory-opt -msimd128 -matomics -ffile-prefix-map="${CARGO_HOME:-$HOME/.cargo}"=cargo)
rust_flags=(
  -C target-cpu=generic
  # Without +atomics a polled word is read by a plain load, which the code generator moves out of loops.
  -C target-feature=+atomics,+bulk-memory,+simd128
  -C link-arg=--no-check-features        # atomics in a memory that is not shared: meant
  -C link-arg=-zstack-size=2097152
  # The table takes functions that the host adds. Side modules put theirs there too, share C's stack, and use the C
  # library's functions.
  -C link-arg=--export-table -C link-arg=--growable-table -C link-arg=--export=__stack_pointer
  --remap-path-prefix="$crate"=wasm
  --remap-path-prefix="${CARGO_HOME:-$HOME/.cargo}"=cargo
)
while read -r provided; do rust_flags+=(-C link-arg=--export="$provided"); done <"$crate/extensions/provided.txt"

use_debian() {
  local libc=/usr/lib/wasm32-wasi
  # Before a rustup in PATH, which knows nothing of this target.
  export PATH=/usr/bin:$PATH RUSTC=/usr/bin/rustc
  cargo=/usr/bin/cargo
  export CC_wasm32_wasip1=clang-22 AR_wasm32_wasip1=ar
  profdata=llvm-profdata-22
  # -nostdlibinc: else clang also looks into /usr/include, where the build machine's own C library is.
  c_flags+=(--target=wasm32-wasi -nostdlibinc -isystem /usr/include/wasm32-wasi)
  rust_flags+=(
    -C linker=wasm-ld-22 -C linker-flavor=wasm-ld -C link-self-contained=no
    -C link-arg="$libc/crt1-reactor.o" -C link-arg=-L"$libc" -C link-arg=-lc
    -C link-arg=/usr/lib/llvm-22/lib/clang/22/lib/wasi/libclang_rt.builtins-wasm32.a
    --remap-path-prefix=/usr/lib/rustlib/src/rust=rust
    --remap-path-prefix="$(readlink -f /usr/lib/rustlib/src/rust)"=rust
  )
}

use_sdk() {
  cargo=cargo
  profdata=$WASI_SDK_PATH/bin/llvm-profdata
  export CC_wasm32_wasip1=$WASI_SDK_PATH/bin/clang AR_wasm32_wasip1=$WASI_SDK_PATH/bin/llvm-ar
  c_flags+=(--sysroot="$WASI_SDK_PATH/share/wasi-sysroot")
}

use_zig() {
  cargo=cargo
  local bin=$target_dir/zig python
  python=$(command -v python3)
  mkdir -p "$bin"
  # cc wants one executable, and zig does not know Rust's name of the target.
  cat >"$bin/cc" <<END
#!/bin/sh
for arg do
  shift
  case \$arg in --target=*) ;; *) set -- "\$@" "\$arg" ;; esac
done
exec "$python" -m ziglang cc --target=wasm32-wasi "\$@"
END
  printf '#!/bin/sh\nexec "%s" -m ziglang ar "$@"\n' "$python" >"$bin/ar"
  chmod +x "$bin/cc" "$bin/ar"
  export CC_wasm32_wasip1=$bin/cc AR_wasm32_wasip1=$bin/ar
}

# named_by_contents FILE: prints the name of a copy. Cargo compiles SQLite again only if the flags change.
named_by_contents() {
  local copy base
  base=$(basename "$1")
  copy=$target_dir/${base%.*}-$(sha256sum "$1" | cut -c1-16).${base##*.}
  mkdir -p "$target_dir"
  cp "$1" "$copy"
  echo "$copy"
}

# Compiles for size what a day's SQL runs seldom or never, and the rest of SQLite for speed.
use_cold_list() {
  local list=$crate/sqlite_cold.csv copy probe
  (cd "$root" && python3 -m scripts.record_profile --check >&2) \
    || say "WARNING: the profile in wasm/ is from another SQLite, so all new functions are compiled for speed"
  copy=$(named_by_contents "$list")
  probe=$(mktemp)
  if "$CC_wasm32_wasip1" --target=$target -mllvm -forceattrs-csv-path="$copy" -x c -c /dev/null -o "$probe" 2>/dev/null; then
    c_flags+=(-mllvm -forceattrs-csv-path="$copy")
  else
    say "WARNING: this C compiler does not know -forceattrs-csv-path; all of SQLite is compiled for size, and is slower"
    c_flags+=(-Os)
  fi
  rm -f "$probe"
}

# Tells the compiler how often a day's SQL runs each part of the functions that matter.
use_profile() {
  local text=$crate/sqlite_hot.proftext data
  data=$(named_by_contents "$text").profdata
  if "${profdata:-none}" merge -o "$data" "$text" 2>/dev/null; then
    c_flags+=(-fprofile-instr-use="$data" -Wno-profile-instr-unprofiled -Wno-profile-instr-out-of-date)
    # Else the inliner makes SQLite's interpreter loop twice as large, and it runs out of registers.
    c_flags+=(-mllvm -inline-enable-cost-benefit-analysis=false)
  else
    say "WARNING: without llvm-profdata wasm/sqlite_hot.proftext is not used, and SQLite is slower"
  fi
}

run_cargo() {
  export CFLAGS_wasm32_wasip1="${c_flags[*]}"
  export LIBSQLITE3_FLAGS="${sqlite_options[*]}"
  export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="${rust_flags[*]}"
  # Building the library from source needs the nightly switch, in a stable compiler too.
  export RUSTC_BOOTSTRAP=1
  export CARGO_TARGET_DIR=$target_dir SOURCE_DATE_EPOCH=0
  local command=$1
  shift
  (
    cd "$crate"
    "$cargo" "$command" --locked --release --lib --target "$target" -Zbuild-std=std,panic_abort "$@" >&2
  )
}

main() {
  local mode=${1:-} digest toolchain description
  case $mode in
    '' | --force | --lint) ;;
    --sqlite-options) echo "${sqlite_options[*]}"; exit ;;
    --toolchain)
      toolchain=$(find_toolchain) || die "no toolchain is complete here"
      describe_toolchain "$toolchain"
      exit
      ;;
    *) die "unknown argument $mode; see the head of $0" ;;
  esac
  digest=$(inputs_digest)
  if [ -z "$mode" ] && is_current "$digest"; then
    exec bash "$root/scripts/build_extensions.sh"
  fi
  toolchain=$(choose_toolchain)
  say "toolchain: $toolchain"
  [ "$toolchain" != debian ] || have_profdata || install_debian || say "llvm-22 cannot be installed"
  description=$(describe_toolchain "$toolchain")
  "use_$toolchain"
  forget_others "$description"
  c_flags+=(-include "$(named_by_contents "$crate/sqlite_prelude.h")")
  use_cold_list
  use_profile
  if [ "$mode" = --lint ]; then
    # Cargo looks for clippy in its own home first, unless PATH names that too: then PATH's order counts.
    [ "$toolchain" != debian ] || PATH=/usr/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    run_cargo clippy --quiet -- -D warnings
    exit
  fi
  run_cargo rustc --crate-type cdylib
  local built=$target_dir/$target/release/rapsqlite_engine.wasm
  python3 "$root/scripts/check_wasm.py" "$built" --abi "$root/docs/abi.md" --max-bytes "$size_limit"
  # Renamed into place: a reader sees the old module or the new one, never half of one.
  cp "$built" "$output.new"
  mv "$output.new" "$output"
  printf '%s\n' "$digest" "$description" >"$stamp"
  say "$(stat -c %s "$output" 2>/dev/null || stat -f %z "$output") bytes: $output"
  bash "$root/scripts/build_extensions.sh" ${mode:+"$mode"}
}

main "$@"
