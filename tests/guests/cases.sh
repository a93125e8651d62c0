# shellcheck shell=bash
# What a guest must see: one function for each promise, in the order in which they run.
#
# A case runs in a subshell under `set -e`: the first command that fails fails it. What
# it prints is kept in its log. `$KIND` is the guest, `$SCALE` divides amounts.

# shellcheck disable=SC2034 # used by the script that sources this file
# The ports that the program forwards. 8005 is left out of its range.
FORWARDS=(-t '8000-8010:9000-9010,~8005' -t 7001 -u 7001)
# The largest datagrams there are: no MTU fits them, so they leave the guest in fragments.
LARGEST4=65507 LARGEST6=65527

# shellcheck disable=SC2034
CASES=(
    dhcp_lease ra_address dhcpv6_address dns_server
    http_v4 http_v6 ping_v4 ping_v6
    inbound_v4 inbound_v6 port_range_translated port_excluded
    bulk_v4_mtu_65520 bulk_v6_mtu_65520 bulk_v4_mtu_1500 bulk_v6_mtu_1500
    short_connections_out short_connections_in
    udp_sizes_out_v4 udp_sizes_out_v6 udp_sizes_in_v4 udp_sizes_in_v6
    udp_sizes_mtu_1500
    half_close_out half_close_in
    refused_tcp refused_udp unreachable_tcp unreachable_udp
    hops_v4 hops_v6 ping_fragments
    tftp third_party questions_storm group_call group_heard broadcast
    slow_reader_no_retransmission
    guest_address_changed front_end_restarted
)

# What the host's network does, which is the same for each link; and other hosts, for a guest that can be one itself
# (booted.sh).
# shellcheck disable=SC2034
HOST_CASES=(
    host_network_changes booted_with_ipv6_disabled booted_with_ipv6_addresses_disabled
)

# After those, since little works any more.
# shellcheck disable=SC2034
LAST_CASES=(
    host_without_ipv6 program_ends
)

# For a guest that moves between two hosts (migrate.sh).
# shellcheck disable=SC2034
MIGRATE_CASES=(
    dhcp_lease ra_address dhcpv6_address
    migrated_once connections_go_along migrated_under_load migrated_ten_times migration_that_fails goes_on_after_a_copy
    snapshot_loaded saved_and_restored program_ends
)

# For a guest that moves between this program and the packaged one.
# shellcheck disable=SC2034
UPSTREAM_CASES=(
    dhcp_lease ra_address dhcpv6_address
    migrated_once connections_go_to_the_packaged_one connections_come_from_the_packaged_one
)
# By hand, since the packaged one may reset them: contrib/DIFFERENCES.md says why.
[ -z "${UPSTREAM_CONNECTIONS:-}" ] || UPSTREAM_CASES+=(all_connections_go_to_the_packaged_one)

# For a guest that libvirt moves (libvirt.sh).
# shellcheck disable=SC2034
LIBVIRT_CASES=(
    dhcp_lease ra_address dhcpv6_address
    libvirt_moves libvirt_carries libvirt_saves
)

# For a guest that moves on the stream socket, where nothing goes along.
# shellcheck disable=SC2034
RESET_CASES=(
    dhcp_lease ra_address dhcpv6_address
    migrated_once connections_reset
)

# For a guest with four queue pairs; the rest it has in common with one that has one.
# shellcheck disable=SC2034
QUEUE_CASES=(
    dhcp_lease ra_address dhcpv6_address
    queues_all_used queues_reduced_in_use
    front_end_restarted program_ends
)

# For a driver from before virtio 1.0.
# shellcheck disable=SC2034
LEGACY_CASES=(
    dhcp_lease ra_address dhcpv6_address legacy_interface
    http_v4 http_v6 inbound_v4 bulk_v4_mtu_1500 bulk_v6_mtu_65520
    udp_sizes_out_v4 udp_sizes_in_v4
    front_end_restarted program_ends
)

# For a guest that mounts a file system of a server which wants source ports below 1024 (nfs.sh).
# shellcheck disable=SC2034
NFS_CASES=(
    dhcp_lease ra_address dhcpv6_address
    nfs_refused_from_high_ports nfs_mounted_from_low_ports program_ends
)

