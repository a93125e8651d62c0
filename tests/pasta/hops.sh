# shellcheck shell=bash
# What programs that ask the network about itself see inside, and what the same programs see on the host: routers on
# the way, why a destination cannot be reached, how wide a path is.
#
#   inside ==== [host] ---- [outside] ---- [middle] ---- [far: 203.0.113.200, 2001:db8:f::200]
#                       65520          1500          1400

# shellcheck disable=SC2034 # used by the script that sources this file
FAR4=203.0.113.200 FAR6=2001:db8:f::200
# shellcheck disable=SC2034
CASES+=(
    hops_traceroute_udp hops_traceroute_icmp hops_traceroute_tcp hops_traceroute_connect
    hops_mtr_icmp hops_mtr_udp hops_mtr_tcp hops_ping_ttl hops_tracepath
    errors_connect errors_datagram errors_ping
    fragments_ping fragments_answers path_mtu
)

# make_hops: the routers, and what is forbidden on the host. To be called once.
make_hops() {
    local net
    for net in middle far; do
        ip netns add "$net"
        ip -n "$net" link set lo up
    done
    ip link add name om netns outside type veth peer name mo netns middle
    ip link add name mf mtu 1400 netns middle type veth peer name fm mtu 1400 netns far
    ip -n outside addr add 203.0.113.193/30 dev om
    ip -n middle addr add 203.0.113.194/30 dev mo
    ip -n middle addr add 203.0.113.197/30 dev mf
    ip -n far addr add 203.0.113.198/30 dev fm
    ip -n far addr add "$FAR4/32" dev lo
    ip -n outside addr add 2001:db8:f:1::1/64 dev om nodad
    ip -n middle addr add 2001:db8:f:1::2/64 dev mo nodad
    ip -n middle addr add 2001:db8:f:2::1/64 dev mf nodad
    ip -n far addr add 2001:db8:f:2::2/64 dev fm nodad
    ip -n far addr add "$FAR6/128" dev lo nodad
    ip -n outside link set om up
    ip -n middle link set mo up
    ip -n middle link set mf up
    ip -n far link set fm up
    for net in outside middle far; do
        in_net "$net" sh -c 'cd /proc/sys/net && echo 1 >ipv4/ip_forward && echo 1 >ipv6/conf/all/forwarding &&
            echo 0 >ipv4/icmp_ratelimit && echo 0 >ipv6/icmp/ratelimit'
    done
    ip -n outside route add "$FAR4/30" via 203.0.113.194
    ip -n outside -6 route add 2001:db8:f::/64 via 2001:db8:f:1::2
    ip -n middle route add "$FAR4/30" via 203.0.113.198
    ip -n middle -6 route add 2001:db8:f::/64 via 2001:db8:f:2::2
    ip -n middle route add default via 203.0.113.193
    ip -n middle -6 route add default via 2001:db8:f:1::1
    ip -n far route add default via 203.0.113.197
    ip -n far -6 route add default via 2001:db8:f:2::1
    ip -n host route add unreachable 203.0.113.64/28
    ip -n host -6 route add unreachable 2001:db8:40::/48
    ip -n host route add prohibit 203.0.113.80/28
    ip -n host -6 route add prohibit 2001:db8:50::/48
    # `throw` in the only table that is looked at is no route at all.
    ip -n host route add throw 203.0.113.96/28
    ip -n host -6 route add throw 2001:db8:60::/48
    until_true 10 in_net host busybox ping -c 1 -W 1 "$FAR4" >/dev/null
    until_true 10 in_net host busybox ping -6 -c 1 -W 1 "$FAR6" >/dev/null
    nsenter --net=/run/netns/far /run/bin/nettool serve "$FAR4:5000" "[$FAR6]:5000" >"$LOGS/far.log" 2>&1 &
    until_true 10 grep -q ready "$LOGS/far.log"
    forget_paths
}

# forget_paths: what the host has learned of MTUs.
forget_paths() {
    ip -n host route flush cache
    ip -n host -6 route flush cache
}

