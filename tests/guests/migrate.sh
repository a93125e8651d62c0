# shellcheck shell=bash
# A guest that moves between two hosts, each with a program and an emulator of its own, and the cases about that. The
# guest's console goes with it: both emulators have the same one, one after the other.
#
# A case runs in a subshell, so where the guest is stands in a file. Source it after world.sh and cases.sh.

# shellcheck disable=SC2153 # world.sh has HOSTS and the addresses
# shellcheck disable=SC2016 # the guest expands these

# What switches sockets to repair on each host.
declare -A HELPERS=([host]=/run/bin/passt-repair [host2]=/run/bin/passt-repair)

# at_guests_host: programs are started on the host where the guest is.
at_guests_host() { [ ! -e "$WORLD/guest.host" ] || at_host "$(cat "$WORLD/guest.host")"; }

# at_host HOST: programs are started there.
at_host() {
    HOST=$1 SIDE=passt
    [ "$HOST" = host ] || SIDE=passt2
}

other_host() { if [ "$HOST" = host ]; then echo host2; else echo host; fi; }

# connect HOST: the switch has it, too, and leads there as soon as it hears from it.
connect() { ip -n switch link set dev "$1" master bridge; }

disconnect() { ip -n switch link set dev "$1" nomaster; }

# start_side [INCOMING]: the program, and an emulator in front of it that may wait for a state.
start_side() {
    rm -f "$WORLD/$SIDE".monitor.{in,out}
    mkfifo "$WORLD/$SIDE".monitor.{in,out}
    [ "$PASST_WORLD_UID" -ne 0 ] || chown "$ORDINARY:$ORDINARY" "$WORLD/$SIDE".monitor.{in,out}
    emulator_starts_passt || start_passt "${FORWARDS[@]}" "${@:2}"
    INCOMING=${1:-} start_emulator
    monitor qmp_capabilities >/dev/null
    ! emulator_starts_passt || started_last
}

# started_last: the program that the emulator has started, by the file that the emulator has made for its id.
started_last() {
    local files=("$WORLD"/passt-*.pid)
    mv "${files[0]}" "$WORLD/$SIDE.pid"
    rm -f "$WORLD/$SIDE.status"
}

# start_first_side: returns when the guest's agent answers.
start_first_side() {
    at_host host
    disconnect host2
    start_side || return 1
    take_console
    await_marker 90 ready >/dev/null
}

start_emulator() {
    ("boot_${KIND//-/_}") <"$WORLD/console.in" >"$WORLD/console.out" 2>>"$LOGS/guest.log" &
    echo $! >"$WORLD/$SIDE.job"
    disown
}

# take_console: the guest is here now.
take_console() {
    echo "$HOST" >"$WORLD/guest.host"
    cp "$WORLD/$SIDE.job" "$WORLD/guest.job"
}

# end_side: what is left of a host that the guest has left. The program has to end in order; one that the emulator has
# started does so by itself.
end_side() {
    kill -KILL "$(cat "$WORLD/$SIDE.job")"
    if emulator_starts_passt; then
        until_true 10 side_ended
        return
    fi
    kill -TERM "$(cat "$WORLD/$SIDE.pid")"
    until_true 10 test -s "$WORLD/$SIDE.status"
    same "$(cat "$WORLD/$SIDE.status")" 0
}
side_ended() { ! kill -0 "$(cat "$WORLD/$SIDE.pid")"; }

# monitor COMMAND [ARGUMENTS]: prints the emulator's answer.
monitor() {
    local line arguments=${2:-"{}"} in out
    exec {in}<>"$WORLD/$SIDE.monitor.in" {out}<>"$WORLD/$SIDE.monitor.out"
    printf '{"execute": "%s", "arguments": %s}\n' "$1" "$arguments" >&"$in"
    while IFS= read -r -t 20 line <&"$out"; do
        printf '%s\n' "$SIDE $line" >>"$LOGS/monitor.log"
        case $line in
        *'"return"'*) printf '%s\n' "$line"; exec {in}>&- {out}>&-; return 0 ;;
        *'"error"'*) printf '%s\n' "$line"; break ;;
        esac
    done
    exec {in}>&- {out}>&-
    return 1
}

# migration_status: how the migration stands.
migration_status() { monitor query-migrate | sed -nE 's/.*"status": "([a-z-]+)".*/\1/p'; }