# For firmware that gets the kernel from the network (firmware.sh).
# shellcheck disable=SC2034
FIRMWARE_CASES=(
    dhcp_lease ra_address dhcpv6_address
    uefi_booted_by_tftp http_v4 http_v6 inbound_v4 udp_sizes_in_v4
    uefi_boots_by_http ipxe_boots_by_tftp_and_http program_ends
)

same() { [ "$1" = "$2" ] || { echo "found '$1' instead of '$2'"; return 1; }; }
holds() { case $1 in *"$2"*) ;; *) echo "'$2' is not in '$1'"; return 1 ;; esac; }
outside() { in_net outside /run/bin/nettool "$@"; }

case_dhcp_lease() {
    same "$(guest 30 dhcp4)" "address $HOST4/24 router $GATEWAY4 mtu 65520 dns $SERVER4"
}

# Feature bits 15, merged buffers, and 32, virtio 1.0, are not in use.
case_legacy_interface() {
    local bits
    bits=$(guest 5 'cat /sys/bus/virtio/devices/virtio0/features')
    same "${bits:15:1}${bits:32:1}" 00
    same "${bits:5:1}" 1
}

case_ra_address() {
    holds "$(guest 30 ra)" 2001:db8:2:
    holds "$(guest 5 'ip -6 route show default')" 'via fe80:'
}

case_dhcpv6_address() {
    same "$(guest 30 dhcp6)" "address $HOST6 dns $SERVER6"
}

case_dns_server() {
    local found
    holds "$(guest 5 'cat /etc/resolv.conf')" "nameserver $SERVER4"
    found=$(guest 15 "nslookup $NAME")
    holds "$found" "Address: $SERVER4"
    holds "$found" "Address: $SERVER6"
    holds "$(guest 15 "nslookup $NAME $SERVER6")" "Address: $SERVER6"
}

download() {
    local sum
    sum=$(sha256sum <"$WORLD/www/file")
    same "$(guest 60 "wget -q -O - http://$1/file | sha256sum")" "$sum"
}
case_http_v4() { download "$SERVER4"; }
case_http_v6() { download "[$SERVER6]"; }

case_ping_v4() { guest 20 "ping -c 3 -i 0.2 -W 5 $SERVER4"; }
case_ping_v6() { guest 20 "ping -6 -c 3 -i 0.2 -W 5 $SERVER6"; }

# Servers in the guest, for every inbound case.
serve_in_guest() {
    guest 5 'nettool serve "[::]:7001" "[::]:9003" "[::]:9005" "[::]:9010" >/tmp/serve 2>&1 &'
    until_true 10 guest_serves
}
guest_serves() { guest 5 'grep -q ready /tmp/serve'; }

case_inbound_v4() { outside get "$HOST4:7001" 1000000 11; }
case_inbound_v6() { outside get "[$HOST6]:7001" 1000000 12; }

case_port_range_translated() {
    outside get "$HOST4:8003" 1000 13
    outside get "[$HOST6]:8010" 1000 14
    # Translated to a port where nobody listens: what the guest says comes back.
    holds "$(outside get "$HOST4:8000" 1000 15 || true)" reset
}

case_port_excluded() {
    same "$(outside connect "$HOST4:8005")" refused
    same "$(outside connect "[$HOST6]:8005")" refused
    same "$(outside connect "$HOST4:8011")" refused
}

# bulk MTU OUTSIDE INSIDE: both directions, connections of both makers.
bulk() {
    local bytes=$((100000000 / SCALE))
    guest 5 "ip link set \$IF mtu $1"
    guest 90 "nettool get $2:5000 $bytes 21"
    guest 90 "nettool put $2:5000 $bytes 22"
    outside get "$3:7001" "$bytes" 23
    outside put "$3:7001" "$bytes" 24
    guest 5 "ip link set \$IF mtu 65520"
}
case_bulk_v4_mtu_65520() { bulk 65520 "$SERVER4" "$HOST4"; }
case_bulk_v6_mtu_65520() { bulk 65520 "[$SERVER6]" "[$HOST6]"; }
case_bulk_v4_mtu_1500() { bulk 1500 "$SERVER4" "$HOST4"; }
case_bulk_v6_mtu_1500() { bulk 1500 "[$SERVER6]" "[$HOST6]"; }

