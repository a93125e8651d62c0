# shellcheck shell=bash
# What pasta promises: one function for each, run in a subshell under `set -e`. Scripts
# in single quotes are for the shell inside.
# shellcheck disable=SC2016

# shellcheck disable=SC2034 # used by the script that sources this file
CASES=(
    tcp_out_v4 tcp_out_v6 udp_out_v4 udp_out_v6 ping_v4 ping_v6
    inbound_tcp_v4 inbound_tcp_v6 inbound_udp_v4 inbound_udp_v6
    inbound_translated inbound_bound_to_address bulk_mtu_1500
    host_by_gateway host_not_by_gateway host_by_guest_address
    addresses_copied link_local_address routes_copied address_given one_address gateway_given mac_given
    interface_name mtu_given families local_mode not_configured
    route_without_gateway gateway_stands_in gateway_stands_in_without_ipv6 gateway_stands_in_by_dhcp no_default_route
    without_ipv6 without_ipv6_later host_without_ipv6
    dns_matched dns_v6_to_v4 dns_v4_to_v6 dns_host dns_on_loopback dns_unreadable outbound_of_nobody neighbours_seen
    status_passed signal_passed login_shell hostname_set ping_range process_ids no_pid_namespace
    command_missing end_by_signal
    bypass_tcp_v4 bypass_tcp_v6 bypass_udp_v4 bypass_udp_v6 bypass_to_command no_splice loopback_kept
    from_namespace_tcp from_namespace_udp services_inside_followed services_outside_followed
    isolated_outside isolated_host isolated_loopback egress_file egress_name egress_reject egress_wrong
    published_port_awaits_service
    helper_ends confined
    join_by_pid join_by_name user_namespace_joined podman_arguments rootlesskit_arguments namespace_gone
    namespace_stays process_gone process_not_reaped thread_gone pid_file
    dhcp_udhcpc dhcp_dhclient dhcp_dhcpcd dhcpv6_client ra_address
    dhcp_elsewhere_before dhcp_options_added dhcpv6_options_added ra_options_added dhcpv6_dhclient arp_probe static_address
    wrong_options device_removed
    root_becomes_nobody root_becomes_another root_joins netns_only_joins
)

same() { [ "$1" = "$2" ] || { echo "found '$1' instead of '$2'"; return 1; }; }
holds() { case $1 in *"$2"*) ;; *) echo "'$2' is not in '$1'"; return 1 ;; esac; }
lacks() { case $1 in *"$2"*) echo "'$2' is in '$1'"; return 1 ;; esac; }
outside() { in_net outside /run/bin/nettool "$@"; }

# pasta ARGUMENT...: as an ordinary user, in the host's network.
pasta() { (become_user /run/bin/pasta "$@"); }

# configured ARGUMENT... -- COMMAND...
configured() { pasta --config-net "$@"; }

# shell SCRIPT: the end of an argument list that runs a script inside.
in_shell() { configured -- bash -euc "$1"; }

start_outside() {
    nsenter --net=/run/netns/outside /run/bin/nettool serve "$SERVER4:5000" "[$SERVER6]:5000" >"$LOGS/serve.log" 2>&1 &
    # Servers of the host itself: on its loopback, and on its outer address.
    nsenter --net=/run/netns/host /run/bin/nettool serve 127.0.0.1:5600 '[::1]:5600' "$HOST4:5601" "[$HOST6]:5601" >"$LOGS/host.log" 2>&1 &
    until_true 10 grep -q ready "$LOGS/serve.log" && until_true 10 grep -q ready "$LOGS/host.log"
}

# background ARGUMENT...: pasta with a server inside; returns when that is ready.
background() {
    rm -f "$WORLD/inside.log"
    (become_user /run/bin/pasta --config-net "$@") >"$WORLD/inside.log" 2>&1 &
    echo $! >>"$WORLD/jobs"
    until_true 10 grep -q ready "$WORLD/inside.log" || { cat "$WORLD/inside.log"; return 1; }
}
served=(-- /run/bin/nettool serve '[::]:7001' '[::]:9003')

# remember PID: to be ended after the case.
remember() { echo "$1" >>"$WORLD/jobs"; }
stop_all() {
    local pid
    [ -e "$WORLD/jobs" ] || return 0
    while read -r pid; do
        kill "$pid" 2>/dev/null || true
        until_true 5 has_ended "$pid" || warn "process $pid does not end"
    done <"$WORLD/jobs"
    rm -f "$WORLD/jobs"
}

# has_ended PID: nothing of it is left but perhaps its exit code.
has_ended() { ! kill -0 "$1" || [ "$(cut -d ' ' -f 3 "/proc/$1/stat")" = Z ]; }

tcp_out() {
    in_shell "cd /run/bin
        ./nettool get $1:5000 2048 1; ./nettool put $1:5000 2048 2
        ./nettool get $1:5000 10000000 3; ./nettool put $1:5000 10000000 4
        ./nettool late $1:5000 1000000 5; ./nettool short $1:5000 100"
}
case_tcp_out_v4() { tcp_out "$SERVER4"; }
case_tcp_out_v6() { tcp_out "[$SERVER6]"; }
case_udp_out_v4() { configured -- /run/bin/nettool udp "$SERVER4:5000" 65492; }
case_udp_out_v6() { configured -- /run/bin/nettool udp "[$SERVER6]:5000" 65472; }
case_ping_v4() { configured -- busybox ping -c 3 -i 0.2 -W 5 "$SERVER4"; }
case_ping_v6() { configured -- busybox ping -6 -c 3 -i 0.2 -W 5 "$SERVER6"; }

inbound_tcp() {
    background -t 7001 "${served[@]}"
    outside get "$1:7001" 2048 11
    outside get "$1:7001" 10000000 12
    outside put "$1:7001" 10000000 13
}
case_inbound_tcp_v4() { inbound_tcp "$HOST4"; }
case_inbound_tcp_v6() { inbound_tcp "[$HOST6]"; }
case_inbound_udp_v4() { background -u 7001 "${served[@]}" && outside udp "$HOST4:7001" 65492; }
case_inbound_udp_v6() { background -u 7001 "${served[@]}" && outside udp "[$HOST6]:7001" 65472; }

case_inbound_translated() {
    background -t 8000-8005:9000-9005 -u 8003:9003 "${served[@]}"
    outside get "$HOST4:8003" 2048 14
    outside udp "[$HOST6]:8003" 1000
    same "$(outside connect "$HOST4:8006")" refused
}
case_inbound_bound_to_address() {
    background -t "$HOST4/7001" "${served[@]}"
    outside get "$HOST4:7001" 2048 15
    same "$(outside connect "[$HOST6]:7001")" refused
}
case_bulk_mtu_1500() {
    background -m 1500 -t 7001 "${served[@]}"
    outside get "$HOST4:7001" 10000000 16
    outside put "[$HOST6]:7001" 10000000 17
    configured -m 1500 -- bash -euc "/run/bin/nettool get $SERVER4:5000 10000000 18
        /run/bin/nettool put [$SERVER6]:5000 10000000 19"
}

case_host_by_gateway() {
    in_shell "/run/bin/nettool get $GATEWAY4:5600 2048 21; /run/bin/nettool get [$GATEWAY6]:5600 2048 22"
}
case_host_not_by_gateway() {
    same "$(configured --no-map-gw -- /run/bin/nettool connect "$GATEWAY4:5600")" refused
    same "$(configured --no-map-gw -- /run/bin/nettool connect "[$GATEWAY6]:5600")" refused
}
case_host_by_guest_address() {
    configured --map-guest-addr 192.0.2.99 -- /run/bin/nettool get 192.0.2.99:5601 2048 23
    configured --map-guest-addr 2001:db8:2::99 -- /run/bin/nettool get "[2001:db8:2::99]:5601" 2048 24
}

