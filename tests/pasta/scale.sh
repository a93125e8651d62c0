# shellcheck shell=bash
# What pasta promises at scale: cases like those of cases.sh, with many connections at a time.

# Connections that are open at a time, and the descriptors that one process needs for them: one
# each, and those that the program keeps back.
CROWD=5000 CROWD_DESCRIPTORS=5300

# Memory in KiB, the kernel's sum of pages. All tables are reserved at start and touched when they
# are used, so the first crowd leaves pages behind: half a KiB for each slot, the index of 4 MiB,
# whose buckets lie anywhere, and work lists. These are rings of 1 MiB, which later crowds go on to
# touch up to there. Two more crowds that lose 100 bytes a connection are beyond that.
CROWD_TOUCHED=$((CROWD / 2 + 4096 + 1024)) CROWD_RINGS=1024

CASES+=(crowd_out crowd_in few_descriptors queue_fits_window)

raise_descriptor_limit() {
    ulimit -Sn "$(ulimit -Hn)"
    if [ "$(ulimit -n)" != unlimited ] && [ "$(ulimit -n)" -lt "$CROWD_DESCRIPTORS" ]; then
        echo "CANNOT RUN: $(ulimit -Hn) descriptors are allowed and $CROWD_DESCRIPTORS needed: raise the hard limit"
        return 1
    fi
}

# crowd_pasta ARGUMENT...: pasta that tells of each flow, for the holder's namespace.
crowd_pasta() {
    rm -f "$WORLD/pasta.pid"
    (become_user /run/bin/pasta -f --debug -P "$WORLD/pasta.pid" --config-net "$@" "$HOLDER") >"$WORLD/flows.log" 2>&1 &
    until_true 10 test -s "$WORLD/pasta.pid"
    DAEMON=$(cat "$WORLD/pasta.pid")
    remember "$DAEMON"
}

# The daemon cannot be dumped, so its /proc/PID/fd belongs to the machine's root, whom a world made by somebody else does
# not know. Whoever may trace a process may count by pidfd_open(2) and pidfd_getfd(2).
descriptors() {
    perl -e '
        my $pidfd = syscall(434, $ARGV[0] + 0, 0);
        $pidfd >= 0 or die "pidfd_open: $!\n";
        my $count = 0;
        for my $number (0 .. $ARGV[1] - 1) {
            my $copy = syscall(438, $pidfd, $number, 0);
            if ($copy >= 0) { syscall(3, $copy); $count++ } elsif (!$!{EBADF}) { die "pidfd_getfd: $!\n" }
        }
        print "$count\n"' "$DAEMON" "$(awk '/^FDSize:/ { print $2 }' "/proc/$DAEMON/status")"
}
memory() { awk '$1 == "Pss:" { print $2 }' "/proc/$DAEMON/smaps_rollup"; }
flows() { awk '/\(TCP connection\): .* => / { open++ } /\(TCP connection\): closed/ { open-- } END { print open + 0 }' "$WORLD/flows.log"; }
# at_rest DESCRIPTORS: no flow is left, and nothing else that was not there before.
at_rest() { [ "$(flows)" -eq 0 ] && [ "$(descriptors)" -eq "$1" ]; }

# crowd SERVER_SIDE CLIENT_SIDE ADDRESS...: a side is the function that runs a command there. Opens
# a crowd, looks at it, and closes it.
crowd() {
    local server=$1 client=$2 gather hold
    shift 2
    rm -f "$WORLD"/crowd.{in,log} "$WORLD/gather.log"
    mkfifo "$WORLD/crowd.in"
    "$server" /run/bin/nettool gather '[::]:7100' "$CROWD" >"$WORLD/gather.log" 2>&1 &
    gather=$!
    until_true 10 grep -q ready "$WORLD/gather.log"
    "$client" /run/bin/nettool crowd "$CROWD" "$@" <"$WORLD/crowd.in" >"$WORLD/crowd.log" 2>&1 &
    exec {hold}>"$WORLD/crowd.in"
    until_true 60 grep -qE 'open|failed' "$WORLD/crowd.log"
    same "$(cat "$WORLD/crowd.log")" open
    same "$(flows)" "$CROWD"
    [ "$(descriptors)" -ge "$CROWD" ]
    exec {hold}>&-
    wait "$gather" || { cat "$WORLD/gather.log"; return 1; }
}

# crowds SERVER_SIDE CLIENT_SIDE ADDRESS...: after each of three, all is as before.
crowds() {
    local descriptors limit found number
    descriptors=$(descriptors)
    limit=$(($(memory) + CROWD_TOUCHED))
    for number in 1 2 3; do
        crowd "$@"
        until_true 30 at_rest "$descriptors" || {
            echo "$(flows) flows, $(descriptors) descriptors instead of $descriptors"
            return 1
        }
        found=$(memory)
        echo "crowd $number: $found KiB in use, $limit allowed"
        [ "$found" -le "$limit" ]
        [ "$number" -gt 1 ] || limit=$((found + CROWD_RINGS))
    done
}

in_outside() { in_net outside "$@"; }

case_crowd_out() {
    raise_descriptor_limit
    holder
    crowd_pasta -t none -u none -T none -U none
    crowds in_outside inside "$SERVER4:7100" "[$SERVER6]:7100"
}
case_crowd_in() {
    raise_descriptor_limit
    holder
    crowd_pasta -t 7100 -u none -T none -U none
    crowds inside in_outside "$HOST4:7100" "[$HOST6]:7100"
}

# With the smallest limit that is in use there is one of everything, in both directions and past the tap device.
case_few_descriptors() {
    local count
    ulimit -n 64
    holder
    crowd_pasta -t 7100 -u none -T 5600 -U none
    inside /run/bin/nettool get "$SERVER4:5000" 1000000 1
    inside /run/bin/nettool put "[$SERVER6]:5000" 1000000 2
    inside /run/bin/nettool get 127.0.0.1:5600 1000000 3
    inside /run/bin/nettool serve '[::]:7100' >"$WORLD/inside.log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$WORLD/inside.log"
    { outside get "$HOST4:7100" 1000000 4 && in_net host /run/bin/nettool get '[::1]:7100' 1000000 5; } ||
        { tail -n 30 "$WORLD/flows.log"; return 1; }
    count=$(descriptors)
    { [ "$count" -gt 8 ] && [ "$count" -le 48 ]; } || { echo "$count descriptors are in use without a connection"; return 1; }
}

# The tap device's queue has room for the segments of the largest window, 16 MiB; a kernel that
# leaves segmentation to pasta needs less.
case_queue_fits_window() {
    local mtu link frames
    for mtu in 1280 1500 9000 65520; do
        link=$(configured -m "$mtu" -- ip -o link show dev uplink)
        holds "$link" "mtu $mtu "
        frames=${link##* qlen }
        frames=${frames%%[!0-9]*}
        [ "$mtu" -le 1500 ] || mtu=1500
        [ $((frames * (mtu - 60))) -ge $((1 << 24)) ] || { echo "$link"; return 1; }
    done
}