case_short_connections_out() {
    guest 120 "nettool short $SERVER4:5000 $((1000 / SCALE))"
    guest 120 "nettool short [$SERVER6]:5000 $((1000 / SCALE))"
}
case_short_connections_in() {
    outside short "$HOST4:7001" $((1000 / SCALE))
    outside short "[$HOST6]:7001" $((1000 / SCALE))
}

case_udp_sizes_out_v4() { guest 60 "nettool udp $SERVER4:5000 $LARGEST4"; }
case_udp_sizes_out_v6() { guest 60 "nettool udp [$SERVER6]:5000 $LARGEST6"; }
case_udp_sizes_in_v4() { outside udp "$HOST4:7001" "$LARGEST4"; }
case_udp_sizes_in_v6() { outside udp "[$HOST6]:7001" "$LARGEST6"; }

# Up to 45 fragments for each datagram from the guest; those to it need none.
case_udp_sizes_mtu_1500() {
    guest 5 "ip link set \$IF mtu 1500"
    case_udp_sizes_out_v4
    case_udp_sizes_out_v6
    case_udp_sizes_in_v4
    case_udp_sizes_in_v6
    guest 5 "ip link set \$IF mtu 65520"
}

# `put` closes the client's half first, `late` the server's.
case_half_close_out() {
    guest 30 "nettool put $SERVER4:5000 3000000 31"
    guest 30 "nettool late $SERVER4:5000 3000000 32"
    guest 30 "nettool late [$SERVER6]:5000 3000000 33"
}
case_half_close_in() {
    outside put "$HOST4:7001" 3000000 34
    outside late "$HOST4:7001" 3000000 35
    outside late "[$HOST6]:7001" 3000000 36
}