case_addresses_copied() {
    local found
    ip -n host addr add 198.51.100.20/32 dev uplink
    ip -n host addr add 2001:db8:2::20/64 dev uplink nodad
    found=$(in_shell 'ip -o addr show dev uplink')
    ip -n host addr del 198.51.100.20/32 dev uplink
    ip -n host addr del 2001:db8:2::20/64 dev uplink
    holds "$found" "inet $HOST4/24"
    holds "$found" 'inet 198.51.100.20/32'
    holds "$found" "inet6 $HOST6/64 scope global"
    holds "$found" 'inet6 2001:db8:2::20/64'
    lacks "$found" tentative
}
case_link_local_address() {
    local found
    # Usable at once, without asking whether somebody has it, and back when the device comes back.
    found=$(in_shell 'ip -o -6 addr show dev uplink scope link
        ip link set uplink down; ip link set uplink up; ip -o -6 addr show dev uplink scope link')
    lacks "$(head -1 <<<"$found")" tentative
    holds "$(head -1 <<<"$found")" 'scope link nodad'
    same "$(awk '{ print $4 }' <<<"$found" | uniq -c | awk '{ print $1 }')" 2
}
case_routes_copied() {
    local found
    # A gateway that only another route leads to, weights, and one outside of every prefix.
    ip -n host route add 203.0.113.64/32 dev uplink
    ip -n host route add 203.0.113.128/25 via 203.0.113.64
    ip -n host route add 198.51.100.0/25 nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.3 weight 2
    ip -n host route add 198.51.100.128/25 via 203.0.113.250 dev uplink onlink metric 77
    found=$(in_shell 'ip route; ip -6 route')
    ip -n host route del 198.51.100.128/25
    ip -n host route del 198.51.100.0/25
    ip -n host route del 203.0.113.128/25
    ip -n host route del 203.0.113.64/32
    holds "$found" "default via $GATEWAY4 dev uplink"
    holds "$found" '203.0.113.64 dev uplink scope link'
    holds "$found" '203.0.113.128/25 via 203.0.113.64'
    holds "$found" 'via 192.0.2.3 dev uplink weight 2'
    holds "$found" '198.51.100.128/25 via 203.0.113.250 dev uplink metric 77 onlink'
    holds "$found" "default via $GATEWAY6 dev uplink"
    same "$(grep -c '^192.0.2.0/24' <<<"$found")" 1
}
case_address_given() {
    local found
    found=$(configured -a 192.0.2.50 -n 25 -a 2001:db8:2::50 -- ip -o addr)
    holds "$found" 'inet 192.0.2.50/25'
    holds "$found" 'inet6 2001:db8:2::50/64'
    lacks "$found" "$HOST4/24"
    configured -a 192.0.2.50 -n 24 -- /run/bin/nettool get "$SERVER4:5000" 2048 31
}
case_one_address() {
    local found
    found=$(configured --no-copy-addrs --no-copy-routes -- bash -c 'ip -o addr; ip route; ip -6 route' 2>&1)
    holds "$found" '--no-copy-addrs will be dropped soon: use --address'
    holds "$found" "inet $HOST4/24"
    holds "$found" "default via $GATEWAY4"
    holds "$found" "default via $GATEWAY6"
}
case_gateway_given() {
    local found
    found=$(configured -g 192.0.2.7 -g 2001:db8:2::7 -- bash -c 'ip route; ip -6 route')
    holds "$found" 'default via 192.0.2.7'
    holds "$found" 'default via 2001:db8:2::7'
    configured -g 192.0.2.7 -- /run/bin/nettool get 192.0.2.7:5600 2048 32
}
case_mac_given() {
    holds "$(configured --ns-mac-addr 02:00:00:12:34:56 -- ip link)" 02:00:00:12:34:56
}
case_interface_name() {
    holds "$(configured -I wan0 -- ip -o link)" ': wan0:'
    holds "$(configured -- ip -o link)" ': uplink:'
}
case_mtu_given() {
    holds "$(configured -m 1280 -- ip -o link show dev uplink)" 'mtu 1280'
    holds "$(configured -- ip -o link show dev uplink)" 'mtu 65520'
}
case_families() {
    lacks "$(configured -4 -- ip -o -6 addr show scope global)" inet6
    lacks "$(configured -6 -- ip -o -4 addr show scope global)" "$HOST4"
    configured -6 -- /run/bin/nettool get "[$SERVER6]:5000" 2048 33
}
# Without a model on the host: link-local addresses. The host here is a namespace of pasta's
# that nobody configured, so this is also pasta as root of a user namespace.
case_local_mode() {
    local found
    found=$(pasta -- /run/bin/pasta --config-net -- bash -c 'ip -o addr; ip route; ip -6 route')
    holds "$found" 'inet 169.254.2.1/16'
    holds "$found" 'default via 169.254.2.2 dev tap0'
    holds "$found" 'default via fe80::1 dev tap0'
}
# A host whose way out is a point-to-point interface, as with ppp and tun: its own address is the guest's, and
# is reached by another one.
case_route_without_gateway() {
    local found
    found=$(pasta -- bash -euc "ip tuntap add ppp0 mode tun
        ip link set ppp0 up
        ip addr add 203.0.113.7 peer 203.0.113.1 dev ppp0
        ip route add default dev ppp0
        /run/bin/nettool serve 203.0.113.7:5601 >serve.log 2>&1 &
        timeout 10 sh -c 'until grep -q ready serve.log; do sleep 0.05; done'
        /run/bin/pasta --config-net --map-guest-addr 192.0.2.99 -- bash -euc 'ip -o -4 addr; ip route
            /run/bin/nettool get 192.0.2.99:5601 1000000 25; /run/bin/nettool udp 192.0.2.99:5601 1000'
        kill \$!")
    holds "$found" 'ppp0    inet 203.0.113.7 peer 203.0.113.1/32'
    holds "$found" 'default dev ppp0 scope link'
}
# behind ROUTE SCRIPT ARGUMENT...: pasta ARGUMENT... with a SCRIPT inside, that prints how it is configured, on a host whose
# default route is ROUTE. Out, in, and to the host at the gateway that pasta stands in for; the host's own address is the
# namespace's, too, and who comes from it comes from that gateway.
behind() {
    local route=$1 script=$2
    shift 2
    rm -f "$WORLD"/{host,inner,told}.log "$WORLD/over"
    cat >"$WORLD/inner.sh" <<END
        set -eu
        $script
        /run/bin/nettool serve 0.0.0.0:7001 >inner.log 2>&1 &
        busybox nc -ll -p 7002 -e ss -Htn 'sport = :7002' &
        timeout 10 sh -c 'until grep -qs ready inner.log; do sleep 0.05; done'
        /run/bin/nettool get $SERVER4:5000 1000000 81; /run/bin/nettool udp $SERVER4:5000 1000
        /run/bin/nettool get 169.254.2.2:5600 2048 82; /run/bin/nettool udp 169.254.2.2:5600 1000
        echo ready >>told.log
        timeout 60 sh -c 'until [ -e over ]; do sleep 0.05; done'
END
    pasta --config-net -t none -u none -T none -U none -- bash -euc "ip -4 route del default; ip -4 route add default $route
        /run/bin/nettool serve 127.0.0.1:5600 >host.log 2>&1 &
        timeout 10 sh -c 'until grep -qs ready host.log; do sleep 0.05; done'
        /run/bin/pasta $* -t 7001,7002 -u 7001 -T none -U none -- bash inner.sh >told.log 2>&1 &
        timeout 20 sh -c 'until grep -qsx ready told.log; do sleep 0.05; done'
        /run/bin/nettool get $HOST4:7001 1000000 83; /run/bin/nettool udp $HOST4:7001 1000
        /run/bin/nettool get 127.0.0.1:7001 2048 84
        busybox nc -w 5 $HOST4 7002 </dev/null >>told.log
        touch over; wait %2" || { cat "$WORLD"/*.log; return 1; }
    cat "$WORLD/told.log"
    grep -F "$HOST4]:7002 [::ffff:169.254.2.2]:" "$WORLD/told.log" >/dev/null
}
# inside_behind ROUTE WANTED ARGUMENT...: the same with --config-net, and a default route WANTED inside.
inside_behind() {
    local route=$1 wanted=$2 found
    shift 2
    found=$(behind "$route" 'ip -4 route' --config-net "$@") || { echo "$route: $found"; return 1; }
    holds "$found" "$wanted"
}
STAND_IN='default via 169.254.2.2 dev uplink onlink' STAND_IN_HOP='nexthop via 169.254.2.2 dev uplink weight 1 onlink'
OVER_BOTH="nexthop via inet6 fe80::99 dev uplink weight 1 nexthop via $GATEWAY4 dev uplink weight 1"
case_gateway_stands_in() {
    inside_behind 'dev uplink' 'default dev uplink scope link'
    inside_behind 'via inet6 fe80::99 dev uplink' 'default via inet6 fe80::99 dev uplink'
    inside_behind 'via inet6 2001:db8:2::99 dev uplink' 'default via inet6 2001:db8:2::99 dev uplink'
    inside_behind "$OVER_BOTH" 'nexthop via inet6 fe80::99 dev uplink weight 1'
    inside_behind 'dev uplink' "$STAND_IN" --no-copy-routes
    inside_behind 'via inet6 fe80::99 dev uplink' "$STAND_IN" --no-copy-routes
}
# Where the namespace cannot ask for a neighbour by IPv6, its routes lead over the stand-in.
case_gateway_stands_in_without_ipv6() {
    inside_behind 'via inet6 fe80::99 dev uplink' "$STAND_IN" -4
    inside_behind 'via inet6 fe80::99 dev uplink' "$STAND_IN" --no-ndp
    inside_behind "$OVER_BOTH" "$STAND_IN_HOP" -4
}
# shellcheck disable=SC2016 # for the shell inside
case_gateway_stands_in_by_dhcp() {
    local found
    cat >"$WORLD/lease.sh" <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
set -- $staticroutes
while [ $# -gt 1 ]; do
    case $2 in
    0.0.0.0) ip route add "$1" dev "$interface" ;;
    *) ip route add "$1" via "$2" dev "$interface" ;;
    esac
    shift 2
done
END
    chmod 755 "$WORLD/lease.sh"
    found=$(behind 'dev uplink' 'ip link set uplink up; busybox udhcpc -i uplink -n -q -f -s "$PWD/lease.sh"
        ip -4 route') || { echo "$found"; return 1; }
    holds "$found" "lease of $HOST4 obtained from 169.254.2.2"
    holds "$found" 'default via 169.254.2.2 dev uplink'
}
# A host without any default route: the guest gets no router, but the routes that there are, with and without DHCP, and
# is reached from the host's own address.
case_no_default_route() {
    local found way
    cat >"$WORLD/routes.sh" <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
echo "router ${router:-none} dns $dns"
ip addr add "$ip/$mask" dev "$interface"
set -- $staticroutes
while [ $# -gt 1 ]; do
    case $2 in
    0.0.0.0) ip route add "$1" dev "$interface" ;;
    *) ip route add "$1" via "$2" dev "$interface" ;;
    esac
    shift 2
done
END
    chmod 755 "$WORLD/routes.sh"
    for way in '--config-net --no-copy-addrs' '--dhcp-dns'; do
        rm -f "$WORLD"/{inner,told}.log "$WORLD/over"
        cat >"$WORLD/inner.sh" <<END
            set -eu
            case '$way' in --dhcp*) ip link set uplink up; busybox udhcpc -i uplink -n -q -f -s "\$PWD/routes.sh" ;; esac
            ip -4 route
            /run/bin/nettool serve 0.0.0.0:7001 >inner.log 2>&1 &
            timeout 10 sh -c 'until grep -qs ready inner.log; do sleep 0.05; done'
            /run/bin/nettool get $SERVER4:5000 1000000 85; /run/bin/nettool get 169.254.2.2:5600 2048 86
            echo ready >>told.log
            timeout 60 sh -c 'until [ -e over ]; do sleep 0.05; done'
END
        pasta --config-net -t none -u none -T none -U none -- bash -euc "ip -4 route del default
            ip -4 route add ${SERVER4%.*}.0/24 via $GATEWAY4
            ip link add lab0 type veth peer name lab1; ip link set lab1 up; ip link set lab0 up; ip addr add 192.0.2.129/25 dev lab0
            /run/bin/nettool serve 127.0.0.1:5600 >host.log 2>&1 &
            timeout 10 sh -c 'until grep -qs ready host.log; do sleep 0.05; done'
            /run/bin/pasta $way -t 7001 -u none -T none -U none -- bash inner.sh >told.log 2>&1 &
            timeout 20 sh -c 'until grep -qsx ready told.log; do sleep 0.05; done'
            /run/bin/nettool get $HOST4:7001 1000000 87
            touch over; wait %2" || { cat "$WORLD"/*.log; return 1; }
        found=$(cat "$WORLD/told.log")
        echo "$way: $found"
        holds "$found" "${SERVER4%.*}.0/24 via $GATEWAY4 dev uplink"
        holds "$found" '169.254.2.2 dev uplink scope link'
        lacks "$found" default
    done
    holds "$found" "router none dns $SERVER4"
    holds "$found" '192.0.2.128/25 via 169.254.2.2 dev uplink'
}
# disable_ipv6 SCOPE...: as joined containers have it.
disable_ipv6() { inside sh -c 'for scope; do echo 1 >/proc/sys/net/ipv6/conf/$scope/disable_ipv6; done' sh "$@"; }
# Where IPv6 is switched off inside, IPv4 works, and one line says what does not.
case_without_ipv6() {
    local found
    holder
    disable_ipv6 all default
    found=$(started --config-net -t 7001 -t '[::1]/7009' -u 7001 "$HOLDER" 2>&1 | grep -v nameserver)
    remember "$(cat "$WORLD/pasta.pid")"
    same "$(grep -c 'IPv6 not supported, disabling' <<<"$found")" 1
    holds "$found" '7009  =>  7009 : not listened on, the namespace has no IPv6'
    same "$(grep -ciE "warn|couldn't|fail" <<<"$found")" 0
    inside /run/bin/nettool get "$SERVER4:5000" 2048 26
    serving 0.0.0.0:7001
    from_host get 127.0.0.1:7001 2048 27
    outside get "$HOST4:7001" 2048 28
    from_host udp 127.0.0.1:7001 1000
    refused_at '[::1]:7001'
    found=$(pasta --config-net -6 -I other0 "$HOLDER" 2>&1) && return 1
    holds "$found" 'drop --ipv6-only, or switch IPv6 on there'
}
# Off for new interfaces only, and off without any configuration by pasta.
case_without_ipv6_later() {
    holder
    disable_ipv6 default
    started --config-net "$HOLDER"
    inside /run/bin/nettool get "$SERVER4:5000" 2048 29
    lacks "$(inside ip -6 -o addr show dev uplink)" inet6
    kill -TERM "$(cat "$WORLD/pasta.pid")"
    until_true 5 ended
    started -I other0 "$HOLDER"
    kill -TERM "$(cat "$WORLD/pasta.pid")"
    until_true 5 ended
    # An interface of which an address is given, and an address that the host has of each family.
    started -I third0 --config-net -a 192.0.2.50 -n 24 -a 2001:db8:2::50 "$HOLDER"
    inside /run/bin/nettool get "$SERVER4:5000" 2048 30
}
# As on a host that was booted with ipv6.disable_ipv6=1, where not even loopback has an address of IPv6.
case_host_without_ipv6() {
    local found
    rm -f "$WORLD"/{host,inner,told}.log "$WORLD/over"
    found=$(pasta --config-net -t none -u none -T none -U none -- bash -euc "
        for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >\$file; done
        ip -6 addr
        /run/bin/nettool serve 127.0.0.1:5600 >host.log 2>&1 &
        timeout 10 sh -c 'until grep -qs ready host.log; do sleep 0.05; done'
        /run/bin/pasta --config-net -t 7001 -u 7001 -T auto -U none -- bash -euc '
            /run/bin/nettool serve 0.0.0.0:7001 >inner.log 2>&1 &
            timeout 10 sh -c \"until grep -qs ready inner.log; do sleep 0.05; done\"
            echo ready
            /run/bin/nettool get $SERVER4:5000 1000000 73; /run/bin/nettool get $GATEWAY4:5600 2048 74
            timeout 10 sh -c \"until /run/bin/nettool get 127.0.0.1:5600 2048 75; do sleep 0.2; done\"
            timeout 60 sh -c \"until [ -e over ]; do sleep 0.05; done\"' >told.log 2>&1 &
        timeout 20 sh -c 'until grep -qsx ready told.log; do sleep 0.05; done'
        /run/bin/nettool get 127.0.0.1:7001 2048 76; /run/bin/nettool get $HOST4:7001 1000000 77
        /run/bin/nettool udp $HOST4:7001 1000
        touch over; wait %2" 2>&1) || { echo "$found"; cat "$WORLD"/{host,inner,told}.log; return 1; }
    cat "$WORLD/told.log"
    lacks "$found" inet6
    lacks "$(grep -iE "warn|couldn't|fail" "$WORLD/told.log")" IPv4
}
case_not_configured() {
    local found
    found=$(pasta -- ip -o addr)
    holds "$found" '127.0.0.1/8'
    lacks "$found" "$HOST4"
    holds "$(pasta -- ip -o link show dev lo)" UP
}

# resolv_conf LINE...: the host's resolv.conf until the end of the case.
resolv_conf() {
    [ -e "$WORLD/resolv.saved" ] || cp "$WORLD/resolv.conf" "$WORLD/resolv.saved"
    trap 'cat "$WORLD/resolv.saved" >"$WORLD/resolv.conf"' EXIT
    printf '%s\n' "$@" >"$WORLD/resolv.conf"
}
# serves NAMESPACE ARGUMENT...: nettool there, until the end of the case.
serves() {
    local namespace=$1 log
    log=$(mktemp -p "$WORLD")
    shift
    nsenter --net="/run/netns/$namespace" /run/bin/nettool "$@" >"$log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$log"
}
# name_server NAMESPACE ADDRESS: one that knows NAME.
name_server() {
    serves "$1" dns "$2:53" "$NAME" "$SERVER4" "$SERVER6"
}
# resolves SERVER ARGUMENT...: the name is found by asking SERVER inside.
resolves() {
    local server=$1 found
    shift
    found=$(configured "$@" -- busybox nslookup "$NAME" "$server")
    holds "$found" "$SERVER4"
    holds "$found" "$SERVER6"
}
# forwarded_by ADDRESS:PORT SERVER:PORT ARGUMENT...: both protocols lead from one to the other.
forwarded_by() {
    local address=$1 server=$2
    shift 2
    serves outside serve "$server"
    configured "$@" -- bash -euc "cd /run/bin; ./nettool udp $address 4000
        ./nettool get $address 1000000 35; ./nettool put $address 1000000 36; ./nettool late $address 1000000 37"
}
FORWARD4=192.0.2.98 FORWARD6=2001:db8:2::98

case_dns_matched() {
    name_server outside "$SERVER4"
    resolves "$FORWARD4" --dns-forward "$FORWARD4"
}
case_dns_v6_to_v4() {
    resolv_conf "nameserver $SERVER4"
    name_server outside "$SERVER4"
    resolves "$FORWARD6" --dns-forward "$FORWARD6"
    resolves "$FORWARD6" --dns-forward "$FORWARD6" -6
    holds "$(configured --dns-forward "$FORWARD6" -- /run/bin/nettool udp-error "[$FORWARD6]:853")" refused
    forwarded_by "[$FORWARD6]:853" "$SERVER4:853" --dns-forward "$FORWARD6"
}
case_dns_v4_to_v6() {
    resolv_conf "nameserver $SERVER6"
    name_server outside "[$SERVER6]"
    resolves "$FORWARD4" --dns-forward "$FORWARD4"
    resolves "$FORWARD4" --dns-forward "$FORWARD4" -4
    holds "$(configured --dns-forward "$FORWARD4" -- /run/bin/nettool udp-error "$FORWARD4:853")" refused
    forwarded_by "$FORWARD4:853" "[$SERVER6]:853" --dns-forward "$FORWARD4"
}
case_dns_host() {
    resolv_conf '# nothing'
    name_server outside "$SERVER4"
    resolves "$FORWARD4" --dns-forward "$FORWARD4" --dns-host "$SERVER4"
    resolves "$FORWARD6" --dns-forward "$FORWARD6" --dns-host "$SERVER4"
    resolv_conf "nameserver $SERVER6"
    resolves "$FORWARD4" --dns-forward "$FORWARD4" --dns-host "$SERVER4"
    forwarded_by "$FORWARD4:53" "[$SERVER6]:53" --dns-forward "$FORWARD4"
}
# A server on the host's loopback address is reached at an address that stands for the host.
case_dns_on_loopback() {
    resolv_conf 'nameserver 127.0.0.53'
    name_server host 127.0.0.53
    resolves "$GATEWAY4"
    resolves 169.254.1.1 --no-map-gw --dns-forward 169.254.1.1
    resolves "$FORWARD6" --no-map-gw --dns-forward "$FORWARD6"
    holds "$(pasta --no-map-gw --dhcp-dns -- true 2>&1)" "No IPv4 nameserver available for DHCP"
}
case_dns_unreadable() {
    local found
    trap 'chmod 644 "$WORLD/resolv.conf"' EXIT
    chmod 000 "$WORLD/resolv.conf"
    found=$(pasta -- true 2>&1)
    holds "$found" "Couldn't read /etc/resolv.conf: Permission denied: give name servers by --dns"
}
# It may come later: a start goes on.
case_outbound_of_nobody() {
    local address found
    for address in 203.0.113.77 2001:db8:77::1 fe80::77; do
        found=$(pasta --outbound "$address" -- echo started 2>&1)
        case $address in
        fe80::*) holds "$found" "--outbound $address: uplink does not have it" ;;
        *) holds "$found" "--outbound $address: no interface of this host has it" ;;
        esac
        holds "$found" started
    done
    lacks "$(pasta --outbound "$HOST4" -- true 2>&1)" '--outbound'
}

