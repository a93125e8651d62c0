# shellcheck shell=bash
# The control socket of pasta: flows over the tap device and past it, rules both ways, the egress policy, events. Source
# it after cases.sh. Scripts in single quotes are for the shell inside.
# shellcheck disable=SC2016

CASES+=(
    control_flows control_rules control_egress control_events control_refused control_hostile
)

# asked COMMAND ARGUMENT...: pesto, as the ordinary user.
asked() {
    local command=$1
    shift
    (become_user /run/bin/pesto "$command" "$WORLD/control" "$@")
}

# controlled ARGUMENT...: pasta with a control socket and a server in a namespace, and nothing forwarded by itself.
controlled() {
    holder
    started --control "$WORLD/control" -t none -u none -T none -U none --config-net "$@" "$HOLDER"
    serving '[::]:7001'
}

# connected NAMESPACE ADDRESS PORT: holds a connection open, on which three bytes were sent.
connected() {
    nsenter --net="/run/netns/$1" bash -c 'exec 3<>"/dev/tcp/$1/$2" && printf abc >&3 && ! read -ru 3' - "$2" "$3" &
    CONNECTED=$!
    remember "$CONNECTED"
}

# lists N ARGUMENT...: so many flows are chosen; there is another line in front of them, and each has two.
lists() {
    local wanted=$1
    shift
    [ "$(asked flows "$@" | wc -l)" -eq $((1 + 2 * wanted)) ]
}

case_control_flows() {
    local found name
    controlled -t 7001 --control-ro "$WORLD/control-ro"
    holds "$(asked status)" ', namespace'
    connected host 127.0.0.1 7001
    until_true 5 lists 1 --state established
    found=$(asked flows --json)
    holds "$found" '"bypass":true'
    holds "$found" '"initiator":{"place":"host","address":"127.0.0.1"'
    holds "$found" '"target":{"place":"namespace","address":"192.0.2.2","port":7001'
    holds "$found" '"bytes_forward":3,"bytes_back":0'
    connected outside "$HOST4" 7001
    until_true 5 lists 1 --address "$GATEWAY4" --state established
    found=$(asked flows --address "$GATEWAY4" --json)
    holds "$found" '"bypass":false'
    holds "$found" '"target":{"place":"guest"'
    holds "$found" '"bytes_forward":3,"bytes_back":0'
    lacks "$(asked flows --json)" '"rtt_us":null'
    holds "$(asked metrics)" 'passt_flows{kind="tcp-bypass"} 1'
    for name in $(asked flows | awk '/established/ { print $1 }'); do asked flow-reset "$name"; done
    until_true 5 lists 0
    until_true 5 has_ended "$CONNECTED"
    runs
}

case_control_rules() {
    controlled
    refused_at 127.0.0.1:7001
    asked rules-add -t 7001 >"$WORLD/rules"
    exchange tcp from_host 127.0.0.1:7001
    exchange tcp outside "$HOST4:7001"
    # Of the namespace to the host.
    asked rules-add -T 5600 >"$WORLD/rules"
    exchange tcp from_inside 127.0.0.1:5600
    holds "$(asked rules)" '*%lo:5600 => 5600'
    # What listens inside is followed.
    asked rules-replace -t auto -u auto >"$WORLD/rules"
    until_true 10 from_host get 127.0.0.1:7001 2048 91
    asked rules-replace >"$WORLD/rules"
    refused_at 127.0.0.1:7001
    same "$(from_inside connect 127.0.0.1:5600)" refused
    runs
}

case_control_egress() {
    controlled
    exchange tcp from_inside "$SERVER4:5000"
    asked egress-replace 'allow @dns' --isolate >"$WORLD/rules"
    from_inside get "$SERVER4:5000" 2048 92
    same "$(from_inside connect "$GATEWAY4:5601")" refused
    asked egress-replace "reject tcp $SERVER4:5000" 'allow any' >"$WORLD/rules"
    same "$(from_inside connect "$SERVER4:5000")" refused
    holds "$(asked egress)" "1  reject tcp $SERVER4:5000"
    asked egress-replace >"$WORLD/rules"
    exchange tcp from_inside "$SERVER4:5000"
}

case_control_events() {
    controlled
    (become_user /run/bin/pesto watch "$WORLD/control" rules refused) >"$WORLD/events" &
    remember $!
    until_true 10 changes_are_told
    asked egress-replace 'reject any' >"$WORLD/rules"
    same "$(from_inside connect "$SERVER4:5000")" refused
    until_true 5 grep -q "\"reason\":\"egress-rejected\".*\"to\":\"$SERVER4:5000\"" "$WORLD/events"
}
# It may take a moment until somebody follows.
changes_are_told() {
    asked rules-replace -t "$((RANDOM % 1000 + 8000))" >"$WORLD/rules"
    grep -q '"event":"rules"' "$WORLD/events"
}