case_refused_tcp() {
    same "$(guest 30 "nettool connect $SERVER4:9")" refused
    same "$(guest 30 "nettool connect [$SERVER6]:9")" refused
}
case_refused_udp() {
    same "$(guest 30 "nettool udp-error $SERVER4:9")" refused
    same "$(guest 30 "nettool udp-error [$SERVER6]:9")" refused
}
# As on the host: `unreachable` routes of IPv4 and IPv6 are not the same error.
case_unreachable_tcp() {
    same "$(guest 30 "nettool connect $NOWHERE4:9")" unreachable
    same "$(guest 30 "nettool connect [$NOWHERE6]:9")" 'no route'
    same "$(in_net host /run/bin/nettool connect "$NOWHERE4:9")" unreachable
    same "$(in_net host /run/bin/nettool connect "[$NOWHERE6]:9")" 'no route'
}
# hops COMMAND...: number and address of each hop are those that the same program sees on the host. They are printed.
# shellcheck disable=SC2016 # for awk
hops() {
    local addresses='/^ *[0-9]+ / { print $1, $2 }' here there
    here=$(in_net host /run/guests/busybox/busybox "$@" | awk "$addresses")
    there=$(guest 30 "$* | awk '$addresses'")
    same "$there" "$here"
    echo "$there"
}
# The router is one hop away, the server is the router.
case_hops_v4() {
    holds "$(guest 20 "ping -c 1 -W 5 -t 1 $SERVER4")" "from $SERVER4"
    same "$(hops traceroute -n -q 1 -w 5 -m 3 "$NOWHERE4" | head -1)" "1 $GATEWAY4"
    same "$(hops traceroute -I -n -q 1 -w 5 -m 3 "$NOWHERE4" | head -1)" "1 $GATEWAY4"
}
case_hops_v6() {
    holds "$(guest 20 "ping -6 -c 1 -W 5 -t 1 $SERVER6")" "from $SERVER6"
    same "$(hops traceroute6 -n -q 1 -w 5 -m 3 "$NOWHERE6" | head -1)" "1 $GATEWAY6"
}
# What does not fit the link goes in fragments, both ways.
case_ping_fragments() {
    guest 5 "ip link set \$IF mtu 1500"
    guest 20 "ping -c 2 -i 0.2 -W 5 -s 3000 $SERVER4"
    guest 20 "ping -6 -c 2 -i 0.2 -W 5 -s 3000 $SERVER6"
    guest 5 "ip link set \$IF mtu 65520"
}
# Each transfer has a port of the server's own.
case_tftp() {
    local address sums
    for address in "$SERVER4" "[$SERVER6]"; do
        nsenter --net=/run/netns/outside /run/bin/nettool tftp "$address:6969" 100000 7 >"$LOGS/tftp.log" 2>&1 &
        until_true 10 grep -q ready "$LOGS/tftp.log"
        sums=$(guest 60 "tftp -g -r boot -l /tmp/boot ${address//[\[\]]/} 6969 && sha256sum </tmp/boot")
        same "$sums" "$(in_net host /run/guests/busybox/busybox tftp -g -r boot -l - "${address//[\[\]]/}" 6969 | sha256sum)"
        kill $!
    done
}
# third_party PORT SERVER THIRD: that one writes to the port that the server has told it of. On the host first: then the
# port is the guest's.
third_party() {
    nsenter --net=/run/netns/outside /run/bin/nettool introduce "$2" "$3" >"$LOGS/third.log" 2>&1 &
    until_true 10 grep -q ready "$LOGS/third.log"
    same "$(in_net host /run/bin/nettool punch "$1" "$2")" "you are $1, $3 says hello"
    same "$(guest 20 "nettool punch $1 $2")" "you are $1, $3 says hello"
    kill $!
}
case_third_party() {
    ip -n outside addr replace 198.51.100.8/32 dev lo
    ip -n outside addr replace 2001:db8:1::8/128 dev lo
    third_party 4444 "$SERVER4:3478" 198.51.100.8:4000
    third_party 4446 "[$SERVER6]:3478" '[2001:db8:1::8]:4000'
}
# Each question has a port of its own.
case_questions_storm() {
    local address
    for address in "$SERVER4:5000" "[$SERVER6]:5000"; do
        holds "$(guest 60 "nettool storm $address 500 5")" 'ok'
    done
}

# Devices on the network answer who calls a group or all of the network.
GROUPS_OF_SERVICES=(239.255.255.250:1900 '[ff02::c]:3702' 224.0.0.252:5355 '[ff02::fb]:5353')
# answered_on ADDRESS:PORT: who calls there from the guest is answered as a program of the host is.
answered_on() {
    local here there
    nsenter --net=/run/netns/outside /run/bin/nettool hear "$1" hosts >"$LOGS/device.log" 2>&1 &
    until_true 10 grep -q ready "$LOGS/device.log"
    here=$(in_net host /run/bin/nettool call "$1" uplink is-anybody-there)
    there=$(guest 20 "nettool call $1 \$IF is-anybody-there")
    kill $!
    same "$there" "$here"
}
# beside_gateway COMMAND...: what `outside` sends to the link meanwhile is from an address that is not the gateway's, which
# stands for the host.
beside_gateway() {
    ip -n outside addr replace 192.0.2.7/24 dev hosts
    ip -n outside route replace 192.0.2.0/24 dev hosts src 192.0.2.7
    "$@"
    ip -n outside addr del 192.0.2.7/24 dev hosts
    ip -n outside route replace 192.0.2.0/24 dev hosts src "$GATEWAY4"
}
group_call() {
    local group
    for group in "${GROUPS_OF_SERVICES[@]}"; do answered_on "$group"; done
}
case_group_call() { beside_gateway group_call; }
broadcast() {
    answered_on 255.255.255.255:9
    answered_on 192.0.2.255:9
}
case_broadcast() { beside_gateway broadcast; }
# And the guest is a device that others find.
case_group_heard() { beside_gateway group_heard; }
group_heard() {
    local group from
    for group in "${GROUPS_OF_SERVICES[@]}"; do
        case $group in *.*) from=(192.0.2.7) ;; *) from=() ;; esac
        guest 5 "nettool hear $group \$IF >/tmp/heard 2>&1 & echo \$! >/tmp/heard.pid"
        guest 5 'until grep -q ready /tmp/heard; do sleep 0.1; done'
        holds "$(outside call "$group" hosts is-anybody-there "${from[@]}")" 'answered by '
        holds "$(guest 5 'cat /tmp/heard')" 'heard is-anybody-there from '
        guest 5 "kill \$(cat /tmp/heard.pid)"
    done
}
# Sockets hide this error from those who do not ask for it; the counters show it.
case_unreachable_udp() {
    local icmp4 icmp6
    # The router's kernel sends a peer one such error a second (net.ipv4.route.error_cost).
    sleep 1.5
    icmp4=$(guest 5 'counter Icmp InDestUnreachs')
    icmp6=$(guest 5 'counter6 Icmp6InDestUnreachs')
    guest 10 "nettool udp-error $NOWHERE4:9; nettool udp-error [$NOWHERE6]:9"
    same "$(guest 5 'counter Icmp InDestUnreachs')" $((icmp4 + 1))
    same "$(guest 5 'counter6 Icmp6InDestUnreachs')" $((icmp6 + 1))
}

