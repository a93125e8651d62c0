# shellcheck shell=bash
# A host whose network changes while pasta runs, in front of a namespace with clients that are the kernel's own, dhclient
# and nettool: what may go on goes on, and what is new works within two seconds.
# shellcheck disable=SC2016,SC2034

CASES+=(
    network_comes_later network_comes_later_podman network_awaited network_awaited_elsewhere
    network_not_awaited_for_ever
    dns_host_by_name twenty_changes lost_address_resets address_comes_back former_address_goes_on
    first_address_serves narrowed_stays_narrowed others_settings_stay only_default_route_lost two_routers
    route_over_two_interfaces default_route_by_rules host_offline
    prefix_renumbered router_comes_and_goes dhcp_follows given_stays not_followed
    listener_awaits_address listener_follows_interface egress_follows_host
    storm_of_routes watcher_ends watcher_is_told_to_end watcher_confined watcher_reads_configuration
)

# Networks of the laptop: at home, at the office, by VPN, and one that never changes and leads nowhere else.
HOME_GW=198.51.100.65 HOME_GW2=198.51.100.70 HOME_A=198.51.100.66 HOME_B=198.51.100.67
OFFICE_GW=198.51.100.97 OFFICE_A=198.51.100.98
VPN_GW=198.51.100.129 VPN_A=198.51.100.130
STABLE_GW=198.51.100.193 STABLE_A=198.51.100.194
HOME6=2001:db8:a OFFICE6=2001:db8:b
RESOLVER_A=198.51.100.8 RESOLVER_B=198.51.100.9 NAME_A=192.0.2.71 NAME_B=192.0.2.72

on_laptop() { ip -n laptop "$@"; }

# laptop: one without any network but the stable one, until the end of the case.
laptop() {
    local link
    HOST=laptop
    trap drop_laptop EXIT
    ip netns add laptop
    for link in uplink vpn stable; do
        ip link add "$link" netns laptop type veth peer name "lap-$link" netns outside
        ip -n outside link set "lap-$link" up
    done
    ip -n outside addr add "$HOME_GW/27" dev lap-uplink
    ip -n outside addr add "$OFFICE_GW/27" dev lap-uplink
    ip -n outside addr add "$HOME6::1/64" dev lap-uplink nodad
    ip -n outside addr add "$OFFICE6::1/64" dev lap-uplink nodad
    ip -n outside addr add "$VPN_GW/26" dev lap-vpn
    ip -n outside addr add "$STABLE_GW/26" dev lap-stable
    ip -n outside addr add "$RESOLVER_A/32" dev lo
    ip -n outside addr add "$RESOLVER_B/32" dev lo
    on_laptop link set lo up
    on_laptop link set stable up
    on_laptop addr add "$STABLE_A/26" dev stable
    until_true 10 settled laptop
}
drop_laptop() {
    local address link
    umount -l /etc 2>/dev/null || true
    # With the namespace they would go later, and the next case makes them again.
    for link in uplink vpn stable; do ip -n outside link del "lap-$link" 2>/dev/null || true; done
    ip netns del laptop || true
    for address in "$RESOLVER_A" "$RESOLVER_B"; do ip -n outside addr del "$address/32" dev lo; done
}

at_home() {
    on_laptop link set uplink up
    on_laptop addr add "$HOME_A/27" dev uplink
    on_laptop addr add "$HOME6::66/64" dev uplink nodad
    on_laptop route add default via "$HOME_GW" dev uplink
    on_laptop -6 route add default via "$HOME6::1" dev uplink
}
# answers: new connections work, in both families.
answers() {
    inside timeout 1 /run/bin/nettool get "$SERVER4:5000" 2048 61 && inside timeout 1 /run/bin/nettool get "[$SERVER6]:5000" 2048 62
} >/dev/null
has() { inside ip -o addr | grep "inet6\? $1" >/dev/null; }
leads() { inside ip route | grep "^default via $1 " >/dev/null; }