# seen_as ADDRESS MAC: the namespace of the holder has learned it so.
seen_as() { inside ip neigh show "$1" dev uplink | grep "lladdr $2 " >/dev/null; }
# found_as ADDRESS MAC: the same when it asks.
found_as() {
    inside busybox ping -c 1 -W 1 "$1" >/dev/null 2>&1 || true
    seen_as "$1" "$2" || { inside ip neigh; return 1; }
}
case_neighbours_seen() {
    local prefix router station=02:00:00:00:00:70
    for prefix in 192.0.2.7 2001:db8:2::7; do
        ip -n host neigh replace "${prefix}0" lladdr "$station" dev uplink nud permanent
    done
    holder
    started --config-net "$HOLDER"
    for prefix in 192.0.2.7 2001:db8:2::7; do
        found_as "${prefix}0" "$station"
        found_as "${prefix}1" 9a:55:9a:55:9a:55
        ip -n host neigh replace "${prefix}1" lladdr "$station" dev uplink nud permanent
        until_true 5 seen_as "${prefix}1" "$station"
    done
    found_as "$GATEWAY4" 9a:55:9a:55:9a:55
    ip -n host neigh flush dev uplink nud permanent
    router=$(ip -n outside -o link show dev hosts | sed 's/.*ether //; s/ .*//')
    outside connect "$HOST4:1"
    outside connect "[$HOST6]:1"
    holder
    started --config-net --no-map-gw "$HOLDER"
    found_as "$GATEWAY6" "$router"
    found_as 192.0.2.71 "$router"
}

