# shellcheck shell=bash
# A guest that moves between two hosts, each with a program and an emulator of its own, and the cases about that. The
# guest's console goes with it: both emulators have the same one, one after the other.
#
# A case runs in a subshell, so where the guest is stands in a file. Source it after world.sh and cases.sh.

# shellcheck disable=SC2153 # world.sh has HOSTS and the addresses
# shellcheck disable=SC2016 # the guest expands these

# at_guests_host: programs are started on the host where the guest is.
at_guests_host() { [ ! -e "$WORLD/guest.host" ] || at_host "$(cat "$WORLD/guest.host")"; }

# at_host HOST: programs are started there.
at_host() {
    HOST=$1 SIDE=passt
    [ "$HOST" = host ] || SIDE=passt2
}

other_host() { if [ "$HOST" = host ]; then echo host2; else echo host; fi; }

# reach HOST: the switch leads there, and to no other host.
reach() {
    local host
    for host in "${HOSTS[@]}"; do
        ip -n switch link set dev "$host" nomaster
    done
    ip -n switch link set dev "$1" master bridge
}

# start_side [INCOMING]: the program, and an emulator in front of it that may wait for a state.
start_side() {
    rm -f "$WORLD/$SIDE".monitor.{in,out}
    mkfifo "$WORLD/$SIDE".monitor.{in,out}
    [ "$PASST_WORLD_UID" -ne 0 ] || chown "$ORDINARY:$ORDINARY" "$WORLD/$SIDE".monitor.{in,out}
    start_passt "${FORWARDS[@]}" "${@:2}"
    INCOMING=${1:-} start_emulator
    monitor qmp_capabilities >/dev/null
}

# start_first_side: returns when the guest's agent answers.
start_first_side() {
    at_host host
    reach host
    start_side || return 1
    take_console
    await_marker 90 ready >/dev/null
}

start_emulator() {
    (boot_qemu_migrate) <"$WORLD/console.in" >"$WORLD/console.out" 2>>"$LOGS/guest.log" &
    echo $! >"$WORLD/$SIDE.job"
    disown
}

# take_console: the guest is here now.
take_console() {
    echo "$HOST" >"$WORLD/guest.host"
    cp "$WORLD/$SIDE.job" "$WORLD/guest.job"
}

# end_side: what is left of a host that the guest has left. The program has to end in order.
end_side() {
    kill -KILL "$(cat "$WORLD/$SIDE.job")"
    kill -TERM "$(cat "$WORLD/$SIDE.pid")"
    until_true 10 test -s "$WORLD/$SIDE.status"
    same "$(cat "$WORLD/$SIDE.status")" 0
}

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

# migrate URI: starts it and waits for its end, which has to be a good one.
migrate() {
    local end=$((SECONDS + 60)) status
    monitor migrate-set-parameters '{"max-bandwidth": 4000000000, "downtime-limit": 300}' >/dev/null
    monitor migrate "{\"uri\": \"$1\"}" >/dev/null
    while [ $SECONDS -lt $end ]; do
        status=$(migration_status)
        case $status in
        completed) return 0 ;;
        failed | cancelled) monitor query-migrate; return 1 ;;
        esac
        sleep 0.02
    done
    echo "the migration has not ended: $status"
    return 1
}

runs() { monitor query-status | grep '"status": "running"' >/dev/null; }

# hop: the guest goes to the other host, and the network finds it there.
hop() {
    local from=$HOST to
    to=$(other_host)
    rm -f "$WORLD/hop.sock"
    at_host "$to"
    start_side "unix:$WORLD/hop.sock"
    until_true 10 test -S "$WORLD/hop.sock"
    [ -z "${HELPED:-}" ] || help_side
    at_host "$from"
    [ -z "${HELPED:-}" ] || help_side
    migrate "unix:$WORLD/hop.sock"
    reach "$to"
    end_side
    at_host "$to"
    # What is typed before would be lost.
    until_true 10 runs
    take_console
}

# help_side: what switches sockets to repair for the program here, with a privilege that this has not. It ends when the
# program has no need of it any more.
help_side() {
    in_net "$HOST" /run/bin/passt-repair "$WORLD/$SIDE.sock.repair" >>"$LOGS/repair.log" 2>&1 &
}

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

# Connections of either side and both families, idle, busy and half-closed, go along.
case_connections_go_along() {
    # shellcheck disable=SC2034 # hop reads it
    local HELPED=yes
    guest 5 "nettool carry 14 100 $SERVER4:5000 [$SERVER6]:5000 >/tmp/carry 2>&1 &"
    outside carry 14 100 "$HOST4:7001" "[$HOST6]:7001" >"$WORLD/carry" 2>&1 &
    until_true 20 all_open
    hop
    hop
    hop
    hop
    until_true 60 all_ended
    holds "$(guest 5 'tail -n 1 /tmp/carry')" 'ok 100 connections'
    holds "$(tail -n 1 "$WORLD/carry")" 'ok 100 connections'
    cat "$WORLD/carry"
}
all_open() { guest 5 'grep -q open /tmp/carry' && grep -q open "$WORLD/carry"; }
all_ended() { [ "$(guest 5 'wc -l </tmp/carry')" -eq 2 ] && [ "$(wc -l <"$WORLD/carry")" -eq 2 ]; }

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
    at_host "$(other_host)"
    start_side "exec:cat $WORLD/state"
    reach "$HOST"
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
