# shellcheck shell=bash
# Shared by tests/run, the guest tests and contrib/demo: places, messages,
# installing what is missing. Source it under `set -euo pipefail`.

# shellcheck disable=SC2034 # used by the scripts that source this file
# What the scripts make is for the ordinary user of the tests' worlds, too.
umask 022
[ -n "${HOME:-}" ] || HOME=$(getent passwd "$(id -u)" | cut -d : -f 6)
export HOME
ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
CACHE=${PASST_TEST_CACHE:-$ROOT/tests/cache}
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
export PATH=$PATH:/usr/sbin:/sbin
PASST=${PASST:-$TARGET/release/passt}
NETTOOL=$TARGET/release/nettool
# What the kernels of emulated guests are told.
GUEST_COMMAND_LINE='console=ttyS0 panic=-1 quiet'

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
    local pair missing=() commands=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}") commands+=("${pair%%=*}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null || {
        warn "missing: ${commands[*]} (Debian has them in ${missing[*]}; no apt-get here, install them by hand)"
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
        if ! apt_install "$@" >>"$log" 2>&1 && ! apt_install_backports "$@" >>"$log" 2>&1; then
            tail -n 20 "$log" >&2
            rm -f "$log"
            return 1
        fi
    fi
    rm -f "$log"
}

apt_install() {
    # A machine that has just started updates itself, and has apt locked meanwhile.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "$@"
}

# The image of a machine may carry parts of a package family from backports;
# then the rest must come from there too.
apt_install_backports() {
    local backports
    # shellcheck disable=SC2016 # apt expands these
    backports=$(apt-get indextargets --no-release-info --format '$(RELEASE)' | awk '/-backports$/ && !found { print; found = 1 }')
    [ -n "$backports" ] && apt_install -t "$backports" "$@"
}

# packaged NAME: whether apt knows the package; its lists are fetched where it knows nothing of it.
packaged() {
    command -v apt-cache >/dev/null || return 1
    [ -n "$(apt-cache show "$1" 2>/dev/null)" ] && return 0
    retry as_root apt-get -q update >/dev/null 2>&1 || true
    [ -n "$(apt-cache show "$1" 2>/dev/null)" ]
}

# debian_source SUITE: what apt's sources would have to say to get SUITE, too, as one line or as a stanza. It is the
# machine's own entry for Debian, with the options that stand there.
debian_source() {
    local release entry file number
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016 # apt expands these
    entry=$(apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(SOURCESENTRY)' |
        awk -v release="$release" '
            $1 == release && $2 == "main" && !own { own = $3 }
            $1 ~ /^((old)*stable|testing|unstable|sid|bullseye|bookworm|trixie|forky|duke)$/ && $2 == "main" && !any { any = $3 }
            END { print own ? own : any }')
    [ -n "$entry" ] || {
        warn "apt has no source for Debian's main archive on this machine, neither '$release' nor another suite"
        return 1
    }
    file=${entry%:*} number=${entry##*:}
    case $file in
    *.sources)
        sed '/^#/d' "$file" | awk -v RS= -v number="$number" 'NR == number' | sed -E "s/^Suites:.*/Suites: $1/I; s/^Components:.*/Components: main/I; s/^Types:.*/Types: deb/I"
        ;;
    *) sed -nE "${number}s/^ *deb +(\[[^]]*\] +)?([^ ]+) .*/deb \1\2 $1 main/p" "$file" ;;
    esac
}

# need_linker: that a program can be linked, which takes a compiler driver, a linker and the C library's objects.
need_linker() {
    links && return 0
    say "installing gcc libc6-dev"
    if ! install_packages gcc libc6-dev || ! links; then
        die "nothing can be linked here: install gcc and libc6-dev, then run this again"
    fi
}

links() { echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2>/dev/null; }

# need_cargo: finds a cargo that is new enough, or installs the distribution's rustup, or says how.
need_cargo() {
    local found
    if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ] && packaged rustup; then
        say "installing rustup"
        install_packages rustup || die "no cargo: rustup cannot be installed; see above"
    fi
    cargo_is_new_enough || PATH=$HOME/.cargo/bin:$PATH
    export PATH
    cargo_is_new_enough && return 0
    command -v cargo >/dev/null || die "no cargo: install Rust with rustup (https://rustup.rs), then run this again"
    found=$(cd "$ROOT" && cargo --version 2>&1 | tail -n 1)
    die "$(command -v cargo) says '$found', and this needs $(needed_rust) or newer: install Rust with rustup\
 (https://rustup.rs, or 'apt-get install rustup' from Debian 13 on, in place of Debian's cargo), then run this again"
}

needed_rust() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# What rustup's cargo says of itself is what rust-toolchain.toml asks for.
cargo_is_new_enough() {
    local version
    version=$(cd "$ROOT" && cargo --version 2>/dev/null | awk '{ print $2 }') && [ -n "$version" ] &&
        printf '%s\n%s\n' "$(needed_rust)" "$version" | sort -VC
}

# need_folders: that the folders for what is built and fetched can be written.
need_folders() {
    local pair
    for pair in "PASST_TEST_CACHE=$CACHE" "CARGO_TARGET_DIR=$TARGET"; do
        { mkdir -p "${pair#*=}" && [ -w "${pair#*=}" ]; } 2>/dev/null ||
            die "cannot write to ${pair#*=}: let ${pair%%=*} name a folder where that is possible"
    done
}

# need_space MB: warns where the disk has no room for so much, with what earlier runs left there counted in. Where nobody
# says how much is free, nothing is said.
need_space() {
    local made free
    free=$(free_space)
    [ -n "$free" ] || return 0
    made=$(made_space)
    [ $((free + made)) -ge "$1" ] ||
        warn "warning: the disk of $TARGET has $free MB free, and this takes $(($1 - made)) MB there: make room, or let\
 CARGO_TARGET_DIR and PASST_TEST_CACHE name folders of a larger disk"
}

# free_space: of the disk that is built on, in MB; nothing where that cannot be known.
free_space() {
    { stat -f -c '%a %S' "$TARGET" 2>/dev/null || true; } | awk '$1 ~ /^[0-9]+$/ && $2 > 0 { printf "%d\n", $1 * $2 / 1048576 }'
}

# made_space: what is in our folders on that disk already, in MB. Some of it may be closed to us, or go away meanwhile.
made_space() {
    local folders=("$TARGET")
    [ "$(device_of "$CACHE")" != "$(device_of "$TARGET")" ] || folders+=("$CACHE")
    { du -scm "${folders[@]}" 2>/dev/null || true; } | awk 'END { print $1 + 0 }'
}

device_of() { stat -c %d "$1" 2>/dev/null || true; }

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
