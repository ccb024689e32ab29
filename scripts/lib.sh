# Sourced by the other scripts: where things are cached, and how a thing gets into the cache exactly once.
# shellcheck shell=bash disable=SC2034

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export HOME="${HOME:-/tmp}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/snakepit-otel-bridge"

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# fingerprint FILE...: a short hash over the contents of the files, the key of what is built from them.
fingerprint() { cat "$@" | sha256sum | cut -c1-16; }

# cached DIRECTORY COMMAND...: unless DIRECTORY is there, runs COMMAND with a fresh directory as its last argument and
# then moves that to DIRECTORY. Whoever sees DIRECTORY sees it whole; of two callers at once the second one waits.
cached() {
    local target=$1
    shift
    [ -d "$target" ] && return
    mkdir -p "$(dirname "$target")"
    (
        flock 9
        [ -d "$target" ] && exit
        making=$(mktemp -d "$target.making.XXXXXX")
        trap 'rm -rf "$making"' EXIT
        "$@" "$making" >&2
        chmod 755 "$making"
        mv "$making" "$target"
    ) 9>"$target.lock"
}

# virtual_environment REQUIREMENTS DIRECTORY: makes a virtual environment there. Being moved afterwards is harmless as
# long as programs in it are started as binaries or by `python -m`, never by a script that pip wrote.
virtual_environment() {
    say "making a virtual environment for $(basename "$1")"
    python3 -m venv "$2"
    "$2/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$1"
}
