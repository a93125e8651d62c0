# shellcheck shell=bash
# What is for many, with programs that live by it, and beside it the same on the host: who asks a group or all of a network is
# answered by devices there, and is a device to others.

CASES+=(
    group_call_ssdp_v4 group_call_ssdp_v6 group_call_wsd_v4 group_call_wsd_v6
    group_call_llmnr_v4 group_call_llmnr_v6 group_call_mdns_v4 group_call_mdns_v6
    group_heard_ssdp_v4 group_heard_ssdp_v6 group_heard_wsd_v4 group_heard_wsd_v6
    group_heard_llmnr_v4 group_heard_llmnr_v6 group_heard_mdns_v4 group_heard_mdns_v6
    group_heard_port_named group_none broadcast_limited broadcast_directed
    mdns_browsed_inside mdns_browsed_outside
)

# beside_gateway: what `outside` sends to the link is from an address that is not the gateway's, which stands for the host.
beside_gateway() {
    ip -n outside addr replace 192.0.2.7/24 dev hosts
    ip -n outside route replace 192.0.2.0/24 dev hosts src 192.0.2.7
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
    said=$(outside call "$at" hosts "is anybody there")
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

# with_avahi NAME SCRIPT: the words that run SCRIPT beside a daemon of mDNS, whose host is called NAME, and a bus of its
# own.
with_avahi() {
    printf '%s\n' "mount -t tmpfs tmpfs /run/avahi-daemon
        printf '%s\n' '[server]' host-name=$1 'allow-interfaces=uplink,hosts' '[wide-area]' enable-wide-area=no \
            '[publish]' publish-workstation=no publish-hinfo=no >/run/avahi-daemon/conf
        DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/avahi-daemon/bus
        export DBUS_SYSTEM_BUS_ADDRESS
        dbus-daemon --session --nofork --nopidfile --address=\$DBUS_SYSTEM_BUS_ADDRESS >/dev/null 2>&1 & bus=\$!
        until [ -S /run/avahi-daemon/bus ]; do sleep 0.05; done
        avahi-daemon -f /run/avahi-daemon/conf --no-drop-root --no-chroot --no-proc-title --no-rlimits 2>&1 & avahi=\$!
        trap 'kill \$avahi \$bus' EXIT
        $2"
}
# Services of a kind are looked for until there is one; printed are name, host, address and port.
# shellcheck disable=SC2016 # for the shell inside
BROWSE='for _ in $(seq 50); do
        avahi-browse -ptrkf _passt._tcp 2>/dev/null | grep "^=;" >/run/avahi-daemon/found && break
        sleep 0.2
    done
    sed "s/^/found;/" /run/avahi-daemon/found | cut -d ";" -f 1,5,8-10 | sort -u'
# published NAME PORT: what makes a service known and stays.
published() { echo "avahi-publish-service $1 _passt._tcp $2"; }
avahi_in() { in_net "$1" unshare --mount bash -euc "$(with_avahi "$1" "$2")"; }

case_mdns_browsed_inside() {
    local browse here there
    mkdir -p /run/avahi-daemon
    beside_gateway
    nsenter --net=/run/netns/outside unshare --mount bash -euc "$(with_avahi outside "$(published printer 631)")" \
        >"$WORLD/published.log" 2>&1 &
    remember $!
    until_true 20 grep -q Established "$WORLD/published.log"
    here=$(avahi_in host "$BROWSE" | grep '^found;' | cut -d ';' -f 2,3,5 | sort -u)
    same "$here" 'printer;outside.local;631'
    browse=$(with_avahi inside "$BROWSE")
    there=$(configured -- unshare --mount bash -euc "$browse" | grep '^found;' | cut -d ';' -f 2,3,5 | sort -u)
    same "$there" "$here"
}
# The service is found by its name, and reached by what was found.
case_mdns_browsed_outside() {
    local found address port
    mkdir -p /run/avahi-daemon
    beside_gateway
    background -t 7001 -- unshare --mount bash -euc "$(with_avahi inside "
        /run/bin/nettool serve '[::]:7001' &
        $(published files 7001)")"
    until_true 20 grep -q Established "$WORLD/inside.log"
    found=$(avahi_in outside "$BROWSE" | grep '^found;files;inside.local;' | head -1)
    IFS=';' read -r _ _ _ address port <<<"$found"
    same "$port" 7001
    case $address in *:*) address="[$address]" ;; esac
    outside get "$address:$port" 2048 41
}