# alike FILTER COMMAND...: the command says the same inside as on the host, behind the filter, and it says something.
alike() {
    local filter=$1 inside_says host_says
    shift
    forget_paths
    host_says=$(in_net host "$@" 2>&1 | "$filter") || true
    forget_paths
    inside_says=$(configured -- "$@" 2>&1 | "$filter") || true
    echo "$* on the host:"
    echo "$host_says"
    [ -n "$host_says" ]
    same "$inside_says" "$host_says"
}

# Number and address of each hop; times differ.
hops() { sed -nE 's/^ *([0-9]+) +([0-9a-f.:]+).*/\1 \2/p'; }
report() { sed -nE 's/^ *([0-9]+)\.\|-- ([0-9a-f.:]+) .*/\1 \2/p'; }

traceroutes() {
    local found
    alike hops traceroute -n -q 1 -w 5 "$@" "$FAR4"
    alike hops traceroute -6 -n -q 1 -w 5 "$@" "$FAR6"
    found=$(configured -- traceroute -n -q 1 -w 5 "$@" "$FAR4" | hops)
    same "$(echo "$found" | tr '\n' ,)" "1 $GATEWAY4,2 203.0.113.194,3 $FAR4,"
}
case_hops_traceroute_udp() { traceroutes; traceroutes -U; }
case_hops_traceroute_icmp() { traceroutes -I; }
case_hops_traceroute_tcp() { traceroutes -T -p 5000; traceroutes -T -p 9; }
# Without privileges: connect(2) with a TTL.
case_hops_traceroute_connect() { traceroutes -M tcpconn -p 5000; }

mtrs() {
    alike report mtr -n -r -c 2 -i 0.2 -G 1 "$@" "$FAR4"
    alike report mtr -6 -n -r -c 2 -i 0.2 -G 1 "$@" "$FAR6"
}
case_hops_mtr_icmp() { mtrs; }
case_hops_mtr_udp() { mtrs -u; }
case_hops_mtr_tcp() { mtrs -T -P 5000; }

# What ping says, without times and totals.
pings() { sed -nE 's/ time=.*//; s/ttl=[0-9]+//; /^(From|[0-9]+ bytes from|ping: )/p; /% packet loss/s/, time.*//p'; }
case_hops_ping_ttl() {
    local ttl
    for ttl in 1 2 3; do
        alike pings ping -n -c 2 -i 0.2 -W 5 -t "$ttl" "$FAR4"
        alike pings ping -6 -n -c 2 -i 0.2 -W 5 -t "$ttl" "$FAR6"
    done
}

# Where the path is how wide.
widths() { grep -oE 'pmtu [0-9]+' | sort -u; }
case_hops_tracepath() {
    # The device has the MTU of the host's, so that both begin alike.
    alike widths tracepath -n "$FAR4"
    alike widths tracepath -6 -n "$FAR6"
}

