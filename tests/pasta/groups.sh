# shellcheck shell=bash
# What is for many, and beside it the same on the host: who asks a group or all of a network is answered by devices there,
# and is a device to others.

CASES+=(
    group_call_ssdp_v4 group_call_ssdp_v6 group_call_wsd_v4 group_call_wsd_v6
    group_call_llmnr_v4 group_call_llmnr_v6 group_call_mdns_v4 group_call_mdns_v6
    group_heard_ssdp_v4 group_heard_ssdp_v6 group_heard_wsd_v4 group_heard_wsd_v6
    group_heard_llmnr_v4 group_heard_llmnr_v6 group_heard_mdns_v4 group_heard_mdns_v6
    group_heard_port_named group_kept_from_host_v4 group_kept_from_host_v6 group_none broadcast_limited broadcast_directed
    mdns_browsed_inside mdns_browsed_outside ping_many_v4 ping_many_v6
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

# kept_from_host ADDRESS:PORT: where the host is forbidden, a device of the network answers, and a program of the host does not
# hear what was said.
kept_from_host() {
    local log=$WORLD/here.log
    device "$1"
    nsenter --net=/run/netns/host /run/bin/nettool hear "$1" uplink >"$log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$log"
    holds "$(configured --egress 'reject @host' --egress 'allow any' -- \
        /run/bin/nettool call "$1" uplink "for the network")" "answered by"
    configured --egress 'allow any' -- /run/bin/nettool call "$1" uplink "for all"
    until_true 10 grep -q "heard for all" "$log"
    lacks "$(cat "$log")" "for the network"
}
case_group_kept_from_host_v4() { kept_from_host 239.255.255.250:1900; }
case_group_kept_from_host_v6() { kept_from_host '[ff02::c]:1900'; }

case_group_none() {
    device 239.255.255.250:1900
    holds "$(configured --no-multicast -- /run/bin/nettool call 239.255.255.250:1900 uplink x || true)" failed
    holds "$(configured --egress 'drop @multicast' --egress 'allow any' -- \
        /run/bin/nettool call 239.255.255.250:1900 uplink x || true)" failed
    holds "$(configured --no-multicast -- /run/bin/nettool call 192.0.2.255:1900 uplink x || true)" failed
    lacks "$(cat "$WORLD/device.log")" heard
}

# with_avahi NAME SCRIPT: the words that run SCRIPT beside a daemon of mDNS that calls its host NAME, with a bus of its own.
# It wants to be root, and users that the machine may not have.
with_avahi() {
    printf '%s\n' "mount -t tmpfs tmpfs /run/avahi-daemon
        cd /run/avahi-daemon
        printf 'root:x:0:0::/:/bin/sh\navahi:x:0:0::/:/bin/sh\n' >passwd
        printf 'root:x:0:\navahi:x:0:\nnetdev:x:0:\n' >group
        mount --bind passwd /etc/passwd
        mount --bind group /etc/group
        printf '%s\n' '<busconfig><listen>unix:path=/run/avahi-daemon/bus</listen><policy context=\"default\">' \
            '<allow own=\"*\"/><allow send_destination=\"*\"/><allow eavesdrop=\"true\"/></policy></busconfig>' >bus.conf
        printf '%s\n' '[server]' host-name=$1 'allow-interfaces=uplink,hosts' '[wide-area]' enable-wide-area=no \
            '[publish]' publish-workstation=no publish-hinfo=no >avahi.conf
        PATH=\$PATH:/run/guests/clients/bin
        export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/avahi-daemon/bus LD_LIBRARY_PATH=$LIBRARIES
        dbus-daemon --config-file=bus.conf --nofork --nopidfile >bus.log 2>&1 &
        timeout 10 sh -c 'until [ -S bus ]; do sleep 0.05; done'
        avahi-daemon -f /run/avahi-daemon/avahi.conf --no-drop-root --no-chroot --no-proc-title --no-rlimits >avahi.log 2>&1 &
        trap 'kill \$(jobs -p)' EXIT
        trap 'exit 1' TERM
        timeout 10 sh -c 'until grep complete avahi.log; do sleep 0.05; done' >/dev/null || { cat bus.log avahi.log; exit 1; }
        { $2
        } & wait \$!"
}
# avahi_in NAMESPACE SCRIPT: the same in a network of the test's, called by its name.
avahi_in() { exec nsenter --net="/run/netns/$1" unshare --mount bash -euc "$(with_avahi "$1" "$2")"; }
# Looks until there is one service of the test's kind over each family: family, name, host, address and port of each.
# shellcheck disable=SC2016 # for the shell inside
BROWSE='for _ in 1 2 3 4 5 6 7 8; do
        timeout 10 avahi-browse -ptrk _passt._tcp 2>&1 | grep "^=;" >found || true
        [ "$(cut -d ";" -f 3 found | sort -u | wc -l)" -ne 2 ] || break
    done
    cut -d ";" -f 3,4,7-9 found | sort -u'

case_mdns_browsed_inside() {
    local here there
    mkdir -p /run/avahi-daemon
    beside_gateway
    (avahi_in outside 'avahi-publish-service printer _passt._tcp 631') >"$WORLD/published.log" 2>&1 &
    remember $!
    until_true 20 grep -q Established "$WORLD/published.log" || { cat "$WORLD/published.log"; return 1; }
    there=$(configured -- bash -euc "$(with_avahi inside "$BROWSE")" | cut -d ';' -f 1-3,5)
    here=$( (avahi_in host "$BROWSE") | cut -d ';' -f 1-3,5)
    echo "$here"
    same "$there" "$here"
    same "$there" $'IPv4;printer;outside.local;631\nIPv6;printer;outside.local;631'
}
# The service is found by its name, and reached by what was found.
case_mdns_browsed_outside() {
    local found
    mkdir -p /run/avahi-daemon
    beside_gateway
    background -t 7001 -- bash -euc "$(with_avahi inside "/run/bin/nettool serve '[::]:7001' &
        avahi-publish-service files _passt._tcp 7001")"
    until_true 20 grep -q Established "$WORLD/inside.log" || { cat "$WORLD/inside.log"; return 1; }
    found=$( (avahi_in outside "$BROWSE"))
    # Each of the two addresses may be told over each family.
    same "$(cut -d ';' -f 1-3,5 <<<"$found")" $'IPv4;files;inside.local;7001\nIPv6;files;inside.local;7001'
    same "$(cut -d ';' -f 4 <<<"$found" | grep -vxF -e "$HOST4" -e "$HOST6")" ''
    outside get "$HOST4:7001" 2048 41
    outside get "[$HOST6]:7001" 2048 42
}

# Who answers a ping, without what is the program's own.
answerers() { sed -nE 's/.* bytes from ([0-9a-f.:]+).*/\1/p' | sort -u; }
case_ping_many_v4() {
    local to
    beside_gateway
    in_net outside sh -c 'echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts'
    for to in 224.0.0.1 192.0.2.255 255.255.255.255; do
        alike answerers ping -n -b -c 2 -i 0.2 -W 2 "$to"
        lacks "$(configured --no-multicast -- ping -n -b -c 1 -W 1 "$to" 2>&1 || true)" ' bytes from '
    done
}
# Inside there is one host more: itself.
case_ping_many_v6() {
    local here there
    here=$(in_net host ping -6 -n -c 2 -i 0.2 -W 2 ff02::1%uplink | answerers)
    same "$(wc -l <<<"$here")" 2
    there=$(in_shell 'ip -o -6 addr show dev uplink scope link | sed -E "s|.*inet6 ([^/]*)/.*|own \1|"
        ping -6 -n -c 2 -i 0.2 -W 2 ff02::1%uplink')
    echo "$there"
    same "$(answerers <<<"$there" | grep -vxF "$(sed -n 's/^own //p' <<<"$there")")" "$here"
}