# status ARGUMENT...: prints the exit code.
status() {
    local code=0
    "$@" || code=$?
    echo "$code"
}
case_status_passed() {
    same "$(status configured -- sh -c 'exit 7')" 7
    same "$(status configured -- true)" 0
}
case_signal_passed() {
    same "$(status configured --no-pidns -- sh -c 'kill -USR1 $$')" 138
    same "$(status configured -- sh -c 'kill -USR1 $$')" 138
}
case_login_shell() {
    same "$(echo 'echo $0' | SHELL=/bin/sh configured)" -/bin/sh
}
case_hostname_set() {
    same "$(configured -H somewhere -- uname -n)" somewhere
    same "$(configured -- uname -n)" "pasta-$(uname -n)"
}
case_ping_range() { same "$(configured -- cat /proc/sys/net/ipv4/ping_group_range)" "0	0"; }
case_process_ids() {
    same "$(in_shell 'cat /proc/1/comm')" pasta-init
    same "$(in_shell 'echo $$ $PPID')" '2 1'
    [ "$(in_shell 'ls /proc | grep -cx "[0-9]*"')" -le 4 ]
}
case_no_pid_namespace() { [ "$(configured --no-pidns -- bash -c 'echo $$')" -gt 1 ]; }
case_command_missing() {
    local found
    found=$(configured -- /nowhere/at/all 2>&1) && return 1
    holds "$found" 'Failed to start command or shell'
    same "$(status configured -- /nowhere/at/all)" 1
}
case_end_by_signal() {
    background -t 7001 -P "$WORLD/pasta.pid" "${served[@]}"
    local job code=0
    job=$(tail -n 1 "$WORLD/jobs")
    kill -TERM "$(cat "$WORLD/pasta.pid")"
    wait "$job" || code=$?
    same "$code" 143
}