# migration_downtime: for how long the guest has stood still, in ms.
migration_downtime() { monitor query-migrate | sed -nE 's/.*"downtime": ([0-9]+).*/\1/p'; }

# migrate URI [COMMAND...]: starts it and waits for its end, which has to be a good one. The command runs when the guest
# has stopped, and nothing of it is elsewhere yet.
migrate() {
    local end=$((SECONDS + 60)) status
    monitor migrate-set-parameters '{"max-bandwidth": 4000000000, "downtime-limit": 300}' >/dev/null
    monitor migrate-set-capabilities '{"capabilities": [{"capability": "pause-before-switchover", "state": true}]}' >/dev/null
    monitor migrate "{\"uri\": \"$1\"}" >/dev/null
    while [ $SECONDS -lt $end ]; do
        status=$(migration_status)
        case $status in
        completed) return 0 ;;
        pre-switchover)
            "${@:2}"
            monitor migrate-continue '{"state": "pre-switchover"}' >/dev/null
            ;;
        failed | cancelled) monitor query-migrate; return 1 ;;
        esac
        sleep 0.02
    done
    echo "the migration has not ended: $status"
    return 1
}

runs() { monitor query-status | grep '"status": "running"' >/dev/null; }

# hop: the guest goes to the other host; DOWNTIME says for how long it stood still, in ms. The switch has that one from the moment on when the guest stops, and finds the
# guest there by the first frame that comes from it, as a switch does.
hop() {
    [ "$KIND" != libvirt ] || { hop_domain; return; }
    local from=$HOST to
    to=$(other_host)
    rm -f "$WORLD/hop.sock"
    at_host "$to"
    start_side "unix:$WORLD/hop.sock"
    until_true 10 test -S "$WORLD/hop.sock"
    [ -z "${HELPED:-}" ] || help_side
    at_host "$from"
    [ -z "${HELPED:-}" ] || help_side
    migrate "unix:$WORLD/hop.sock" connect "$to"
    disconnect "$from"
    DOWNTIME=$(migration_downtime)
    echo "the guest stood still for $DOWNTIME ms"
    end_side
    at_host "$to"
    # What is typed before would be lost.
    until_true 10 runs
    take_console
}

# help_side: what switches sockets to repair for the program here, with a privilege that this has not. It ends when the
# program has no need of it any more.
help_side() {
    local before
    before=$(helpers)
    in_net "$HOST" "${HELPERS[$HOST]}" "$WORLD/$SIDE.sock.repair" >>"$LOGS/repair.log" 2>&1 &
    until_true 10 more_helpers "$before"
}
helpers() { grep -c 'Accepted TCP_REPAIR helper' "$LOGS/passt.log" || true; }
more_helpers() { [ "$(helpers)" -gt "$1" ]; }

# network_works SEED: new connections, made from either side, by both protocols.
network_works() {
    guest 60 "nettool get $SERVER4:5000 300000 $1"
    guest 60 "nettool put [$SERVER6]:5000 300000 $1"
    outside get "$HOST4:7001" 300000 "$1"
    outside get "[$HOST6]:7001" 300000 "$1"
    guest 20 "ping -c 1 -W 5 $SERVER4 && ping -6 -c 1 -W 5 $SERVER6"
    guest 20 "nettool udp $SERVER4:5000 1400"
}

addresses() { guest 5 "ip addr show dev \$IF | awk '/link.ether|inet/ { print \$1, \$2 }'; ip route"; }

# What the guest has is what it had, and is given again.
same_addresses_after() {
    local before
    before=$(addresses)
    "$@"
    same "$(addresses)" "$before"
    holds "$(guest 30 'udhcpc -i $IF -s /bin/true -f -q -n -t 5 -T 2 2>&1')" "lease of $HOST4 obtained"
    same "$(guest 30 'nettool dhcpv6 $IF')" "address $HOST6 dns $SERVER6"
}

case_migrated_once() {
    network_works 101
    same_addresses_after hop
    network_works 102
}