# soon WHAT COMMAND...: it is true within two seconds on a machine of its own. Here within three, since a question that comes
# too early takes one itself, and as long as the machine kept the program from its processors, and takes to find out.
soon() {
    local what=$1 begin starved took spare
    shift
    begin=$(now_ms) starved=$(starved_ms)
    until_true 30 "$@" || { lost "$what" 'not at all' "$@"; return 1; }
    took=$(($(now_ms) - begin)) starved=$(($(starved_ms) - starved))
    begin=$(now_ms)
    "$@" || true
    spare=$((starved + 4 * ($(now_ms) - begin)))
    [ "$took" -le $((3000 + spare)) ] || lost "$what" "after $took ms, of which $spare are the machine's," "$@"
}
lost() {
    echo "$1: $2 which is not soon: ${*:3}"
    on_laptop addr; on_laptop route; on_laptop -6 route
    inside ip addr; inside ip route; inside ip -6 route
    return 1
}
now_ms() { echo $(($(date +%s%N) / 1000000)); }
# starved_ms: how long the program and its watcher have waited for a processor, since they began.
starved_ms() {
    local process waited sum=0
    for process in "$(cat "$WORLD/pasta.pid" 2>/dev/null)" "$(watcher)"; do
        waited=$(cut -d ' ' -f 2 "/proc/${process:-0}/schedstat" 2>/dev/null || echo 0)
        sum=$((sum + waited / 1000000))
    done
    echo "$sum"
}

case_network_comes_later() {
    laptop
    holder
    started --config-net "$HOLDER"
    has "$STABLE_A/26"
    at_home
    soon 'a route appears' answers
    has "$HOME_A/27"
    has "$HOME6::66/64"
    leads "$HOME_GW"
}
case_network_comes_later_podman() {
    laptop
    holder
    started --config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet \
        --netns "/proc/$HOLDER/ns/net" --userns "/proc/$HOLDER/ns/user" --map-guest-addr 169.254.1.2
    at_home
    soon 'a route appears' answers
    serves laptop serve "$HOME_A:5601"
    soon 'the host by its name in containers' inside timeout 3 /run/bin/nettool get 169.254.1.2:5601 2048 63
}
case_network_awaited() {
    laptop
    holder
    rm -f "$WORLD/pasta.pid"
    pasta --config-net --wait-for-network 20 -P "$WORLD/pasta.pid" "$HOLDER" &
    local starter=$!
    sleep 1
    [ ! -s "$WORLD/pasta.pid" ] || { cat "$WORLD/pasta.pid"; return 1; }
    at_home
    until_true 10 has_ended "$starter"
    wait "$starter"
    remember "$(cat "$WORLD/pasta.pid")"
    has "$HOME_A/27"
}
# Addresses of loopback alone, as of a router that routing protocols lead to; and a default route that a rule leads to.
case_network_awaited_elsewhere() {
    local found
    laptop
    on_laptop link set uplink up
    on_laptop addr add "$HOME_A/32" dev lo
    on_laptop route add default via "$HOME_GW" dev uplink onlink src "$HOME_A"
    found=$(pasta --config-net --wait-for-network 10 -- true 2>&1)
    lacks "$found" 'No network after'
    on_laptop route del default
    on_laptop route add default via "$STABLE_GW" table 100
    on_laptop rule add pref 40000 table 100
    found=$(pasta --config-net --wait-for-network 10 -- true 2>&1)
    lacks "$found" 'No network after'
}
case_network_not_awaited_for_ever() {
    local found
    laptop
    found=$(pasta --config-net --wait-for-network 1 -- ip -o addr 2>&1)
    holds "$found" 'No network after 1 seconds'
    holds "$found" "inet $STABLE_A/26"
    found=$(pasta --config-net --wait-for-network soon -- true 2>&1) && return 1
    holds "$found" 'Invalid --wait-for-network: soon'
}

# own_etc: a folder of the case's own with resolv.conf in it.
own_etc() {
    mkdir -p "$WORLD/etc" "$WORLD/resolvers"
    # What an ordinary user may read of it.
    cp -r /etc/. "$WORLD/etc/" 2>/dev/null || true
    rm -f "$WORLD/etc/resolv.conf"
    printf 'nameserver %s\n' "$RESOLVER_A" >"$WORLD/etc/resolv.conf"
    mount --bind "$WORLD/etc" /etc
    serves outside dns "$RESOLVER_A:53" "$NAME" "$NAME_A" "$SERVER6"
    serves outside dns "$RESOLVER_B:53" "$NAME" "$NAME_B" "$SERVER6"
}
# named ADDRESS: what the name leads to, asked of the address of --dns-forward.
named() { inside timeout 1 busybox nslookup "$NAME" 169.254.1.1 2>/dev/null | grep "Address.*$1\$" >/dev/null; }

