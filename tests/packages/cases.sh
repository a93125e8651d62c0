# shellcheck shell=bash
# What the scripts share that are copied into a root and play cases there: units.sh, containers.sh, and inside.sh of
# tests/processors. It is copied along: source it as /try/cases.sh, under `set -e`. Each case is a function `case_NAME` of
# theirs. `failed NAME` is theirs, too: it says more of a case that has failed, and ends what that has left.

# until_true SECONDS COMMAND...: repeats the command until it succeeds.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "not true in time: $*"; return 1; }
        sleep 0.1
    done
}

# try KIND NAME: a line for the case, and behind it what it has said, which goes to the log only if all was well.
try() {
    local begin=$SECONDS status word=ok
    set +e
    (set -e && "case_$2") >"/try/log.$2" 2>&1
    status=$?
    set -e
    [ $status -eq 0 ] || word=FAIL
    printf '%-5s %s %s (%s s)\n' $word "$1" "$2" $((SECONDS - begin))
    if [ $status -eq 0 ]; then
        sed 's/^/| /' "/try/log.$2"
    else
        tail -n 20 "/try/log.$2" | sed 's/^/      /'
        failed "$2"
    fi
}

# play_cases KIND NAME...: one after the other. Without the last line they were not all played.
play_cases() {
    local kind=$1 name
    shift
    for name in "$@"; do
        try "$kind" "$name"
    done
    echo 'all cases were played'
}