# Another user may not ask, and who may only ask changes nothing.
case_control_refused() {
    local found
    controlled --control-ro "$WORLD/control-ro,mode=666"
    same "$(stat -c %a "$WORLD/control") $(stat -c %a "$WORLD/control-ro")" '600 666'
    found=$(become_user /run/bin/pesto rules-add "$WORLD/control-ro" -t 7001 2>&1) && return 1
    holds "$found" 'This socket answers questions, and changes nothing'
    refused_at 127.0.0.1:7001
    found=$(asked rules-add -t 5601 2>&1) && return 1
    holds "$found" 'Address already in use'
    holds "$(become_user /run/bin/pesto status "$WORLD/control-ro")" 'pasta'
    runs
}

# hostile SECONDS: a thousand clients that are not well, at all three sockets together.
hostile() {
    (become_user /run/bin/nettool hostile "$1" 334 "$WORLD/control" "$WORLD/control-ro" "$WORLD/conf")
}
# Traffic arrives whole meanwhile, both ways and past the tap device, and who is well is served by all.
case_control_hostile() {
    local hostile found
    rm -f "$WORLD/conf"
    controlled -t 7001 --control-ro "$WORLD/control-ro" --conf-path "$WORLD/conf"
    hostile 12 >"$WORLD/hostile.log" 2>&1 &
    hostile=$!
    inside /run/bin/nettool get "$SERVER4:5000" 200000000 71
    inside /run/bin/nettool put "$SERVER4:5000" 200000000 72
    in_net outside /run/bin/nettool get "$HOST4:7001" 100000000 73
    in_net host /run/bin/nettool get 127.0.0.1:7001 100000000 74
    inside /run/bin/nettool carry 3 4 all "$SERVER4:5000"
    wait "$hostile" || { cat "$WORLD/hostile.log"; return 1; }
    cat "$WORLD/hostile.log"
    until_true 20 asked status
    found=$(asked status)
    holds "$found" ', namespace'
    runs
}

# What the thousand clients take from a bulk transfer: PASST_HOSTILE_PAIRS transfers without and with them in turn, the
# medians of their times, and what each party has used of the processors meanwhile. Without the variable there is nothing
# to measure. For a machine that does nothing else:
#
#   PASST_HOSTILE_PAIRS=9 ./tests/pasta/run hostile_pace
[ -z "${PASST_HOSTILE_PAIRS:-}" ] || CASES+=(hostile_pace)
case_hostile_pace() {
    local pair quiet='' loud='' hostile program used=0 taken=0 before
    rm -f "$WORLD/conf"
    controlled --control-ro "$WORLD/control-ro" --conf-path "$WORLD/conf"
    program=$(cat "$WORLD/pasta.pid")
    for ((pair = 0; pair < PASST_HOSTILE_PAIRS; pair++)); do
        before=$(busy_ms "$program")
        quiet+="$(bulk_ms)"$'\n'
        used=$((used + $(busy_ms "$program") - before))
        (become_user /run/bin/nettool hostile 600 334 "$WORLD/control" "$WORLD/control-ro" "$WORLD/conf") >/dev/null 2>&1 &
        hostile=$!
        remember "$hostile"
        sleep 1
        before=$(busy_ms "$program")
        loud+="$(bulk_ms)"$'\n'
        taken=$((taken + $(busy_ms "$program") - before))
        echo "the clients have used $(busy_ms "$hostile") ms"
        kill "$hostile"
        wait "$hostile" || true
    done
    quiet=$(median "$quiet") loud=$(median "$loud")
    echo "2 GB in $quiet ms, among a thousand hostile clients in $loud ms: $((100 * quiet / loud)) % of the speed;" \
        "pasta itself used $((used / PASST_HOSTILE_PAIRS)) ms for one, and $((taken / PASST_HOSTILE_PAIRS)) ms"
}
# busy_ms PID: what it has used of the processors.
busy_ms() { awk -v hz="$(getconf CLK_TCK)" '{ printf "%d", ($14 + $15) * 1000 / hz }' "/proc/$1/stat"; }
bulk_ms() {
    local begin
    begin=$(now_ms)
    inside /run/bin/nettool get "$SERVER4:5000" 2000000000 75 >/dev/null
    echo $(($(now_ms) - begin))
}
median() { sort -n <<<"${1%?}" | sed -n "$(((PASST_HOSTILE_PAIRS + 1) / 2))p"; }
