#!/bin/bash
# What tests/processors/run runs in a root, as process 1 of it: inside.sh PROCESSOR TRIPLE COMPILER [EMULATOR]. Sources and
# what is built are in /try/shared.
set -euo pipefail
# shellcheck source=../packages/cases.sh
. /try/cases.sh

PROCESSOR=$1 TRIPLE=$2 COMPILER=$3 EMULATOR=${4:-}
PROGRAMS=(passt pasta pesto passt-repair qrap)
CASES=(compiles says_version unit_tests tests_of_the_stream_socket session)
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
[ -z "$EMULATOR" ] || export "CARGO_TARGET_${NAME}_RUNNER=$EMULATOR" "PASST_TEST_EMULATOR=$EMULATOR"

# Always with the same packages: else their crates would be built with other features, again.
test_packages() { cargo test --frozen --target "$TRIPLE" "${PACKAGES[@]}" "$@"; }

# tested ARGUMENT...: it has to have run something.
tested() {
    test_packages "$@" 2>&1 | tee /try/tested
    grep '^test result: ok. [1-9]' /try/tested >/dev/null
}

machine_of() { od -An -tx1 -j18 -N2 "$1"; }

# With its tests of the command line, there are the programs, too.
case_compiles() { test_packages --no-run --lib --test command_line; }

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

# An emulator takes minutes for those that generate much: it gets 16 worlds of each, and not the 256 that are usual. What
# qemu-user does not have is left out: questions to the kernel about sockets (sock_diag(7)), TCP_REPAIR, and the size of the
# segments that UDP_GRO has joined.
case_unit_tests() {
    local word skipped=()
    if [ -n "$EMULATOR" ]; then
        export PROPTEST_CASES=16
        for word in bound_ports::tests::both_ways sock_diag::tests::{sees,what_is_left} copy_buffer::tests::a_burst_says \
            sys::repair::tests::{a_connection_,a_frozen_connection,what_has_come_is_acknowledged}; do
            skipped+=(--skip "$word")
        done
    fi
    tested --lib -- "${skipped[@]}"
}

case_tests_of_the_stream_socket() { tested --test socket --test tails; }
# Frames through a socket, and the loop and the host's sockets behind it: ARP, DHCP and TCP. An emulator starts no programs
# of its processor.
case_session() {
    local word skipped=()
    [ -z "$EMULATOR" ] ||
        for word in handed_over the_program_says each_of_many one_off another_start default_path; do skipped+=(--skip "$word"); done
    tested --test socket_client -- "${skipped[@]}"
}
# qemu-user turns the number of an eventfd(2) round where it knows that it is one, and not where it was handed over.
case_tests_of_vhost_user() {
    local skipped=()
    [ "$PROCESSOR" != s390x ] || skipped=(--skip notifications_of_each_pair_wait_for_themselves)
    tested --test frames --test orders --test queues --test legacy --test comings -- "${skipped[@]}"
}

# The program itself, with its filter and its namespaces: what it says of the machine, and a frame that goes through the
# stream socket.
case_programs_run() { tested --test check --test qrap --test command_line; }

# What cargo says of a failure stands above the end.
failed() { grep -E -A 5 '^(test .* FAILED|error|---- |thread )' "/try/log.$1" | head -n 60 | sed 's/^/      /' || true; }

rustc --version
ip link set lo up
play_cases "processors $PROCESSOR" "${CASES[@]}"