# Memory that changes all the time, by the guest and by the program; each byte that arrives is compared. Nobody helps
# connections here: one that only listens learns nothing of its end.
#
# Each end of a process that nobody waits for makes the guest's agent forget half a line, so questions are asked again.
case_migrated_under_load() {
    local round
    guest 5 "(while :; do timeout 2 nettool get $SERVER4:5000 3000000 9; done) >/tmp/load 2>&1 & echo \$! >/tmp/job"
    until_true 20 loads 3
    for round in 1 2 3 4; do
        hop
        until_true 20 loads 0
        until_true 20 loads $((LOADED + 3))
    done
    until_true 20 load_ends
    sleep 3
    until_true 20 nothing_wrong
    network_works 103
}
# loads COUNT: so many transfers were good; sets LOADED to their number.
loads() {
    LOADED=$(guest 5 'grep -c ^ok /tmp/load')
    [[ $LOADED =~ ^[0-9]+$ ]] && [ "$LOADED" -ge "$1" ]
}
load_ends() { guest 5 'kill $(cat /tmp/job)'; }
nothing_wrong() { [ "$(guest 5 'grep -c wrong /tmp/load')" = 0 ]; }

case_migrated_ten_times() {
    local round
    for round in 1 2 3 4 5 6 7 8 9 10; do
        hop
        network_works "11$round"
    done
}

# Connections of either side and both families, idle, busy and half-closed, go along, ten times. None of them stands
# still for more than a second longer than the guest itself does: that is the machine's pause, of which its clock knows
# nothing, and what its programs see that talk to each other, for an emulator has to translate everything anew. Twice
# that, since one of two hundred has less luck than any of sixteen: at rest all stand still for half a second.
case_connections_go_along() {
    local own
    guest 5 "nettool serve 127.0.0.1:7002 [::1]:7002 >/tmp/own 2>&1 &"
    guest 10 'until grep -q ready /tmp/own; do sleep 0.1; done'
    start_carrying
    guest 5 "nettool carry /tmp/enough 16 all 127.0.0.1:7002 [::1]:7002 >/tmp/own 2>&1 &"
    until_true 20 own_begun
    carry_along 10
    until_true 60 own_ended
    own=$(guest 5 'tail -n 1 /tmp/own')
    echo "inside: $own"
    holds "$own" 'ok 16 connections'
    own=$(longest "$own")
    [ "$LONGEST" -le $((1000 + PAUSE + 2 * own)) ] || { echo "$LONGEST ms: more than 1 s longer than $PAUSE and twice $own ms"; return 1; }
}
own_begun() { guest 5 'grep -q open /tmp/own'; }
own_ended() { [ "$(guest 5 'wc -l </tmp/own')" -eq 2 ]; }

# Those that are sure to get there: contrib/DIFFERENCES.md says why.
case_connections_go_to_the_packaged_one() {
    [ "$HOST" = host ] || hop
    start_carrying idle,talking idle,listening
    carry_along 1
}

case_all_connections_go_to_the_packaged_one() {
    [ "$HOST" = host ] || hop
    start_carrying
    carry_along 1
}

# Only those go along from there whose peers say nothing of their own accord: contrib/DIFFERENCES.md says why. Each program
# has the other's helper.
case_connections_come_from_the_packaged_one() {
    # shellcheck disable=SC2034 # hop reads it
    local -A HELPERS=([host]=${HELPERS[host2]} [host2]=${HELPERS[host]})
    [ "$HOST" = host2 ] || hop
    start_carrying idle,talking idle,listening
    carry_along 1
}

# start_carrying [KINDS KINDS]: 100 connections of the guest's and 100 of its peers'.
start_carrying() {
    rm -f "$WORLD/carry" "$WORLD/enough"
    guest 5 "rm -f /tmp/carry /tmp/enough; nettool carry /tmp/enough 100 ${1:-all} $SERVER4:5000 [$SERVER6]:5000 >/tmp/carry 2>&1 &"
    outside carry "$WORLD/enough" 100 "${2:-all}" "$HOST4:7001" "[$HOST6]:7001" >"$WORLD/carry" 2>&1 &
    until_true 20 all_open
}