# The name of a name server: it is looked up when there is a name server of the host's own, and again when that changes.
case_dns_host_by_name() {
    local found
    laptop
    own_etc
    serves outside dns "$HOME_GW:53" dns.example.test "$RESOLVER_A" "$SERVER6"
    serves outside dns "$OFFICE_GW:53" dns.example.test "$RESOLVER_B" "$SERVER6"
    : >"$WORLD/etc/resolv.conf"
    found=$(pasta --config-net --no-follow-host --dns-host dns.example.test -- true 2>&1) && return 1
    holds "$found" '--dns-host dns.example.test: no address: the host has no name server'
    holder
    started --config-net --dns-forward 169.254.1.1 --dns-host dns.example.test -l "$WORLD/pasta.log" "$HOLDER"
    until_true 10 grep -F -e '--dns-host dns.example.test: no address: the host has no name server' "$WORLD/pasta.log"
    at_home
    printf 'nameserver %s\n' "$HOME_GW" >"$WORLD/etc/resolv.conf"
    soon 'the name has an address' named "$NAME_A"
    printf 'nameserver %s\n' "$OFFICE_GW" >"$WORLD/etc/resolv.conf"
    soon 'it has another one' named "$NAME_B"
    # Who has none for it changes nothing, and says so.
    printf 'nameserver %s\n' "$RESOLVER_A" >"$WORLD/etc/resolv.conf"
    until_true 10 grep -F "$RESOLVER_A says that there is no such name: the one of before stays" "$WORLD/pasta.log"
    named "$NAME_B"
    # Where the host is not followed it is looked up once.
    printf 'nameserver %s\n' "$HOME_GW" >"$WORLD/etc/resolv.conf"
    found=$(pasta --config-net --no-follow-host --dns-forward 169.254.1.1 --dns-host dns.example.test -- \
        busybox nslookup "$NAME" 169.254.1.1 2>&1) || { echo "$found"; return 1; }
    holds "$found" "$NAME_A"
}

# step WHAT...: one more change, and who follows.
step() {
    STEPS=$((STEPS + 1))
    echo "$STEPS: $*"
}
unreachable() { ! inside timeout 3 /run/bin/nettool connect "$SERVER4:5000" | grep -x connected >/dev/null; }
unreachable6() { ! inside timeout 3 /run/bin/nettool connect "[$SERVER6]:5000" | grep -x connected >/dev/null; }

