# Sourced by scripts that do something with every Python of this machine.

# pythons CANDIDATE...: a line "version path" for each version >= 3.10 among these, those on PATH and pyenv's.
pythons() {
    local candidate
    for candidate in "$@" python3 python3.{10..20} "$HOME"/.pyenv/versions/*/bin/python3; do
        "$candidate" -c 'import sys, venv, ensurepip
if sys.version_info >= (3, 10): print(*sys.version.split()[:1], sys.executable)' 2>/dev/null || true
    done | sort -V | awk '!seen[$1]++'
}