errors() {
    local to
    for to in 203.0.113.65 2001:db8:40::1 203.0.113.81 2001:db8:50::1 203.0.113.97 2001:db8:60::1; do
        "$@" "$to"
    done
}
# How connect(2) failed. IPv4 has no ICMP error that is EACCES.
reasons() { sed 's/^Permission denied.*/unreachable/'; }
connect_alike() {
    case $1 in
    *:*) alike cat timeout 10 /run/bin/nettool connect "[$1]:9" ;;
    *) alike reasons timeout 10 /run/bin/nettool connect "$1:9" ;;
    esac
}
case_errors_connect() {
    errors connect_alike
    alike cat timeout 10 /run/bin/nettool connect "$NOWHERE4:9"
    alike cat timeout 10 /run/bin/nettool connect "[$NOWHERE6]:9"
    same "$(configured -- /run/bin/nettool connect "$FAR4:9")" refused
}
# Why, whoever says so: the host's kernel at once to its own programs, and by ICMP to those inside. What is prohibited may
# be a broadcast, ping thinks.
whys() {
    sed -nE 's/.*(No route to host|Host Unreachable|Address unreachable| !H).*/host/p
        s/.*(Network is unreachable|Net Unreachable|No route| !N).*/network/p
        s/.*(Permission denied|ping broadcast|Operation not permitted|Packet filtered|Administratively prohibited| !X).*/prohibited/p' | head -1
}
case_errors_datagram() {
    local to
    for to in 203.0.113.65 203.0.113.81 203.0.113.97; do
        alike whys traceroute -n -q 1 -w 5 -m 1 "$to"
    done
    for to in 2001:db8:40::1 2001:db8:50::1 2001:db8:60::1; do
        alike whys traceroute -6 -n -q 1 -w 5 -m 1 "$to"
    done
}
case_errors_ping() {
    local to
    for to in 203.0.113.65 203.0.113.81 203.0.113.97; do alike whys ping -n -c 1 -W 5 "$to"; done
    for to in 2001:db8:40::1 2001:db8:50::1 2001:db8:60::1; do alike whys ping -6 -n -c 1 -W 5 "$to"; done
    holds "$(configured -- ping -n -c 1 -W 5 203.0.113.65 2>&1)" 'Destination Host Unreachable'
    holds "$(configured -- ping -n -c 1 -W 5 203.0.113.81 2>&1)" 'Packet filtered'
    holds "$(configured -- ping -n -c 1 -W 5 203.0.113.97 2>&1)" 'Destination Net Unreachable'
}

case_fragments_ping() {
    local to
    # What a path is too narrow for is lost until the host knows, on the host itself, too.
    in_net host ping -6 -n -c 4 -i 0.2 -W 5 -s 3000 "$FAR6" || true
    for to in "$FAR4" "-6 $FAR6" "$SERVER4" "-6 $SERVER6"; do
        # shellcheck disable=SC2086 # an option and an address
        holds "$(configured -m 1500 -- ping -n -c 2 -i 0.2 -W 5 -s 3000 $to)" ' 0% packet loss'
        # shellcheck disable=SC2086
        holds "$(configured -m 1500 -- ping -n -c 2 -i 0.2 -W 5 -s 60000 $to)" ' 0% packet loss'
    done
}
# Datagrams of up to 65,492 bytes come back as they were sent.
case_fragments_answers() {
    configured -m 1500 -- /run/bin/nettool udp "$SERVER4:5000" 65492
    configured -m 1500 -- /run/bin/nettool udp "[$SERVER6]:5000" 65472
}

# The first that is too large is lost, as everywhere, and brings the news; what follows is refused at once.
case_path_mtu() {
    local found
    forget_paths
    found=$(configured -m 1500 -- bash -c "ping -n -c 1 -W 5 -M 'do' -s 1472 $FAR4; ping -n -c 1 -W 5 -M 'do' -s 1472 $FAR4
        ping -n -c 1 -W 5 -M 'do' -s 1372 $FAR4" 2>&1) || true
    holds "$found" 'From 203.0.113.194 icmp_seq=1 Frag needed and DF set (mtu = 1400)'
    # Older versions of ping add the path's MTU, newer ones do not.
    holds "${found,,}" 'message too long'
    holds "$found" "1380 bytes from $FAR4"
    # The host knows now.
    found=$(configured -m 1500 -- ping -n -c 1 -W 5 -M 'do' -s 1472 "$FAR4" 2>&1) || true
    holds "$found" "From $GATEWAY4 icmp_seq=1 Frag needed and DF set (mtu = 1400)"
    # What may be cut is cut by whoever has to.
    forget_paths
    configured -m 1500 -- ping -n -c 1 -W 5 -M dont -s 1472 "$FAR4"
    found=$(configured -m 1500 -- bash -c "ping -6 -n -c 1 -W 5 -s 1452 $FAR6; ping -6 -n -c 1 -W 5 -s 1452 $FAR6" 2>&1) || true
    holds "$found" 'Packet too big: mtu=1400'
    holds "$found" "1460 bytes from $FAR6"
}
