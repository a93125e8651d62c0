# shellcheck shell=bash
# What is for many, and beside it the same on the host: who asks a group or all of a network is answered by devices there,
# and is a device to others.

CASES+=(
    group_call_ssdp_v4 group_call_ssdp_v6 group_call_wsd_v4 group_call_wsd_v6
    group_call_llmnr_v4 group_call_llmnr_v6 group_call_mdns_v4 group_call_mdns_v6
    group_heard_ssdp_v4 group_heard_ssdp_v6 group_heard_wsd_v4 group_heard_wsd_v6
    group_heard_llmnr_v4 group_heard_llmnr_v6 group_heard_mdns_v4 group_heard_mdns_v6
    group_heard_port_named group_none broadcast_limited broadcast_directed
)

# beside_gateway: what `outside` sends to the link is from an address that is not the gateway's, which stands for the host.
# By its scope it is before the others of the interface, so that packets to groups of the link come from it, too.
# Until the end of the case.
beside_gateway() {
    trap as_before EXIT
    ip -n outside addr replace 192.0.2.7/32 scope link dev hosts
    ip -n outside route replace 192.0.2.0/24 dev hosts src 192.0.2.7
}
as_before() {
    ip -n outside route replace 192.0.2.0/24 dev hosts src "$GATEWAY4"
    ip -n outside addr del 192.0.2.7/32 dev hosts
}
# device ADDRESS:PORT: answers whoever calls it, on the network.
device() {
    local log=$WORLD/device.log
    beside_gateway
    nsenter --net=/run/netns/outside /run/bin/nettool hear "$1" hosts >"$log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$log"
}
# called ADDRESS:PORT: who answers is the same for a program inside and for one of the host.
called() {
    local here there
    device "$1"
    here=$(in_net host /run/bin/nettool call "$1" uplink "from the host")
    there=$(configured -- /run/bin/nettool call "$1" uplink "from inside")
    same "$there" "$here"
    holds "$(cat "$WORLD/device.log")" "heard from inside from "
}
case_group_call_ssdp_v4() { called 239.255.255.250:1900; }
case_group_call_ssdp_v6() { called '[ff02::c]:1900'; }
case_group_call_wsd_v4() { called 239.255.255.250:3702; }
case_group_call_wsd_v6() { called '[ff02::c]:3702'; }
case_group_call_llmnr_v4() { called 224.0.0.252:5355; }
case_group_call_llmnr_v6() { called '[ff02::1:3]:5355'; }
case_group_call_mdns_v4() { called 224.0.0.251:5353; }
case_group_call_mdns_v6() { called '[ff02::fb]:5353'; }
case_broadcast_limited() { called 255.255.255.255:9; }
case_broadcast_directed() { called 192.0.2.255:9; }

# heard ADDRESS:PORT ARGUMENT...: a program inside, with ARGUMENT for pasta, hears who calls on the network, and answers from
# the port that was called.
heard() {
    local at=$1 said
    shift
    beside_gateway
    background "$@" -- /run/bin/nettool hear "$at" uplink
    case $at in
    *.*) said=$(outside call "$at" hosts "is anybody there" 192.0.2.7) ;;
    *) said=$(outside call "$at" hosts "is anybody there") ;;
    esac
    case $at in
    *.*) same "$said" "answered by $HOST4 ${at##*:}" ;;
    *) holds "$said" "answered by fe80:" && holds "$said" " ${at##*:}" ;;
    esac
    holds "$(cat "$WORLD/inside.log")" "heard is anybody there from "
}
case_group_heard_ssdp_v4() { heard 239.255.255.250:1900; }
case_group_heard_ssdp_v6() { heard '[ff02::c]:1900'; }
case_group_heard_wsd_v4() { heard 239.255.255.250:3702; }
case_group_heard_wsd_v6() { heard '[ff02::c]:3702'; }
case_group_heard_llmnr_v4() { heard 224.0.0.252:5355; }
case_group_heard_llmnr_v6() { heard '[ff02::1:3]:5355'; }
case_group_heard_mdns_v4() { heard 224.0.0.251:5353; }
case_group_heard_mdns_v6() { heard '[ff02::fb]:5353'; }
case_group_heard_port_named() { heard 239.7.7.7:7007 --multicast-ports 7007; }

case_group_none() {
    device 239.255.255.250:1900
    holds "$(configured --no-multicast -- /run/bin/nettool call 239.255.255.250:1900 uplink x || true)" failed
    holds "$(configured --egress 'drop @multicast' --egress 'allow any' -- \
        /run/bin/nettool call 239.255.255.250:1900 uplink x || true)" failed
    holds "$(configured --no-multicast -- /run/bin/nettool call 192.0.2.255:1900 uplink x || true)" failed
    lacks "$(cat "$WORLD/device.log")" heard
}