# dropped REASON...: what the program has dropped for these reasons, by its last report. A report
# takes a second and something to tell.
dropped() {
    local reason said
    sleep 1.1
    guest 20 "ping -c 1 -W 5 $GATEWAY4" >/dev/null || return
    said=$(sed -n 's/^dropped://p' "$LOGS/passt.log" | tail -n 1)
    for reason in "$@"; do
        awk -v RS=, -v name="$reason" '$2 == name { count = $1 } END { print count + 0, name }' <<<"$said"
    done
}

# Longest time for which the guest may have stood still, if a timeout of its TCP is to be ours:
# half of the smallest that Linux has.
STILL_MS=100

# slow_upload ADDRESS SEED: sends to a slow reader. PAUSE becomes the longest time for which the
# guest's processor stood still, if it was longer than what it is.
slow_upload() {
    local said pause
    said=$(guest 60 "nettool slow $1:5000 20000000 $2")
    echo "$said"
    pause=$(sed -n 's/.*longest pause \([0-9]*\) ms$/\1/p' <<<"$said")
    PAUSE=$((${pause:?} > PAUSE ? pause : PAUSE))
}

# What moves when segments are sent again: by whatever, by tail loss probes, by our duplicate
# acknowledgements; and timeouts of segments that were still in the guest's own queue.
RETRANSMISSIONS=(Tcp/RetransSegs TcpExt/TCPLossProbes TcpExt/TCPFastRetrans TcpExt/TCPSpuriousRtxHostQueues)
retransmissions() {
    local moved
    for moved in "${RETRANSMISSIONS[@]}"; do
        guest 5 "counter ${moved/\// } | grep ." || return
    done
}

# Nothing that the guest sends is dropped, so nothing has to be sent again.
#
# Tail loss probes (RFC 8985, section 7) do not count: the guest sends them when an answer takes some
# milliseconds. Nor does a timeout (200 ms and more) that a busy machine has caused, by leaving the
# guest without a processor, or its segment in its own queue: nothing was lost, and only the guest
# can tell. What our duplicate acknowledgements ask for always counts, and so does what the program
# says that it has dropped.
case_slow_reader_no_retransmission() {
    local PAUSE=0 drops before after again probes fast queued
    drops=$(dropped socket-full no-guest-room)
    before=$(retransmissions)
    slow_upload "$SERVER4" 41
    slow_upload "[$SERVER6]" 42
    after=$(retransmissions)
    mapfile -t before <<<"$before"
    mapfile -t after <<<"$after"
    again=$((after[0] - before[0])) probes=$((after[1] - before[1]))
    fast=$((after[2] - before[2])) queued=$((after[3] - before[3]))
    echo "$again sent again, $probes probes, $fast asked for, $queued timeouts in the guest's queue"
    same "$(dropped socket-full no-guest-room)" "$drops"
    same "$fast asked for" '0 asked for'
    [ "$queued" -gt 0 ] || [ "$PAUSE" -ge "$STILL_MS" ] || [ "$again" -le "$probes" ] ||
        same "$again sent again" "$probes probes"
}