case_twenty_changes() {
    local carrying link STEPS=0
    laptop
    own_etc
    at_home
    serves outside serve "$STABLE_GW:5000"
    holder
    started --config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none "$HOLDER"
    answers
    named "$NAME_A"
    rm -f "$WORLD/enough"
    inside /run/bin/nettool carry "$WORLD/enough" 4 all "$STABLE_GW:5000" >"$WORLD/carry.log" 2>&1 &
    carrying=$!
    sleep 1

    step address replaced
    on_laptop addr del "$HOME_A/27" dev uplink
    on_laptop addr add "$HOME_B/27" dev uplink
    on_laptop route add default via "$HOME_GW" dev uplink
    soon address answers
    has "$HOME_B/27"
    step the route of IPv4 is lost
    on_laptop route del default
    soon lost unreachable
    step and back
    on_laptop route add default via "$HOME_GW" dev uplink
    soon back answers
    step link down
    on_laptop link set uplink down
    soon down unreachable
    step link up
    on_laptop link set uplink up
    on_laptop addr replace "$HOME6::66/64" dev uplink nodad
    on_laptop route add default via "$HOME_GW" dev uplink
    on_laptop -6 route add default via "$HOME6::1" dev uplink
    soon up answers
    step prefix renumbered
    on_laptop addr del "$HOME6::66/64" dev uplink
    on_laptop addr add "$OFFICE6::66/64" dev uplink nodad
    on_laptop -6 route add default via "$OFFICE6::1" dev uplink || on_laptop -6 route replace default via "$OFFICE6::1" dev uplink
    soon prefix has "$OFFICE6::66/64"
    soon prefix answers
    step resolver replaced by rename
    printf 'nameserver %s\n' "$RESOLVER_B" >"$WORLD/etc/resolv.new"
    mv "$WORLD/etc/resolv.new" "$WORLD/etc/resolv.conf"
    soon resolver named "$NAME_B"
    step resolver rewritten
    printf 'nameserver %s\n' "$RESOLVER_A" >"$WORLD/etc/resolv.conf"
    soon resolver named "$NAME_A"
    step resolver is a link now
    printf 'nameserver %s\n' "$RESOLVER_A" >"$WORLD/resolvers/a"
    printf 'nameserver %s\n' "$RESOLVER_B" >"$WORLD/resolvers/b"
    ln -s "$WORLD/resolvers/b" "$WORLD/etc/resolv.new"
    mv -T "$WORLD/etc/resolv.new" "$WORLD/etc/resolv.conf"
    soon resolver named "$NAME_B"
    step the link leads elsewhere
    ln -s "$WORLD/resolvers/a" "$WORLD/etc/resolv.new"
    mv -T "$WORLD/etc/resolv.new" "$WORLD/etc/resolv.conf"
    soon resolver named "$NAME_A"
    step what it leads to is rewritten
    printf 'nameserver %s\n' "$RESOLVER_B" >"$WORLD/resolvers/a"
    soon resolver named "$NAME_B"
    step a VPN comes
    on_laptop link set vpn up
    on_laptop addr add "$VPN_A/26" dev vpn
    on_laptop route del default
    on_laptop route add default via "$VPN_GW" dev vpn
    soon vpn has "$VPN_A/26"
    soon vpn answers
    step and goes
    on_laptop link set vpn down
    on_laptop addr del "$VPN_A/26" dev vpn
    on_laptop route add default via "$HOME_GW" dev uplink
    soon gone has "$HOME_B/27"
    soon gone answers
    step the route of IPv6 is lost
    on_laptop -6 route del default
    soon lost unreachable6
    step and back
    on_laptop -6 route add default via "$OFFICE6::1" dev uplink
    soon back answers
    step the interface is gone
    ip -n laptop link del uplink
    soon gone unreachable
    step and another one of its name there
    link=uplink
    ip link add "$link" netns laptop type veth peer name "lap-$link" netns outside
    ip -n outside link set lap-uplink up
    ip -n outside addr add "$HOME_GW/27" dev lap-uplink
    ip -n outside addr add "$OFFICE_GW/27" dev lap-uplink
    ip -n outside addr add "$HOME6::1/64" dev lap-uplink nodad
    ip -n outside addr add "$OFFICE6::1/64" dev lap-uplink nodad
    at_home
    soon there answers
    has "$HOME_A/27"
    step another network, all at once
    on_laptop addr flush dev uplink
    on_laptop addr add "$OFFICE_A/27" dev uplink
    on_laptop addr add "$OFFICE6::98/64" dev uplink nodad
    on_laptop route add default via "$OFFICE_GW" dev uplink
    on_laptop -6 route replace default via "$OFFICE6::1" dev uplink
    soon office leads "$OFFICE_GW"
    soon office answers
    step another address beside
    on_laptop addr add "$HOME_B/27" dev uplink
    soon beside has "$HOME_B/27"
    answers
    step and gone
    on_laptop addr del "$HOME_B/27" dev uplink
    sleep 0.5
    answers
    same "$STEPS" 20

    : >"$WORLD/enough"
    wait "$carrying" || { cat "$WORLD/carry.log"; return 1; }
    tail -n 1 "$WORLD/carry.log"
    [ "$(inside ip -o -4 addr show dev tap0 2>/dev/null | wc -l)" -le 18 ]
}
lacks_route6() { [ -z "$(inside ip -6 route show default)" ]; }

