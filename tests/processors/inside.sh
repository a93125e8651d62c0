#!/bin/bash
# What tests/processors/run runs in a root, as process 1 of it: inside.sh PROCESSOR TRIPLE COMPILER [EMULATOR]. Sources and
# what is built are in /try/shared.
set -euo pipefail

PROCESSOR=$1 TRIPLE=$2 COMPILER=$3 EMULATOR=${4:-}
PROGRAMS=(passt pasta pesto passt-repair qrap)
CASES=(compiles says_version unit_tests tests_of_the_stream_socket)
# Without vhost-user the packages of its tests are left out.
case $PROCESSOR in
armv7 | i686) PACKAGES=(-p passt-frame -p passt-legacy -p passt) ;;
*) PACKAGES=(-p passt-frame -p passt-legacy -p passt-vhost -p passt) CASES+=(tests_of_vhost_user) ;;
esac
[ -n "$EMULATOR" ] || CASES+=(programs_run)

cd /try/shared/source
NAME=${TRIPLE^^}
NAME=${NAME//-/_}
export CARGO_HOME=/try/shared/cargo CARGO_TARGET_DIR=/try/shared/target CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0
export "CARGO_TARGET_${NAME}_LINKER=$COMPILER-gcc"
[ -z "$EMULATOR" ] || export "CARGO_TARGET_${NAME}_RUNNER=$EMULATOR"

# tested ARGUMENT...: cargo test, which has to have run something.
tested() {
    cargo test --frozen --target "$TRIPLE" "$@" 2>&1 | tee /try/tested
    grep '^test result: ok. [1-9]' /try/tested >/dev/null
}

machine_of() { od -An -tx1 -j18 -N2 "$1"; }

case_compiles() { cargo build --frozen --target "$TRIPLE" --bins -p passt; }

case_says_version() {
    local program said
    for program in "${PROGRAMS[@]}"; do
        said=$($EMULATOR "$CARGO_TARGET_DIR/$TRIPLE/debug/$program" --version)
        echo "$said"
        [[ $said == "$program 0."* ]]
    done
    # It is not this machine's: `e_machine` of elf(5).
    [ "$(machine_of "$CARGO_TARGET_DIR/$TRIPLE/debug/passt")" != "$(machine_of /bin/true)" ]
}

# An emulator takes minutes for those that generate much.
case_unit_tests() {
    local skipped=()
    [ -z "$EMULATOR" ] || skipped=(--skip flow::splice)
    tested --lib "${PACKAGES[@]}" -- "${skipped[@]}"
}

case_tests_of_the_stream_socket() { tested -p passt-legacy --test socket --test tails; }
case_tests_of_vhost_user() { tested -p passt-vhost --test frames --test orders --test queues --test legacy; }

# The program itself, with its filter and its namespaces: what it says of the machine, and a frame that goes through the
# stream socket.
case_programs_run() { tested -p passt --test check --test qrap --test command_line; }

# try NAME
try() {
    local begin=$SECONDS status word=ok
    set +e
    (set -e && "case_$1") >"/try/log.$1" 2>&1
    status=$?
    set -e
    [ $status -eq 0 ] || word=FAIL
    printf '%-5s processors %s %s (%s s)\n' $word "$PROCESSOR" "$1" $((SECONDS - begin))
    if [ $status -eq 0 ]; then
        sed 's/^/| /' "/try/log.$1"
    else
        grep -E -A 5 '^(test .* FAILED|error|---- |thread )' "/try/log.$1" | head -n 60 | sed 's/^/      /' || true
        tail -n 6 "/try/log.$1" | sed 's/^/      /'
    fi
}

rustc --version
ip link set lo up
for name in "${CASES[@]}"; do
    try "$name"
done
echo 'all cases were played'