# holder: namespaces to join, made by an ordinary user, held by a sleeping process.
holder() {
    (become_user unshare --user --map-root-user --net sleep 300) &
    HOLDER=$!
    remember "$HOLDER"
    until_true 10 grep -qx sleep "/proc/$HOLDER/comm"
}
# inside COMMAND...: in the holder's namespaces.
inside() {
    (become_user nsenter --user="/proc/$HOLDER/ns/user" --net="/proc/$HOLDER/ns/net" --preserve-credentials "$@")
}

# started ARGUMENT...: pasta in the background; it returns when everything is ready.
started() {
    rm -f "$WORLD/pasta.pid"
    pasta -P "$WORLD/pasta.pid" "$@" || return 1
    remember "$(cat "$WORLD/pasta.pid")"
}
ended() { has_ended "$(cat "$WORLD/pasta.pid")"; }
runs() { ! ended 2>/dev/null; }

# serving ADDRESS...: a server in the holder's namespaces, SERVING.
serving() {
    rm -f "$WORLD/serving.log"
    (become_user nsenter --user="/proc/$HOLDER/ns/user" --net="/proc/$HOLDER/ns/net" --preserve-credentials \
        /run/bin/nettool serve "$@") >"$WORLD/serving.log" 2>&1 &
    SERVING=$!
    remember "$SERVING"
    until_true 10 grep -q ready "$WORLD/serving.log"
}
from_host() { in_net host /run/bin/nettool "$@"; }
# tap_bytes: what has gone through the tap device, both ways.
tap_bytes() { inside awk '$1 == "uplink:" { print $2 + $10 }' /proc/net/dev; }
refused_at() { [ "$(from_host connect "$1")" = refused ]; }

# field PID NAME: a line of what the kernel says about a process.
field() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }

# What pasta and its helper may do; the command is none of the sandbox's business.
case_confined() {
    local program pid helper='' command='' children
    background -t 7001 -P "$WORLD/pasta.pid" "${served[@]}"
    program=$(cat "$WORLD/pasta.pid")
    # The list has no end of line, which read takes for a failure.
    read -ra children <"/proc/$program/task/$program/children" || true
    for pid in "${children[@]}"; do
        case $(cat "/proc/$pid/comm") in
        socket-maker) helper=$pid ;;
        pasta-init) read -r command <"/proc/$pid/task/$pid/children" || true ;;
        esac
    done
    for pid in "$program" "$helper"; do
        same "$(field "$pid" Seccomp) $(field "$pid" NoNewPrivs)" '2 1'
        same "$(field "$pid" CapBnd) $(field "$pid" CapInh)" '0000000000000000 0000000000000000'
    done
    # Low ports of the namespace may be bound to.
    same "$(field "$program" CapEff) $(field "$program" CapPrm)" '0000000000000400 0000000000000400'
    same "$(field "$helper" CapEff) $(field "$helper" CapPrm)" '0000000000000000 0000000000000000'
    same "$(field "$command" Seccomp) $(field "$command" NoNewPrivs)" '0 0'
    [ "$PASST_WORLD_UID" -ne 0 ] || same "$(ls -A "/proc/$program/root")" ''
    from_host get "127.0.0.1:7001" 2048 61
}