# waiting: a connection to the server from inside that waits for a byte. Says how it ends.
waiting() {
    inside bash -c 'exec 3<>"/dev/tcp/$1/5000"; echo connected; head -c 1 <&3; echo "ended after $SECONDS s"' bash "$SERVER4"
}
case_lost_address_resets() {
    laptop
    at_home
    holder
    started --config-net "$HOLDER"
    waiting >"$WORLD/waiting.log" 2>&1 &
    until_true 5 grep -q connected "$WORLD/waiting.log"
    on_laptop addr del "$HOME_A/27" dev uplink
    on_laptop addr add "$HOME_B/27" dev uplink
    on_laptop route add default via "$HOME_GW" dev uplink
    sleep 10
    ! grep 'ended after' "$WORLD/waiting.log"
    until_true 40 grep -q 'ended after' "$WORLD/waiting.log"
    grep -i reset "$WORLD/waiting.log"
}
# A link that is down for a moment, and has its addresses again: what the host's own connections outlive.
case_address_comes_back() {
    local carrying
    laptop
    at_home
    holder
    started --config-net "$HOLDER"
    inside /run/bin/nettool carry 6 4 all "$SERVER4:5000" >"$WORLD/carry.log" 2>&1 &
    carrying=$!
    sleep 1
    on_laptop link set uplink down
    on_laptop addr flush dev uplink scope global
    sleep 1
    at_home
    wait "$carrying" || { cat "$WORLD/carry.log"; return 1; }
    answers
}
# first_address_is_served PORT: from a neighbour and from the laptop itself, by each of its addresses.
first_address_is_served() {
    local address
    for address in "$HOME_A" "$VPN_A"; do
        outside get "$address:$1" 2048 70 && in_net laptop timeout 5 /run/bin/nettool get "$address:$1" 2048 71 || return 1
    done
}
# What listens on the address that the namespace has had first is reached, though the host has another one before that now;
# and nobody has an address of the namespace's own.
case_first_address_serves() {
    laptop
    at_home
    holder
    started --config-net -t 7001,7002 "$HOLDER"
    serving "$HOME_A:7001" '[::]:7002'
    outside get "$HOME_A:7001" 2048 72
    on_laptop link set vpn up
    on_laptop addr add "$VPN_A/26" dev vpn
    on_laptop route del default
    on_laptop route add default via "$VPN_GW" dev vpn
    soon vpn has "$VPN_A/26"
    inside ip -o addr show dev uplink to "$HOME_A/32" | grep 'valid_lft forever'
    first_address_is_served 7001
    first_address_is_served 7002
}
# What was taken away inside does not come back when the host changes in something else.
case_narrowed_stays_narrowed() {
    laptop
    at_home
    holder
    started --config-net "$HOLDER"
    answers
    inside ip route del default
    inside ip -6 route del default
    inside ip addr del "$HOME6::66/64" dev uplink
    on_laptop addr add "$HOME_B/27" dev uplink
    soon beside has "$HOME_B/27"
    unreachable
    lacks_route6
    ! has "$HOME6::66"
}
case_others_settings_stay() {
    laptop
    at_home
    holder
    started --config-net "$HOLDER"
    inside ip addr add 198.51.100.90/27 dev uplink
    inside ip route add 203.0.113.5/32 via "$HOME_GW"
    on_laptop addr add "$HOME_B/27" dev uplink
    on_laptop addr del "$HOME_A/27" dev uplink
    on_laptop addr add "$HOME_B/27" dev uplink || true
    on_laptop route replace default via "$HOME_GW" dev uplink
    soon address answers
    has "$HOME_B/27"
    has 198.51.100.90/27
    inside ip route show 203.0.113.5 | grep "via $HOME_GW"
}
# As when a router's lease ends: there is a way to some network by another interface still.
case_only_default_route_lost() {
    laptop
    at_home
    on_laptop link set vpn up
    on_laptop addr add "$VPN_A/26" dev vpn
    on_laptop route add 203.0.113.0/24 via "$VPN_GW" dev vpn
    holder
    started --config-net "$HOLDER"
    on_laptop route del default
    soon lost unreachable
    has "$HOME_A/27"
    ! has "$VPN_A"
    on_laptop route add default via "$HOME_GW" dev uplink
    soon back answers
}
# Of a default route over two interfaces what leads over one of them is copied, at the start and later.
case_route_over_two_interfaces() {
    laptop
    at_home
    on_laptop link set vpn up
    on_laptop addr add "$VPN_A/26" dev vpn
    holder
    started --config-net "$HOLDER"
    leads "$HOME_GW"
    on_laptop route replace default nexthop via "$HOME_GW" nexthop via "$VPN_GW"
    # Another change shows that this one was seen.
    on_laptop addr add "$HOME_B/27" dev uplink
    soon seen has "$HOME_B/27"
    leads "$HOME_GW"
    answers
    in_shell "ip route; timeout 3 /run/bin/nettool get $SERVER4:5000 2048 73" | grep "^default via $HOME_GW dev uplink"
    pasta --config-net -i vpn -- ip route | grep "^default via $VPN_GW dev vpn"
}
# A default route that only a rule leads to, by another table: at the start, and when it comes later.
case_default_route_by_rules() {
    local found family
    laptop
    at_home
    holder
    started --config-net "$HOLDER"
    on_laptop route add default via "$HOME_GW" dev uplink table 100
    on_laptop -6 route add default via "$HOME6::1" dev uplink table 100
    for family in -4 -6; do
        on_laptop "$family" rule add pref 40000 table 100
        on_laptop "$family" route del default
    done
    on_laptop route add 203.0.113.0/24 via "$HOME_GW" dev uplink
    on_laptop -6 route add fd00::/8 via "$HOME6::1" dev uplink
    on_laptop addr add "$HOME_B/27" dev uplink
    soon seen has "$HOME_B/27"
    leads "$HOME_GW"
    answers
    found=$(in_shell "ip route; ip -6 route
        timeout 3 /run/bin/nettool get $SERVER4:5000 2048 74; timeout 3 /run/bin/nettool get [$SERVER6]:5000 2048 75")
    holds "$found" 'default via 169.254.2.2 dev uplink'
    holds "$found" 'default via fe80:'
}
# Without a way out the laptop itself is reached, by the addresses that it has for containers, and so are its name servers.
case_host_offline() {
    local cut words
    laptop
    own_etc
    printf 'nameserver 127.0.0.1\n' >"$WORLD/etc/resolv.conf"
    serves laptop dns 127.0.0.1:53 "$NAME" "$NAME_A" "$SERVER6"
    at_home
    serves laptop serve "$HOME_A:5601" 127.0.0.1:5602
    holder
    started --config-net --dns-forward 169.254.1.1 --map-guest-addr 169.254.1.2 --map-host-loopback 169.254.1.3 \
        -t none -u none -T none -U none "$HOLDER"
    answers
    for cut in 'route del default' 'link set uplink down'; do
        read -ra words <<<"$cut"
        on_laptop -6 route del default
        on_laptop "${words[@]}"
        # Another change shows that this one was seen.
        on_laptop addr add 198.51.100.91/32 dev uplink
        soon seen has 198.51.100.91/32
        unreachable
        unreachable6
        host_is_reached
        on_laptop link set uplink up
        on_laptop addr del 198.51.100.91/32 dev uplink
        on_laptop addr replace "$HOME6::66/64" dev uplink nodad
        on_laptop route add default via "$HOME_GW" dev uplink
        on_laptop -6 route add default via "$HOME6::1" dev uplink
        soon back answers
    done
}
host_is_reached() {
    inside timeout 3 /run/bin/nettool get 169.254.1.2:5601 2048 63
    inside timeout 3 /run/bin/nettool get 169.254.1.3:5602 2048 63
    named "$NAME_A"
}
# Two routers that are equal: the one that is left takes the place of the first.
case_two_routers() {
    laptop
    ip -n outside addr add "$HOME_GW2/27" dev lap-uplink
    at_home
    on_laptop route append default via "$HOME_GW2" dev uplink
    holder
    started --config-net "$HOLDER"
    leads "$HOME_GW"
    on_laptop route del default via "$HOME_GW"
    soon 'the other router' leads "$HOME_GW2"
    answers
}
# A VPN takes the default route; a connection past it goes on, though the guest has another address now.
case_former_address_goes_on() {
    local carrying
    laptop
    at_home
    holder
    started --config-net "$HOLDER"
    inside /run/bin/nettool carry 6 4 all "$SERVER4:5000" >"$WORLD/carry.log" 2>&1 &
    carrying=$!
    sleep 1
    on_laptop link set vpn up
    on_laptop addr add "$VPN_A/26" dev vpn
    on_laptop route add "$SERVER4" via "$HOME_GW" dev uplink
    on_laptop route del default
    on_laptop route add default via "$VPN_GW" dev vpn
    soon vpn has "$VPN_A/26"
    has "$HOME_A/32"
    wait "$carrying" || { cat "$WORLD/carry.log"; return 1; }
}

# without --config-net the namespace's kernel follows advertisements.
case_prefix_renumbered() {
    laptop
    at_home
    holder
    started --ns-ifname tap0 "$HOLDER"
    inside ip link set tap0 up
    until_true 6 has "$HOME6:"
    until_true 6 inside timeout 3 /run/bin/nettool get "[$SERVER6]:5000" 2048 64
    on_laptop addr del "$HOME6::66/64" dev uplink
    on_laptop addr add "$OFFICE6::66/64" dev uplink nodad
    on_laptop -6 route replace default via "$OFFICE6::1" dev uplink
    soon 'new prefix' has "$OFFICE6:"
    soon 'old prefix' is_deprecated "$HOME6:"
    until_true 4 inside timeout 3 /run/bin/nettool get "[$SERVER6]:5000" 2048 65
}
is_deprecated() { inside ip -o -6 addr show deprecated | grep "inet6 $1" >/dev/null; }
case_router_comes_and_goes() {
    laptop
    on_laptop link set uplink up
    on_laptop addr add "$HOME6::66/64" dev uplink nodad
    holder
    started --ns-ifname tap0 -6 "$HOLDER"
    inside ip link set tap0 up
    until_true 6 has "$HOME6:"
    lacks_route6
    on_laptop -6 route add default via "$HOME6::1" dev uplink
    soon router has_route6
    on_laptop -6 route del default
    soon 'no router' lacks_route6
}
has_route6() { ! lacks_route6; }

# A client that asks for the address that it had is refused, and gets the new one.
case_dhcp_follows() {
    local found
    laptop
    at_home
    holder
    started --ns-ifname tap0 -4 "$HOLDER"
    inside ip link set tap0 up
    dhclient_inside
    grep -q "bound to $HOME_A" "$WORLD/dhclient.log"
    on_laptop addr del "$HOME_A/27" dev uplink
    on_laptop addr add "$OFFICE_A/27" dev uplink
    on_laptop route add default via "$OFFICE_GW" dev uplink
    sleep 1
    dhclient_inside
    found=$(cat "$WORLD/dhclient.log")
    holds "$found" "DHCPREQUEST for $HOME_A"
    holds "$found" DHCPNAK
    holds "$found" "bound to $OFFICE_A"
}
dhclient_inside() {
    # It does not stay: each time it begins with the lease that it had.
    inside timeout 30 dhclient -4 -1 -v -sf /bin/true -lf "$WORLD/leases" -pf "$WORLD/dhclient.pid" tap0 >"$WORLD/dhclient.log" 2>&1
    kill "$(cat "$WORLD/dhclient.pid")" || true
}

case_given_stays() {
    laptop
    at_home
    holder
    started --config-net -a 192.0.2.130/26 -g 192.0.2.129 -a 2001:db8:77::7 "$HOLDER"
    answers
    on_laptop addr flush dev uplink
    on_laptop addr add "$OFFICE_A/27" dev uplink
    on_laptop addr add "$OFFICE6::98/64" dev uplink nodad
    on_laptop route add default via "$OFFICE_GW" dev uplink
    on_laptop -6 route replace default via "$OFFICE6::1" dev uplink
    soon 'another network' answers
    has 192.0.2.130/26
    has 2001:db8:77::7/64
    leads 192.0.2.129
    ! has "$OFFICE_A"
}
case_not_followed() {
    laptop
    at_home
    holder
    started --config-net --no-follow-host "$HOLDER"
    on_laptop addr add "$VPN_A/26" dev uplink
    on_laptop addr del "$HOME_A/27" dev uplink
    sleep 1.5
    has "$HOME_A/27"
    ! watcher
}

# Ports may wait for addresses only where there is no network yet.
case_listener_awaits_address() {
    local found
    laptop
    holder
    started --config-net -t "$HOME_A/7001" -t "%vpn/7004:7001" -l "$WORLD/pasta.log" "$HOLDER"
    grep 'not listened on until it is there' "$WORLD/pasta.log"
    serving '[::]:7001'
    at_home
    until_true 10 outside get "$HOME_A:7001" 2048 66
    kill "$(cat "$WORLD/pasta.pid")"
    until_true 5 ended
    found=$(pasta --config-net -t "$VPN_A/7001" -- true 2>&1) && return 1
    holds "$found" 'Cannot assign requested address'
}
# A listening socket belongs to an interface, and another one of the same name is not the same; also where the port follows
# a service.
case_listener_follows_interface() {
    laptop
    at_home
    on_laptop link set vpn up
    on_laptop addr add "$VPN_A/26" dev vpn
    holder
    started --config-net -t '%vpn/7001' -t '%vpn/auto,~7001' "$HOLDER"
    serving '[::]:7001' '[::]:7002'
    outside get "$VPN_A:7001" 2048 67
    until_true 5 outside get "$VPN_A:7002" 2048 67
    on_laptop link del vpn
    sleep 0.5
    ip link add vpn netns laptop type veth peer name lap-vpn netns outside
    ip -n outside link set lap-vpn up
    ip -n outside addr add "$VPN_GW/26" dev lap-vpn
    on_laptop link set vpn up
    on_laptop addr add "$VPN_A/26" dev vpn
    until_true 3 outside get "$VPN_A:7001" 2048 68
    until_true 5 outside get "$VPN_A:7002" 2048 68
}
case_egress_follows_host() {
    laptop
    at_home
    holder
    started --config-net --map-guest-addr none --egress 'reject @host' --egress 'allow any' "$HOLDER"
    answers
    nsenter --net=/run/netns/laptop /run/bin/nettool serve '[::]:5602' >"$WORLD/host-serve.log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$WORLD/host-serve.log"
    on_laptop addr add "$VPN_A/26" dev stable
    soon 'new address of the host' refuses "$VPN_A:5602"
    holds "$(in_net laptop /run/bin/nettool connect "$VPN_A:5602")" connected
}
refuses() { inside timeout 3 /run/bin/nettool connect "$1" | grep -E 'refused|prohibited|unreachable|denied' >/dev/null; }

# Thousands of changes a second that concern nobody: traffic does not notice, and what concerns the guest is seen.
case_storm_of_routes() {
    local before after count
    laptop
    at_home
    holder
    started --config-net "$HOLDER"
    for count in $(seq 2000); do
        printf 'route add 203.0.113.%s/32 dev stable\nroute del 203.0.113.%s/32 dev stable\n' $((count % 250 + 1)) $((count % 250 + 1))
    done >"$WORLD/batch"
    nsenter --net=/run/netns/laptop bash -c 'while [ ! -e "$1.stop" ]; do ip -batch "$1"; done' bash "$WORLD/batch" &
    remember $!
    sleep 0.5
    inside /run/bin/nettool get "$SERVER4:5000" 200000000 69 >"$WORLD/bulk.log"
    cat "$WORLD/bulk.log"
    before=$(grep -o 'pause [0-9]*' "$WORLD/bulk.log")
    [ "${before#pause }" -lt 1000 ]
    on_laptop addr add "$HOME_B/27" dev uplink
    until_true 10 has "$HOME_B/27"
    after=$(cut -d ' ' -f 1 "/proc/$(watcher)/schedstat")
    sleep 2
    count=$(($(cut -d ' ' -f 1 "/proc/$(watcher)/schedstat") - after))
    touch "$WORLD/batch.stop"
    echo "the watcher took $((count / 20000000)) % of a processor"
    [ "$count" -lt 1000000000 ]
    answers
}
# watcher: the process that watches the host's network: of all that have begun with the program, the one that has
# an inotify descriptor.
watcher() {
    local process
    for process in /proc/[0-9]*; do
        [ "$(cat "$process/comm" 2>/dev/null)" = host-watch ] || continue
        echo "${process#/proc/}"
        return
    done
    return 1
}

case_watcher_ends() {
    local process
    laptop
    at_home
    holder
    started --config-net "$HOLDER"
    until_true 10 watcher
    process=$(watcher)
    kill -INT "$process"
    kill -HUP "$process"
    sleep 0.3
    kill -0 "$process"
    kill -KILL "$(cat "$WORLD/pasta.pid")"
    until_true 10 has_ended "$process"
}
# As whoever stops the service that has started it wants it: without the watcher the program goes on, and nothing is left
# that waits to be reaped.
case_watcher_is_told_to_end() {
    local process
    laptop
    at_home
    holder
    started --config-net -l "$WORLD/pasta.log" "$HOLDER"
    until_true 10 watcher
    process=$(watcher)
    kill "$process"
    until_true 10 is_gone "$process"
    until_true 10 grep 'was told to end.*changes are not followed any more' "$WORLD/pasta.log"
    answers
}
is_gone() { [ ! -e "/proc/$1" ]; }
# Without the watcher the host is as it was, and one line says so.
case_watcher_confined() {
    local status descriptors
    laptop
    at_home
    holder
    started --config-net -l "$WORLD/pasta.log" "$HOLDER"
    until_true 10 watcher
    status=$(cat "/proc/$(watcher)/status")
    holds "$status" 'Seccomp:	2'
    holds "$status" 'NoNewPrivs:	1'
    holds "$status" 'CapBnd:	0000000000000000'
    holds "$status" 'CapPrm:	0000000000001000'
    # Only root of the machine may look: who started it is not root of its namespace.
    if [ "$PASST_WORLD_UID" -eq 0 ]; then
        descriptors=$(ls "/proc/$(watcher)/fd")
        same "$(wc -l <<<"$descriptors")" 10
    else
        echo "its descriptors are not looked at: this is not root"
    fi
    kill -KILL "$(watcher)"
    until_true 10 grep 'changes are not followed any more' "$WORLD/pasta.log"
    answers
}
# Where the kernel has Landlock: a link of resolv.conf that leads out of what is configuration counts as no file. Without, it
# is followed.
case_watcher_reads_configuration() {
    laptop
    own_etc
    at_home
    holder
    started --config-net --dns-forward 169.254.1.1 "$HOLDER"
    until_true 10 watcher
    soon start named "$NAME_A"
    printf 'nameserver %s\n' "$RESOLVER_B" | tee "$WORLD/resolvers/b" >"/tmp/resolver.$$"
    ln -s "/tmp/resolver.$$" "$WORLD/etc/resolv.new"
    mv -T "$WORLD/etc/resolv.new" "$WORLD/etc/resolv.conf"
    if has_landlock; then
        soon outside not_named "$NAME_A"
        not_named "$NAME_B"
    else
        soon outside named "$NAME_B"
    fi
    ln -s "$WORLD/resolvers/b" "$WORLD/etc/resolv.new"
    mv -T "$WORLD/etc/resolv.new" "$WORLD/etc/resolv.conf"
    soon inside named "$NAME_B"
    rm "/tmp/resolver.$$"
}
not_named() { ! named "$1"; }
# What the kernel has can be looked at only by root, so this program is asked.
has_landlock() { /run/bin/pasta --check | grep 'Landlock: available' >/dev/null; }