# carry_along HOPS: they have to live until the guest has moved so often, and then end well. Sets LONGEST and PAUSE, for how
# long one of them and the machine stood still at most, in ms.
carry_along() {
    # shellcheck disable=SC2034 # hop reads it
    local HELPED=yes hop words
    PAUSE=0
    for ((hop = 0; hop < $1; hop++)); do
        hop
        [ "$DOWNTIME" -le "$PAUSE" ] || PAUSE=$DOWNTIME
    done
    guest 5 ': >/tmp/enough'
    : >"$WORLD/enough"
    until_true 60 all_ended
    words=$(guest 5 'tail -n 1 /tmp/carry'; tail -n 1 "$WORLD/carry")
    echo "$words"
    same "$(grep -c '^ok 100 connections' <<<"$words")" 2
    LONGEST=$(longest "$words")
}
longest() { awk -F '[:) ]+' '{ for (i = 9; i <= NF; i += 2) if ($i > most) most = $i } END { print most + 0 }' <<<"$1"; }
all_open() { guest 5 'grep -q open /tmp/carry' && grep -q open "$WORLD/carry"; }
all_ended() { [ "$(guest 5 'wc -l </tmp/carry')" -eq 2 ] && [ "$(wc -l <"$WORLD/carry")" -eq 2 ]; }

# Where nothing goes along, the guest hears of its connections as soon as it says something, and so do the peers.
case_connections_reset() {
    guest 5 "for to in $SERVER4:5000 [$SERVER6]:5000; do nettool put \$to 9000000000 1; done >/tmp/put 2>&1 &"
    outside get "$HOST4:7001" 9000000000 1 >"$WORLD/get" 2>&1 &
    sleep 1
    same "$(guest 5 'cat /tmp/put')" ''
    hop
    until_true 3 guest_knows_one
    network_works 151
    hop
    until_true 3 guest_knows_both
}
guest_knows_one() { holds "$(guest 5 'cat /tmp/put')" reset; }
guest_knows_both() { [ "$(guest 5 'grep -c reset /tmp/put')" = 2 ]; }

# There is nobody to take the guest: it goes on where it is.
case_migration_that_fails() {
    if migrate "exec:head -c 1000000 >/dev/null"; then
        echo "it did not fail"
        return 1
    fi
    until_true 10 runs
    network_works 121
}

# The state was taken, but the guest goes on where it was after all.
case_goes_on_after_a_copy() {
    same_addresses_after copy_and_go_on
    network_works 122
}
copy_and_go_on() {
    migrate "exec:cat >/dev/null"
    monitor cont >/dev/null
    until_true 10 runs
}

# As `virsh save` and `virsh restore` do: later, by other processes, on the other host.
case_saved_and_restored() {
    same_addresses_after save_and_restore
    network_works 131
}
save_and_restore() {
    migrate "exec:cat >$WORLD/state"
    end_side
    disconnect "$HOST"
    at_host "$(other_host)"
    connect "$HOST"
    start_side "exec:cat $WORLD/state"
    until_true 30 runs
    take_console
    rm "$WORLD/state"
}

# job COMMAND ID ARGUMENTS: one of the emulator's jobs, to its good end.
job() {
    monitor "$1" "{\"job-id\": \"$2\", $3}" >/dev/null
    until_true 30 concluded
    monitor query-jobs
    ! has_failed || return 1
    monitor job-dismiss "{\"id\": \"$2\"}" >/dev/null
}
has_failed() { monitor query-jobs | grep '"error"'; }
concluded() { monitor query-jobs | grep '"status": "concluded"' >/dev/null; }

# make_disk: an image that takes snapshots, and is no device of the guest's.
make_disk() {
    job blockdev-create a "\"options\": {\"driver\": \"file\", \"filename\": \"$WORLD/disk\", \"size\": 0}"
    monitor blockdev-add "{\"driver\": \"file\", \"filename\": \"$WORLD/disk\", \"node-name\": \"file\"}"
    job blockdev-create b '"options": {"driver": "qcow2", "file": "file", "size": 1048576}'
    monitor blockdev-add '{"driver": "qcow2", "file": "file", "node-name": "disk"}'
}

# As `savevm` and `loadvm`: the guest goes on from where it was, and what it does not know of ends for its peer, too.
case_snapshot_loaded() {
    local snapshot='"tag": "then", "vmstate": "disk", "devices": ["disk"]'
    make_disk
    job snapshot-save c "$snapshot"
    until_true 10 runs
    network_works 141
    outside get "$HOST4:7001" 2000000000 142 >"$WORLD/get" &
    sleep 1
    same "$(cat "$WORLD/get")" ''
    job snapshot-load d "$snapshot"
    until_true 10 runs
    until_true 2 test -s "$WORLD/get"
    holds "$(cat "$WORLD/get")" reset
    network_works 143
}