bypass_tcp() {
    holder
    started --config-net -t 7001 "$HOLDER"
    serving '[::]:7001'
    from_host get "$1:7001" 10000000 61
    from_host put "$1:7001" 10000000 62
    [ "$(tap_bytes)" -lt 1000000 ]
}
case_bypass_tcp_v4() { bypass_tcp 127.0.0.1; }
case_bypass_tcp_v6() { bypass_tcp '[::1]'; }
bypass_udp() {
    holder
    started --config-net -u 7001 "$HOLDER"
    serving '[::]:7001'
    from_host udp "$1:7001" 60000
    [ "$(tap_bytes)" -lt 60000 ]
}
case_bypass_udp_v4() { bypass_udp 127.0.0.1; }
case_bypass_udp_v6() { bypass_udp '[::1]'; }
case_bypass_to_command() {
    background "${served[@]}"
    until_true 5 from_host get 127.0.0.1:7001 2048 60
    from_host get '[::1]:9003' 10000000 60
}
case_no_splice() {
    holder
    started --config-net --no-splice -t 7001 "$HOLDER"
    serving '[::]:7001'
    from_host get 127.0.0.1:7001 10000000 63
    [ "$(tap_bytes)" -gt 10000000 ]
}
# A service on the namespace's loopback: reached only on demand.
case_loopback_kept() {
    holder
    started --config-net -t 7001 -u 7001 "$HOLDER"
    serving 127.0.0.1:7001 '[::1]:7001'
    if from_host get 127.0.0.1:7001 2048 64; then return 1; fi
    kill -TERM "$(cat "$WORLD/pasta.pid")"
    until_true 5 ended
    started --config-net --host-lo-to-ns-lo -t 7001 -t 0.0.0.0/7002:127.0.0.1/7001 -u 7001 -I other0 "$HOLDER"
    from_host get 127.0.0.1:7001 2048 65
    from_host get '[::1]:7001' 2048 66
    from_host get 127.0.0.1:7002 2048 67
    from_host udp 127.0.0.1:7001 1000
}
case_from_namespace_tcp() {
    holder
    started --config-net -T 8600:5600,5600 -U none "$HOLDER"
    inside /run/bin/nettool get 127.0.0.1:5600 10000000 67
    inside /run/bin/nettool put '[::1]:5600' 10000000 68
    inside /run/bin/nettool get 127.0.0.1:8600 2048 69
    [ "$(tap_bytes)" -lt 1000000 ]
}
case_from_namespace_udp() {
    holder
    started --config-net -T none -U 5600 "$HOLDER"
    inside /run/bin/nettool udp 127.0.0.1:5600 60000
    inside /run/bin/nettool udp '[::1]:5600' 60000
    [ "$(tap_bytes)" -lt 60000 ]
}
case_services_inside_followed() {
    holder
    started --config-net "$HOLDER"
    refused_at 127.0.0.1:7002
    serving '[::]:7002'
    until_true 5 from_host get 127.0.0.1:7002 2048 71
    outside get "$HOST4:7002" 2048 72
    from_host udp 127.0.0.1:7002 1000
    kill -TERM "$SERVING"
    until_true 5 refused_at 127.0.0.1:7002
}
# With `auto` a port that is named is refused like one without a service, until there is one, and again after it.
# Without it the port is listened on all the time: who connects sees a connection that is reset.
case_published_port_awaits_service() {
    holder
    started --config-net -t 8080:7080,auto -t 8081:7081 -u 8080:7080,auto "$HOLDER"
    holds "$(from_host udp 127.0.0.1:8080 1 2>&1)" 'Connection refused'
    refused_at 127.0.0.1:8080
    refused_at '[::1]:8080'
    same "$(outside connect "$HOST4:8080")" refused
    # Perhaps before connect(2) has returned.
    case $(outside connect "$HOST4:8081") in connected | reset) ;; *) return 1 ;; esac
    serving '[::]:7080'
    until_true 5 from_host get 127.0.0.1:8080 2048 76
    outside get "$HOST4:8080" 2048 77
    outside get "[$HOST6]:8080" 2048 78
    until_true 5 from_host udp 127.0.0.1:8080 1000
    kill -TERM "$SERVING"
    until_true 5 refused_at 127.0.0.1:8080
    same "$(outside connect "$HOST4:8080")" refused
}
case_services_outside_followed() {
    holder
    started --config-net "$HOLDER"
    inside /run/bin/nettool get 127.0.0.1:5600 2048 73
    same "$(inside /run/bin/nettool connect 127.0.0.1:5602)" refused
    nsenter --net=/run/netns/host /run/bin/nettool serve 127.0.0.1:5602 >"$WORLD/late.log" 2>&1 &
    remember $!
    until_true 5 inside /run/bin/nettool get 127.0.0.1:5602 2048 74
}
case_isolated_outside() {
    configured --isolate -- /run/bin/nettool get "$SERVER4:5000" 2048 90
    configured --isolate -- /run/bin/nettool get "[$SERVER6]:5000" 2048 91
    configured --isolate -- /run/bin/nettool udp "$SERVER4:5000" 1000
    configured --isolate -- busybox ping -c 1 -W 5 "$SERVER4"
}
# The host by its loopback, by the addresses that stand for it, and by its own; its network, by a broadcast, too.
case_isolated_host() {
    local to
    for to in "$GATEWAY4:5600" "[$GATEWAY6]:5600" 203.0.113.98:5601 203.0.113.99:5600 "$HOST4:5601" 192.0.2.9:80; do
        same "$(configured --isolate --address 192.0.2.77 --map-guest-addr 203.0.113.98 \
            --map-host-loopback 203.0.113.99 -- /run/bin/nettool connect "$to")" refused
    done
    # What is reached without it, so that the refusals above are not those of a closed port.
    configured --address 192.0.2.77 --map-host-loopback 203.0.113.99 -- \
        bash -euc "/run/bin/nettool get 203.0.113.99:5600 2048 92; /run/bin/nettool get $HOST4:5601 2048 93"
    ! configured --isolate -- busybox ping -c 1 -W 2 "$GATEWAY4" || return 1
    ! configured --isolate -- busybox ping -6 -c 1 -W 2 "$GATEWAY6"
}
case_isolated_loopback() {
    same "$(configured --isolate -- /run/bin/nettool connect 127.0.0.1:5600)" refused
    # Ports that are asked for need a rule.
    ! configured --isolate -T 5600 -- /run/bin/nettool get 127.0.0.1:5600 2048 94 || return 1
    ! configured --isolate -T auto -- /run/bin/nettool get 127.0.0.1:5600 2048 95 || return 1
    ! configured --isolate -U 5600 -- timeout 5 /run/bin/nettool udp 127.0.0.1:5600 100 || return 1
    ! configured --isolate -T 5600 -- /run/bin/nettool get '[::1]:5600' 2048 94 || return 1
    configured --isolate -T 5600 --egress 'allow tcp @loopback:5600' -- bash -euc \
        "/run/bin/nettool get 127.0.0.1:5600 2048 96; /run/bin/nettool get '[::1]:5600' 2048 96"
    pasta --splice-only -T 5600 -- /run/bin/nettool get 127.0.0.1:5600 2048 97
    ! pasta --splice-only --isolate -T 5600 -- /run/bin/nettool get 127.0.0.1:5600 2048 97
}
case_egress_file() {
    printf '%s\n' '# what is needed' '' "allow tcp $SERVER4:5000 # a server" 'drop udp any' >"$WORLD/rules"
    chmod a+r "$WORLD/rules"
    configured --egress-file "$WORLD/rules" -- /run/bin/nettool get "$SERVER4:5000" 2048 98
    same "$(configured --egress-file "$WORLD/rules" -- /run/bin/nettool connect "[$SERVER6]:5000")" refused
    configured --egress "allow [$SERVER6]:5000" --egress-file "$WORLD/rules" -- \
        /run/bin/nettool get "[$SERVER6]:5000" 2048 99
}
# A name opens an address once the name server has told it.
case_egress_name() {
    resolv_conf "nameserver $SERVER4"
    name_server outside "$SERVER4"
    configured --egress 'allow @dns' --egress "allow tcp $NAME:5000" -- bash -euc "
        [ \$(/run/bin/nettool connect $SERVER4:5000) = refused ]
        busybox nslookup $NAME $SERVER4
        /run/bin/nettool get $SERVER4:5000 2048 89
        [ \$(/run/bin/nettool connect $SERVER4:5001) = refused ]"
    # Another one may not be asked, though it would answer.
    serves outside dns "[$SERVER6]:53" "$NAME" "$SERVER4" "$SERVER6"
    configured --isolate -- bash -euc "
        busybox nslookup $NAME $SERVER4
        /run/bin/nettool get '[$SERVER6]:5000' 2048 89
        /run/bin/nettool udp-error '[$SERVER6]:53' | grep denied"
    configured -- busybox nslookup "$NAME" "$SERVER6"
}
# What is rejected is told, and counted by its rule.
case_egress_reject() {
    local said
    said=$(configured --foreground --stats 1 --egress 'reject udp @internet' --egress 'allow any' -- \
        /run/bin/nettool udp-error "$SERVER4:5000" 2>&1)
    holds "$said" 'egress: 1 reject udp @internet'
    holds "$said" unreachable
}
case_egress_wrong() {
    local said
    said=$(pasta --egress 'reject example.org' -- true 2>&1) && return 1
    holds "$said" 'a name can only be allowed'
    holds "$said" '--egress takes allow|reject|drop'
    said=$(pasta --egress-file /nowhere -- true 2>&1) && return 1
    holds "$said" "Couldn't read --egress-file /nowhere: No such file or directory"
    holds "$(configured --egress 'reject @private' -- true 2>&1)" 'the guest reaches nothing'
    holds "$(configured --egress 'allow tcp example.org:443' -- true 2>&1)" "add --egress 'allow @dns'"
}
# alone: the holder is the only process in its network.
alone() {
    local process net count=0
    net=$(readlink "/proc/$HOLDER/ns/net")
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/ns/net")" != "$net" ] || count=$((count + 1))
    done
    [ "$count" -eq 1 ]
}
case_helper_ends() {
    holder
    alone
    started --config-net "$HOLDER"
    if alone; then return 1; fi
    kill -KILL "$(cat "$WORLD/pasta.pid")"
    until_true 5 alone
}

case_join_by_pid() {
    holder
    started --config-net "$HOLDER"
    holds "$(inside ip -o addr)" "inet $HOST4/24"
    inside /run/bin/nettool get "$SERVER4:5000" 2048 41
    kill -TERM "$(cat "$WORLD/pasta.pid")"
    until_true 5 ended
}