# in_parallel BYTES SEED: one connection each way on each processor, at the same time; then sixteen short ones on each.
#
# A processor's own queue pair is sure of the first segments of its connections and of the answers to those. The others of a
# connection go by the pair of the processor on which the guest acknowledges something, and that is mostly the one that takes
# the interrupts: of the bulk, a pair may see nearly nothing.
in_parallel() {
    local said
    said=$(guest 120 "for cpu in 0 1 2 3; do for way in get put; do taskset \$((1 << cpu)) nettool \$way $SERVER4:5000 $1 $2\$cpu & done; done; wait")
    echo "$said"
    same "$(grep -c '^ok ' <<<"$said")" 8
    said=$(guest 60 "for cpu in 0 1 2 3; do taskset \$((1 << cpu)) nettool short $SERVER4:5000 16 & done; wait")
    echo "$said"
    same "$(grep -c '^ok 16 connections' <<<"$said")" 4
}

# moved: what each queue of the guest has moved meanwhile, receive queues first, when the command ends.
moved() {
    local before after
    before=$(guest 5 "nettool queues \$IF")
    "$@"
    after=$(guest 5 "nettool queues \$IF")
    printf '%s\n' "$before" "$after"
    mapfile -t MOVED < <(awk '$1 != "pairs" { for (i = 2; i <= NF; i++) if (NR > FNR) print $i - was[FNR, i]; else was[FNR, i] = $i }' \
        <(echo "$before") <(echo "$after"))
}

# busy QUEUE...: these have moved packets both ways, and the others have not.
busy() {
    local queue wanted
    for queue in 0 1 2 3; do
        wanted=idle
        case " $* " in *" $queue "*) wanted=busy ;; esac
        same "rx $queue $(word "${MOVED[queue]}")" "rx $queue $wanted"
        same "tx $queue $(word "${MOVED[queue + 4]}")" "tx $queue $wanted"
    done
}
# An announcement may come by any queue.
word() { if [ "$1" -ge 10 ]; then echo busy; else echo idle; fi; }

case_queues_all_used() {
    holds "$(guest 5 "nettool queues \$IF")" 'pairs 4 of 4'
    moved in_parallel $((4000000 / SCALE)) 71
    busy 0 1 2 3
}

# Connections that are open when pairs go away go on.
reduced_in_use() {
    local bytes=$((20000000 / SCALE))
    guest 5 "(taskset 8 nettool put $SERVER4:5000 $bytes 81; taskset 8 nettool get $SERVER4:5000 $bytes 82) >/tmp/meanwhile 2>&1 &"
    holds "$(guest 5 "nettool queues \$IF 2")" 'pairs 2 of 4'
    until_true 60 both_ended
    same "$(guest 5 'grep -c ^ok /tmp/meanwhile')" 2
    holds "$(guest 5 "nettool queues \$IF 4")" 'pairs 4 of 4'
}
both_ended() { [ "$(guest 5 'wc -l </tmp/meanwhile')" -eq 2 ]; }

# The driver shows no counters of pairs that it does not use.
with_two_pairs() {
    guest 5 "nettool queues \$IF 2"
    in_parallel $((2000000 / SCALE)) 91
    guest 5 "nettool queues \$IF 4"
}

case_queues_reduced_in_use() {
    reduced_in_use
    moved with_two_pairs
    busy 0 1
    moved in_parallel $((2000000 / SCALE)) 92
    busy 0 1 2 3
}

