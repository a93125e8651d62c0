# shellcheck shell=bash
# Shared by tests/run, the guest tests and contrib/demo: places, messages,
# installing what is missing. Source it under `set -euo pipefail`.

# shellcheck disable=SC2034 # used by the scripts that source this file
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${PASST_TEST_CACHE:-$ROOT/tests/cache}
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
export PATH=$PATH:/usr/sbin:/sbin
PASST=${PASST:-$TARGET/release/passt}
NETTOOL=$TARGET/release/nettool

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() { warn "error: $*"; exit 1; }

# as_root COMMAND...: runs it as root, through sudo where needed.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        warn "need root or sudo for: $*"
        return 1
    fi
}

# retry COMMAND...: up to three attempts, for downloads.
retry() {
    local attempt
    for attempt in 1 2 3; do
        "$@" && return 0
        warn "attempt $attempt failed: $*"
        sleep $((attempt * 2))
    done
    return 1
}

# need COMMAND=PACKAGE...: installs the packages whose command is missing.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null || {
        warn "missing: ${missing[*]} (no apt-get here, install them by hand)"
        return 1
    }
    say "installing ${missing[*]}"
    install_packages "${missing[@]}"
}

install_packages() {
    local log
    log=$(mktemp)
    if ! apt_install "$@" >"$log" 2>&1; then
        retry as_root apt-get -q update >>"$log" 2>&1 || true
        if ! apt_install "$@" >>"$log" 2>&1; then
            tail -n 20 "$log" >&2
            rm -f "$log"
            return 1
        fi
    fi
    rm -f "$log"
}

# The image of a machine may carry parts of a package family from backports;
# then the rest must come from there too.
apt_install() {
    local from=() backports
    # shellcheck disable=SC2016 # apt expands these
    backports=$(apt-get indextargets --no-release-info --format '$(RELEASE)' | grep -m1 -e '-backports$' || true)
    [ -n "$backports" ] && from=(-t "$backports")
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y --no-install-recommends "${from[@]}" install "$@"
}

# need_cargo: finds cargo, or installs the distribution's rustup, or says how.
need_cargo() {
    export PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null && return 0
    if apt-cache show rustup 2>/dev/null | grep -q '^Package: rustup'; then
        install_packages rustup gcc libc6-dev
    fi
    command -v cargo >/dev/null || die "no cargo: install Rust with rustup (see rustup.rs), then run this again"
}

# build_nettool: the static helper that runs inside and outside guests.
build_nettool() {
    (cd "$ROOT" && cargo rustc -q --release -p passt-nettool --bin nettool -- -C target-feature=+crt-static)
}

# attempt LOG COMMAND...: runs the command in a subshell that its first failing command
# ends. STATUS and TOOK (seconds) tell how it went.
attempt() {
    local log=$1 begin=$EPOCHREALTIME
    shift
    set +e
    (set -e && "$@") >"$log" 2>&1
    STATUS=$?
    set -e
    TOOK=$(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }")
}