# in_container SCRIPT: as podman runs it: root of a user namespace with its own mounts.
in_container() {
    cat >"$WORLD/script" <<END
set -euo pipefail
mount -t tmpfs tmpfs /run/netns
touch /run/netns/joined
unshare --net=/run/netns/joined true
until_gone() { for _ in \$(seq 100); do kill -0 "\$1" 2>/dev/null || return 0; sleep 0.1; done; return 1; }
joined() { nsenter --net=/run/netns/joined "\$@"; }
$1
END
    (become_user unshare --user --map-root-user --mount bash "$WORLD/script")
}
case_join_by_name() {
    in_container "/run/bin/pasta --config-net --netns joined -P $WORLD/pasta.pid
        joined /run/bin/nettool get '$SERVER4:5000' 2048 42
        kill -TERM \$(cat $WORLD/pasta.pid)"
}
# The command has a network of its own, in the user namespace of another process.
case_user_namespace_joined() {
    local namespace
    holder
    namespace=$(readlink "/proc/$HOLDER/ns/user")
    same "$(configured --userns "/proc/$HOLDER/ns/user" -- readlink /proc/self/ns/user)" "$namespace"
    configured --userns "/proc/$HOLDER/ns/user" -- /run/bin/nettool get "$SERVER4:5000" 2048 47
}
case_podman_arguments() {
    local found
    found=$(in_container "/run/bin/pasta --config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none \
            --no-map-gw --quiet --netns /run/netns/joined --map-guest-addr 169.254.1.2 -P $WORLD/pasta.pid
        joined ip -o addr
        joined /run/bin/nettool get '$SERVER4:5000' 2048 43
        joined /run/bin/nettool get 169.254.1.2:5601 2048 44
        joined /run/bin/nettool connect '$GATEWAY4:5600'
        ip netns del joined
        until_gone \$(cat $WORLD/pasta.pid)")
    holds "$found" "inet $HOST4/24"
    holds "$found" refused
}
case_rootlesskit_arguments() {
    holder
    started --stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 \
        --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto --udp-ports=auto --host-lo-to-ns-lo \
        --userns="/proc/$HOLDER/ns/user" --netns="/proc/$HOLDER/ns/net"
    holds "$(inside ip -o addr show dev tap0)" 'inet 10.0.2.100/24'
    holds "$(inside ip route)" 'default via 10.0.2.2 dev tap0'
    inside /run/bin/nettool get "$SERVER4:5000" 2048 45
    serving 127.0.0.1:7003
    until_true 5 from_host get 127.0.0.1:7003 2048 46
}
case_namespace_gone() {
    in_container "/run/bin/pasta --netns joined -P $WORLD/pasta.pid
        kill -0 \$(cat $WORLD/pasta.pid)
        ip netns del joined
        until_gone \$(cat $WORLD/pasta.pid)"
}
case_namespace_stays() {
    in_container "/run/bin/pasta --netns joined --no-netns-quit -P $WORLD/pasta.pid
        ip netns del joined
        sleep 1.5
        kill \$(cat $WORLD/pasta.pid)"
}
case_process_gone() {
    holder
    started "$HOLDER"
    runs
    kill "$HOLDER"
    until_true 10 ended
}
# Its parent does not care: what is left of it still has files in /proc.
case_process_not_reaped() {
    (become_user sh -c 'unshare --user --map-root-user --net sleep 300 & echo $! >"$1"; exec sleep 301' sh "$WORLD/holder.pid") &
    remember $!
    until_true 10 test -s "$WORLD/holder.pid"
    HOLDER=$(cat "$WORLD/holder.pid")
    until_true 10 grep -qx sleep "/proc/$HOLDER/comm"
    started "$HOLDER"
    runs
    # Another one, that joins by the file, as rootlesskit does.
    local first
    first=$(cat "$WORLD/pasta.pid")
    (become_user nsenter --user="/proc/$HOLDER/ns/user" --preserve-credentials /run/bin/pasta -I second0 -P "$WORLD/pasta.pid" \
        --netns "/proc/$HOLDER/ns/net")
    remember "$(cat "$WORLD/pasta.pid")"
    runs
    kill -KILL "$HOLDER"
    until_true 5 grep -q '^State:.Z' "/proc/$HOLDER/status"
    until_true 5 ended
    until_true 5 has_ended "$first"
}
case_thread_gone() {
    holder
    (become_user nsenter --user="/proc/$HOLDER/ns/user" --preserve-credentials /run/bin/pasta -P "$WORLD/pasta.pid" \
        --netns "/proc/$HOLDER/task/$HOLDER/ns/net")
    remember "$(cat "$WORLD/pasta.pid")"
    runs
    kill "$HOLDER"
    until_true 10 ended
}
case_pid_file() {
    holder
    started "$HOLDER"
    same "$(stat -c %a "$WORLD/pasta.pid")" 600
    same "$(cat "/proc/$(cat "$WORLD/pasta.pid")/comm")" pasta
}

case_dhcp_udhcpc() {
    local found
    found=$(pasta --dhcp-dns -- bash -ec 'printf "#!/bin/sh\nset\n" >udhcpc.sh && chmod +x udhcpc.sh
        ip link set uplink up
        busybox udhcpc -i uplink -n -q -f -s "$PWD/udhcpc.sh"' 2>&1)
    holds "$found" "ip='$HOST4'"
    holds "$found" "router='$GATEWAY4'"
    holds "$found" "dns='$SERVER4'"
    found=$(pasta -- bash -ec 'ip link set uplink up; busybox udhcpc -i uplink -n -q -f -s "$PWD/udhcpc.sh"' 2>&1)
    lacks "$found" "dns="
}
case_dhcp_dhclient() {
    local found
    found=$(pasta -- bash -ec 'ip link set uplink up
        dhclient -4 -1 -v -sf /bin/true -lf "$PWD/leases" -pf "$PWD/dhclient.pid" uplink
        cat "$PWD/leases"' 2>&1) || echo "$found"
    holds "$found" "bound to $HOST4"
}
# dhcpcd separates its privileges by changing to a user of its own, of whom a user namespace knows
# nothing; if there is no such user it does without. Both leases and the advertisement are used.
case_dhcp_dhcpcd() {
    local found word
    mkdir -p /run/dhcpcd
    rm -f "$WORLD/told"
    found=$(pasta --dhcp-dns --dhcp-search -- bash -ec 'ip link set uplink up
        grep -v "^_\?dhcpcd:" /etc/passwd >passwd
        mount --bind passwd /etc/passwd
        mount -t tmpfs tmpfs /run/dhcpcd
        mount -t tmpfs tmpfs /var/lib
        mkdir /var/lib/dhcpcd
        printf "%s\n" "#!/bin/sh" "env >>$PWD/told" >hook.sh
        chmod +x hook.sh
        echo "option domain_name_servers, domain_search, interface_mtu, dhcp6_name_servers, dhcp6_domain_search" >dhcpcd.conf
        dhcpcd -B -d -f "$PWD/dhcpcd.conf" -c "$PWD/hook.sh" uplink &
        for reason in BOUND BOUND6; do
            timeout 30 sh -c "until grep -qx reason=$reason told; do sleep 0.1; done"
        done
        ip -o addr; ip route; ip -6 route; cat told; kill $!; wait $!' 2>&1) || { echo "$found"; return 1; }
    for word in "inet $HOST4/24" "inet6 $HOST6/128" "default via $GATEWAY4 " 'default via fe80:' \
        "new_domain_name_servers=$SERVER4" "new_dhcp6_name_servers=$SERVER6" "nd1_rdnss1_servers=$SERVER6" \
        new_domain_search=example.test new_dhcp6_domain_search=example.test new_interface_mtu=65520; do
        holds "$found" "$word"
    done
}
case_dhcpv6_client() {
    holds "$(pasta --dhcp-dns -- bash -ec 'ip link set uplink up; mount -t sysfs sysfs /sys; sleep 2
        /run/bin/nettool dhcpv6 uplink')" "address $HOST6 dns $SERVER6"
}
case_ra_address() {
    local found
    found=$(pasta -- bash -ec 'ip link set uplink up; sleep 4; ip -6 addr; ip -6 route')
    holds "$found" 'inet6 2001:db8:2:'
    holds "$found" 'default via fe80:'
}

# A lease of another network: the server says no at once, and the client begins anew.
case_dhcp_elsewhere_before() {
    local found
    found=$(pasta -- bash -ec 'ip link set uplink up
        printf "%s\n" "lease {" "interface \"uplink\";" "fixed-address 198.51.100.9;" \
            "option subnet-mask 255.255.255.0;" "option dhcp-lease-time 86400;" "option dhcp-message-type 5;" \
            "option dhcp-server-identifier 198.51.100.1;" "renew 5 2037/01/01 00:00:00;" \
            "rebind 5 2037/01/01 00:00:00;" "expire 5 2037/01/01 00:00:00;" "}" >leases
        dhclient -4 -1 -v -sf /bin/true -lf "$PWD/leases" -pf "$PWD/dhclient.pid" uplink' 2>&1) || echo "$found"
    holds "$found" 'DHCPREQUEST for 198.51.100.9'
    holds "$found" DHCPNAK
    holds "$found" "bound to $HOST4"
}
case_dhcp_options_added() {
    local found word
    found=$(pasta --dhcp-option 42=192.0.2.3,192.0.2.4 --dhcp-option 26=1400 \
        --dhcp-option 121=198.51.100.0/24,192.0.2.9 --dhcp-option 252=http://192.0.2.3/wpad.dat \
        --dhcp-boot boot/a.efi,192.0.2.9 -- bash -ec 'printf "#!/bin/sh\nset\n" >udhcpc.sh && chmod +x udhcpc.sh
        ip link set uplink up
        busybox udhcpc -i uplink -n -q -f -O ntpsrv -O mtu -O staticroutes -O wpad -O tftp -O bootfile \
            -s "$PWD/udhcpc.sh"' 2>&1)
    for word in "ntpsrv='192.0.2.3 192.0.2.4'" "mtu='1400'" "wpad='http://192.0.2.3/wpad.dat'" \
        "staticroutes='198.51.100.0/24 192.0.2.9 0.0.0.0/0 $GATEWAY4'" "siaddr='192.0.2.9'" \
        "boot_file='boot/a.efi'" "tftp='192.0.2.9'" "bootfile='boot/a.efi'"; do
        holds "$found" "$word"
    done
    refused 'option 42 takes IPv4 addresses' --dhcp-option 42=x -- true
}
case_dhcpv6_options_added() {
    holds "$(pasta --dhcpv6-option 23=2001:db8::53 -- bash -ec 'ip link set uplink up
        mount -t sysfs sysfs /sys; sleep 2; /run/bin/nettool dhcpv6 uplink')" 'dns 2001:db8::53'
}
case_ra_options_added() {
    local found
    found=$(pasta --ra-option 5=1400 -- bash -ec 'ip link set uplink up; sleep 4
        cat /proc/sys/net/ipv6/conf/uplink/mtu')
    same "$found" 1400
}
# An address is given beside a prefix that is not, and given back.
case_dhcpv6_dhclient() {
    local found
    found=$(pasta -- bash -ec 'ip link set uplink up
        timeout 20 sh -c "until ip -6 -o addr show dev uplink scope link | grep inet6 | grep -v tentative; do sleep 0.2; done"
        arguments="-6 -N -P -v -sf /bin/true -lf $PWD/leases6 -pf $PWD/dhclient6.pid"
        timeout 60 dhclient -1 $arguments uplink; grep iaaddr leases6
        timeout 60 dhclient -r $arguments uplink' 2>&1) || { echo "$found"; return 1; }
    holds "$found" "iaaddr $HOST6"
    holds "$found" 'RCV: Reply'
    holds "$found" 'Status code of no prefix'
    holds "$found" 'XMT: Release'
}
# What an address conflict check finds: the gateway, and nobody else.
case_arp_probe() {
    pasta -- bash -ec "ip link set uplink up
        for free in 192.0.2.77 $HOST4; do busybox arping -q -D -c 2 -w 2 -I uplink \$free; done
        ! busybox arping -q -D -c 2 -w 5 -I uplink $GATEWAY4
        busybox udhcpc -a -i uplink -n -q -f -s /bin/true 2>&1 | grep 'lease of $HOST4 obtained'"
}
# An address of the guest's own, with all checks on, reaches others; everybody else is still found by ARP.
case_static_address() {
    pasta -- bash -ec "ip link set uplink up; ip addr add 192.0.2.77/24 dev uplink; ip addr add 2001:db8:2::77/64 dev uplink
        ip route add default via $GATEWAY4; sleep 4
        ! ip -6 addr show dev uplink | grep dadfailed
        busybox arping -q -c 1 -w 5 -I uplink 192.0.2.99
        /run/bin/nettool get $SERVER4:5000 2048 71; /run/bin/nettool get [$SERVER6]:5000 2048 72"
}

# refused MESSAGE ARGUMENT...: exit code 1 and the message.
refused() {
    local message=$1 found
    shift
    found=$(pasta "$@" 2>&1) && { echo "accepted: $*"; return 1; }
    holds "$found" "$message"
}
case_wrong_options() {
    refused 'Both --netns and PID or command given' --netns x 1
    refused 'Invalid PID 99999999999' 99999999999
    refused '--no-copy-routes needs --config-net' --no-copy-routes -- true
    refused '--host-lo-to-ns-lo is incompatible with --no-splice' --host-lo-to-ns-lo --no-splice -- true
    refused 'Listening address not allowed for -T 127.0.0.1/22' -T 127.0.0.1/22 -- true
    refused '--no-pidns is incompatible with PID or --netns' --no-pidns --netns x
    refused '-s is for passt / vhost-user mode only' -s /tmp/x -- true
    refused "Couldn't open network namespace /run/netns/nowhere" --netns nowhere
    refused 'ip netns list' --netns nowhere
    refused '/etc/passwd is no network namespace: give a path' --netns /etc/passwd
    refused 'there is no process 2147483647' 2147483647
    refused 'is the network namespace that this program was started in' --config-net --netns /proc/self/ns/net
    refused "Couldn't enter user namespace /etc/passwd: Invalid argument: this is no user namespace" --userns /etc/passwd -- true
    refused 'it is another user'"'"'s: start as that one, or as root with --netns-only' 1
    refused 'there is such a device, choose another --ns-ifname' -I lo -- true
    refused 'no device may have this name, choose another --ns-ifname' -I a%b -- true
    refused "unrecognized option '--no-such-thing'" --no-such-thing
    found=$(become_user /run/bin/passt --config-net 2>&1) && return 1
    holds "$found" '--config-net is for pasta mode only'
}
case_device_removed() {
    holder
    started "$HOLDER"
    inside ip link del uplink
    until_true 5 ended
}

# root ARGUMENT...: pasta as whoever made the world, in the host's network. Only the root of the
# whole system changes to another user.
root() { in_net host /run/bin/pasta "$@"; }
case_root_becomes_nobody() {
    local found
    found=$(cd "$WORLD" && root -- cat /proc/self/uid_map 2>&1)
    if [ "$PASST_WORLD_UID" -eq 0 ]; then
        holds "$found" 'Started as root, will change to nobody.'
        same "$(tail -n 1 <<<"$found" | tr -s ' ')" ' 0 65534 1'
        # Before anything else that is told.
        found=$(root --stderr -- true 2>&1)
        same "$(head -n 1 <<<"$found")" 'Started as root, will change to nobody.'
        holds "$found" '--stderr will be dropped soon'
    else
        same "$(tr -s ' ' <<<"$found")" ' 0 0 1'
    fi
    root --config-net -- /run/bin/nettool get "$SERVER4:5000" 2048 51
}
case_root_becomes_another() {
    if [ "$PASST_WORLD_UID" -eq 0 ]; then
        same "$(root --runas 1234:5678 -- cat /proc/self/gid_map | tr -s ' ')" ' 0 5678 1'
        holds "$(root --runas 0 -- true 2>&1)" '--runas 0: the program stays root, which it need not be'
    fi
    holds "$(root --runas no-such-login -- true 2>&1 || true)" 'Invalid --runas option: no-such-login'
    holds "$(root --runas no-such-login -- true 2>&1 || true)" 'or numbers, like 65534:65534'
}
# An ordinary user may enter the network of a process of his, but only by way of its user namespace.
case_netns_only_joins() {
    local found
    holder
    started --netns-only --config-net -I tap9 "$HOLDER"
    holds "$(inside ip -o link)" ': tap9:'
    inside /run/bin/nettool get "$SERVER4:5000" 2048 51
    found=$(pasta --netns-only 1 2>&1) && return 1
    holds "$found" 'it is another user'"'"'s: start as that one, or as root with --netns-only'
}
# Without a user namespace to join, another user than root may not enter what root has made.
case_root_joins() {
    local found
    if [ "$PASST_WORLD_UID" -eq 0 ]; then
        found=$(root --netns /run/netns/outside -I tap9 2>&1) && return 1
        holds "$found" 'add --netns-only to stay root'
    fi
    found=$(root --config-net --netns-only --netns /run/netns/host 2>&1) && return 1
    holds "$found" 'is the network namespace that this program was started in'
    rm -f "$WORLD/pasta.pid"
    root --netns-only --netns /run/netns/outside -I tap9 -P "$WORLD/pasta.pid"
    holds "$(in_net outside ip -o link)" ': tap9:'
    kill -TERM "$(cat "$WORLD/pasta.pid")"
}