# The host's resolver, its prefix and its way out change, while connections of the guest go on. What the guest's kernel
# has from advertisements follows by itself; a lease when it is asked for.
case_host_network_changes() {
    local new=2001:db8:b
    guest 5 "{ nettool carry 10 2 all $SERVER4:5000 >/tmp/carry 2>&1; echo \$? >/tmp/carried; } &"
    ip -n outside addr add "$new::1/64" dev hosts nodad
    renumber "$HOST6" "$new::2" "$new::1"
    until_true 20 guest_shows addr "inet6 $new:"
    until_true 20 guest_shows addr 'inet6 2001:db8:2:.*deprecated'
    guest 60 "nettool get [$SERVER6]:5000 1000000 52"
    ip -n host -6 route del default
    until_true 20 lacks_router
    ip -n host -6 route add default via "$new::1"
    until_true 20 guest_shows route 'default via fe80:'
    guest 60 "nettool get [$SERVER6]:5000 1000000 53"

    renumber "$new::2" "$HOST6" "$GATEWAY6"
    until_true 20 guest_shows addr "inet6 $new:.*deprecated"
    guest 60 "nettool put [$SERVER6]:5000 1000000 54"
    # A lease takes all other addresses from the guest: it comes last.
    printf 'nameserver 198.51.100.53\n' >"$WORLD/resolv.conf"
    until_true 20 leases 'dns 198.51.100.53'
    printf 'nameserver %s\nnameserver %s\nsearch example.test\n' "$SERVER4" "$SERVER6" >"$WORLD/resolv.conf"
    until_true 20 leases "dns $SERVER4"
    until_true 40 guest 5 'cat /tmp/carried' || return 1
    same "$(guest 5 'cat /tmp/carried')" 0 || { guest 5 'cat /tmp/carry'; return 1; }
    ip -n outside addr del "$new::1/64" dev hosts
}
leases() { guest 30 dhcp4 | grep "$1\$" >/dev/null; }
# renumber FROM TO GATEWAY: the host has another address, and another way out.
renumber() {
    ip -n host addr del "$1/64" dev uplink
    ip -n host addr add "$2/64" dev uplink nodad
    ip -n host -6 route replace default via "$3"
}
# shellcheck disable=SC2016 # that is for the guest
guest_shows() { guest 5 "ip -6 $1 show dev \$IF" | grep "$2" >/dev/null; }
lacks_router() { ! guest_shows route 'default via fe80:'; }

case_guest_address_changed() {
    guest 10 "ip addr del $HOST4/24 dev \$IF; ip addr add 192.0.2.77/24 dev \$IF; ip route add default via $GATEWAY4"
    guest 20 "ping -c 1 -W 5 $SERVER4"
    # Forwarded ports follow when the address that was assigned has not answered for a moment.
    sleep 0.5
    outside get "$HOST4:7001" 1000000 51
}

case_front_end_restarted() {
    stop_guest
    passt_runs
    start_guest "$KIND"
    case_dhcp_lease
    case_ra_address
    serve_in_guest
    guest 60 "nettool get $SERVER4:5000 1000000 61"
    guest 60 "nettool put [$SERVER6]:5000 1000000 62"
    outside get "$HOST4:7001" 1000000 63
    outside get "[$HOST6]:7001" 1000000 64
}

# As booted with ipv6.disable_ipv6=1: no interface has an IPv6 address, nor has the loopback one. It stays so.
case_host_without_ipv6() {
    stop_guest
    kill -TERM "$(cat "$WORLD/$SIDE.pid")"
    until_true 10 test -s "$WORLD/$SIDE.status"
    # shellcheck disable=SC2016
    in_net host sh -c 'for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >"$file"; done'
    same "$(ip -n host -6 addr)" ''
    start_passt "${FORWARDS[@]}" -t '127.0.0.1/7002'
    start_guest "$KIND"
    case_dhcp_lease
    serve_in_guest
    guest 60 "nettool get $SERVER4:5000 1000000 65"
    case $(guest 30 "nettool connect [$SERVER6]:5000") in unreachable | 'no route') ;; *) return 1 ;; esac
    outside get "$HOST4:7001" 1000000 66
    outside udp "$HOST4:7001" 1000
    case_ping_v4
}

# Last, for nothing works after it.
case_program_ends() {
    stop_guest
    kill -TERM "$(cat "$WORLD/$SIDE.pid")"
    until_true 10 test -s "$WORLD/$SIDE.status"
    same "$(cat "$WORLD/$SIDE.status")" 0
}
