# shellcheck shell=bash
# Port forwarding: each kind of port specification, over the tap device and past it, both
# ways. Source it after cases.sh. Scripts in single quotes are for the shell inside.
# shellcheck disable=SC2016

CASES+=(
    ports_over_tap_tcp_v4 ports_over_tap_tcp_v6 ports_over_tap_udp_v4 ports_over_tap_udp_v6
    ports_past_tap_tcp_v4 ports_past_tap_tcp_v6 ports_past_tap_udp_v4 ports_past_tap_udp_v6
    ports_outward_tcp_v4 ports_outward_tcp_v6 ports_outward_udp_v4 ports_outward_udp_v6
    ports_outward_to_address ports_outward_without_ipv6
    splice_only splice_only_refused link_local_target ports_not_bound port_of_a_resolver device_given device_refused
    ports_free_before_device
    socket_maker_lost
)

# One list of ports with a single one, a range, and the same translated. Of each the ports
# that are connected to, and those where the services are: nothing listens between them, so a
# range that is translated in another order reaches nobody.
LIST=7011,7021-7024,7031:7131,7041-7044:7141-7144
PAIRS=(7011:7011 7021:7021 7024:7024 7031:7131 7041:7141 7044:7144)
OUTSIDE_LIST=(7010 7012 7020 7025 7131 7045)

# services ADDRESS...: the arguments of a server on all ports of PAIRS.
services() {
    local pair address
    for pair in "${PAIRS[@]}"; do
        for address in "$@"; do echo "$address:${pair#*:}"; done
    done
}

# exchange PROTOCOL CLIENT ADDRESS:PORT: both ways, little and much, compared byte by byte.
exchange() {
    echo "$*"
    case $1 in
    tcp)
        "$2" get "$3" 2048 81
        "$2" put "$3" 2048 82
        "$2" get "$3" 10000000 83
        "$2" put "$3" 10000000 84
        ;;
    udp) "$2" udp "$3" 60000 ;;
    esac
}
from_inside() { inside /run/bin/nettool "$@"; }

# all_forwarded PROTOCOL CLIENT ADDRESS: the ports of LIST, and no others.
all_forwarded() {
    local pair port
    for pair in "${PAIRS[@]}"; do
        exchange "$1" "$2" "$3:${pair%:*}"
    done
    for port in "${OUTSIDE_LIST[@]}"; do
        [ "$1" != tcp ] || same "$port $("$2" connect "$3:$port")" "$port refused"
    done
}

# option LETTER PROTOCOL: the letter, or what means the same for UDP.
option() { case $1$2 in ttcp) echo -t ;; tudp) echo -u ;; Ttcp) echo -T ;; Tudp) echo -U ;; esac }

# inward PROTOCOL CLIENT ADDRESS WRONG-ADDRESS INTERFACE WRONG-CLIENT...: also bound to the address,
# and to the interface that has it. What goes to another one is refused.
inward() {
    local flag targets
    flag=$(option t "$1")
    mapfile -t targets < <(services '[::]')
    holder
    started --config-net "$flag" "$LIST" "$flag" "$3/7051:7011" "$flag" "%$5/7061-7062:7141-7142" "$HOLDER"
    serving "${targets[@]}"
    all_forwarded "$1" "$2" "$3"
    exchange "$1" "$2" "$3:7051"
    exchange "$1" "$2" "$3:7061"
    [ "$1" = tcp ] || return 0
    same "$(from_host connect "$4:7051")" refused
    same "$("$6" connect "$7:7061")" refused
}
over_tap() {
    inward "$1" outside "$2" "$3" uplink from_host "$3"
    [ "$(tap_bytes)" -gt "$4" ]
}
case_ports_over_tap_tcp_v4() { over_tap tcp "$HOST4" 127.0.0.1 100000000; }
case_ports_over_tap_tcp_v6() { over_tap tcp "[$HOST6]" '[::1]' 100000000; }
case_ports_over_tap_udp_v4() { over_tap udp "$HOST4" 127.0.0.1 400000; }
case_ports_over_tap_udp_v6() { over_tap udp "[$HOST6]" '[::1]' 400000; }

past_tap() {
    inward "$1" from_host "$2" "$3" lo outside "$4"
    [ "$(tap_bytes)" -lt 60000 ]
}
case_ports_past_tap_tcp_v4() { past_tap tcp 127.0.0.1 127.0.0.2 "$HOST4"; }
case_ports_past_tap_tcp_v6() { past_tap tcp '[::1]' 127.0.0.1 "[$HOST6]"; }
case_ports_past_tap_udp_v4() { past_tap udp 127.0.0.1 127.0.0.2 "$HOST4"; }
case_ports_past_tap_udp_v6() { past_tap udp '[::1]' 127.0.0.1 "[$HOST6]"; }

# serving_host ADDRESS...: a server in the host's network.
serving_host() {
    rm -f "$WORLD/serving.log"
    in_net host /run/bin/nettool serve "$@" >"$WORLD/serving.log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$WORLD/serving.log"
}
outward() {
    local targets
    mapfile -t targets < <(services "$2")
    serving_host "${targets[@]}"
    holder
    started --config-net -t none -u none -T none -U none "$(option T "$1")" "$LIST" "$HOLDER"
    all_forwarded "$1" from_inside "$2"
    [ "$(tap_bytes)" -lt 60000 ]
}
case_ports_outward_tcp_v4() { outward tcp 127.0.0.1; }
case_ports_outward_tcp_v6() { outward tcp '[::1]'; }
case_ports_outward_udp_v4() { outward udp 127.0.0.1; }
case_ports_outward_udp_v6() { outward udp '[::1]'; }
case_ports_outward_to_address() {
    serving_host 127.0.0.5:5605
    holder
    started -4 -t none -u none -T "7001:127.0.0.5/5605,7002:$HOST4/5601" -U 7001:127.0.0.5/5605 "$HOLDER"
    from_inside get 127.0.0.1:7001 2048 85
    from_inside udp 127.0.0.1:7001 1000
    from_inside get 127.0.0.1:7002 2048 86
}
case_ports_outward_without_ipv6() {
    holder
    inside sh -c 'for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >"$file"; done'
    lacks "$(inside ip addr)" ::1
    started -t none -u none -T 5600 -U 5600 "$HOLDER"
    exchange tcp from_inside 127.0.0.1:5600
    exchange udp from_inside 127.0.0.1:5600
}

case_splice_only() {
    holder
    started --splice-only -t 7001 -u 7001 -T 5600 -U 5600 "$HOLDER"
    same "$(inside ip -br link show up | cut -d ' ' -f 1)" lo
    same "$(inside ip -br link | wc -l)" 1
    serving 127.0.0.1:7001 '[::1]:7001'
    local protocol address
    for protocol in tcp udp; do
        for address in 127.0.0.1 '[::1]'; do
            exchange "$protocol" from_host "$address:7001"
            exchange "$protocol" from_inside "$address:5600"
        done
    done
    # From elsewhere a connection is accepted and reset: there is no way in.
    if outside get "$HOST4:7001" 2048 87; then return 1; fi
    if from_host get "$HOST4:7001" 2048 88; then return 1; fi
    runs
    # It needs no interface of the host as a model, and no device to make tap devices.
    same "$(pasta --splice-only -- bash -c '/run/bin/pasta --splice-only -- ip -br link show up' | cut -d ' ' -f 1)" lo
}
case_splice_only_refused() {
    local found
    refused '--splice-only is incompatible with --no-splice' --splice-only --no-splice -- true
    found=$(become_user /run/bin/passt --splice-only 2>&1) && return 1
    holds "$found" '--splice-only is for pasta mode only'
}

# In local mode the guest has nothing but a link-local address, which its own frames tell.
case_link_local_target() {
    pasta -- bash -euc '
        /run/bin/pasta --config-net -6 -f -t 7001 -u 7001 -- bash -c "
            ip -6 addr add fe80::77/64 dev tap0 nodad
            busybox ping -6 -c 1 -W 1 -I fe80::77 fe80::1%tap0 >/dev/null || true
            exec /run/bin/nettool serve [::]:7001" &
        for try in $(seq 100); do
            ! /run/bin/nettool get "[::1]:7001" 2048 89 || break
            sleep 0.05
        done
        /run/bin/nettool put "[::1]:7001" 10000000 90
        /run/bin/nettool udp "[::1]:7001" 1000
        kill %1'
}

# What cannot be listened on: the specification, the reason, and a word of the cure.
case_ports_not_bound() {
    local row spec place reason cure found
    for row in \
        "%nosuch/2222 *%nosuch/2222 No_such_device interface" \
        "fe80::77/2222 fe80::77/2222 Cannot_assign_requested_address ADDR%IF" \
        "192.0.2.77/2222 192.0.2.77/2222 Cannot_assign_requested_address --freebind" \
        "$HOST4/5601 $HOST4/5601 Address_already_in_use stop" \
        "22 */22 Permission_denied ip_unprivileged_port_start"; do
        read -r spec place reason cure <<<"$row"
        echo "$spec"
        found=$(pasta -t "$spec" -- true 2>&1) && return 1
        holds "$found" "Listen failed for HOST TCP port $place: ${reason//_/ }"
        holds "$(grep "^Failed to bind port ${spec#*/}: " <<<"$found")" "$cure"
        holds "$found" "Couldn't listen on requested ports"
        lacks "$found" 'os error'
    done
    # A link-local address on an interface of its own.
    ip -n host addr add fe80::77/64 dev uplink nodad
    pasta -t fe80::77/2222 -u fe80::77%uplink/2222 -- true
    ip -n host addr del fe80::77/64 dev uplink
}

# with_tap FLAGS COMMAND...: with descriptor 9, a tap device gift0 in the holder's network.
with_tap() {
    nsenter --net="/proc/$HOLDER/ns/net" perl -e '
        use POSIX; my $flags = shift; $^F = 255;
        open(my $tun, "+<", "/dev/net/tun") or die "tun: $!";
        ioctl($tun, 0x400454ca, pack("a16 s x22", "gift0", oct $flags)) or die "TUNSETIFF: $!";
        POSIX::dup2(fileno($tun), 9); exec @ARGV or die "exec: $!"' "$@"
}
# given ARGUMENT...: pasta as an ordinary user in the host's network, from wherever this is.
export -f become_user become_one
export WORLD ORDINARY
given=(env "HOST=$HOST" bash -c 'become_user /run/bin/pasta "$@"' -)
case_device_given() {
    local flags
    # Of the device: a header for offloads in front of each frame, or none.
    for flags in 0x5002 0x1002; do
        holder
        rm -f "$WORLD/pasta.pid"
        with_tap "$flags" "${given[@]}" --fd 9 --config-net -t 7001 -P "$WORLD/pasta.pid" "$HOLDER"
        remember "$(cat "$WORLD/pasta.pid")"
        holds "$(inside ip -o addr show dev gift0)" "inet $HOST4/24"
        exchange tcp from_inside "$SERVER4:5000"
        inside /run/bin/nettool udp "[$SERVER6]:5000" 60000
        kill -TERM "$(cat "$WORLD/pasta.pid")"
        until_true 5 ended
    done
    # Whoever has opened it may have given it addresses.
    for flags in --ipv4-only --ipv6-only --no-copy-addrs; do
        holder
        rm -f "$WORLD/pasta.pid"
        with_tap 0x5002 bash -c 'ip addr add "$1/24" dev gift0; ip addr add "$2/64" dev gift0 nodad; ip link set gift0 up
            shift 2; exec "$@"' - "$HOST4" "$HOST6" "${given[@]}" "$flags" \
            --fd 9 --config-net -P "$WORLD/pasta.pid" "$HOLDER"
        remember "$(cat "$WORLD/pasta.pid")"
        [ "$flags" = --ipv6-only ] || exchange tcp from_inside "$SERVER4:5000"
        [ "$flags" = --ipv4-only ] || inside /run/bin/nettool udp "[$SERVER6]:5000" 60000
        kill -TERM "$(cat "$WORLD/pasta.pid")"
        until_true 5 ended
    done
}
case_device_refused() {
    local found
    holder
    # A device of IP packets, no device, and nothing at all.
    found=$(with_tap 0x1001 "${given[@]}" --fd 9 "$HOLDER" 2>&1) && return 1
    holds "$found" "Couldn't use --fd 9 as tap device: Invalid argument"
    found=$(pasta --fd 9 "$HOLDER" 9</dev/null 2>&1) && return 1
    holds "$found" "Couldn't use --fd 9 as tap device: Inappropriate ioctl"
    found=$(pasta --fd 9 "$HOLDER" 9<&- 2>&1) && return 1
    holds "$found" 'Could not move --fd descriptor: Bad file descriptor'
}

# after_device PID DEVICE PORT: waits until the network of PID lists DEVICE no more, which the kernel takes milliseconds
# to remove from then on; whether something on the host listens on PORT of 0.0.0.0 then.
after_device() {
    nsenter --net=/run/netns/host perl -e '
        my ($pid, $device, $port) = @ARGV;
        sub has { open(my $file, "<", $_[0]) or return 0; local $/; index(<$file>, $_[1]) >= 0 }
        my $end = time + 10;
        while (has("/proc/$pid/net/dev", "$device:")) { die "it stays" if time > $end }
        print has("/proc/self/net/tcp", sprintf("00000000:%04X 00000000:0000 0A", $port)) ? "taken" : "free"' "$@"
}
# Whoever sees that the device has gone can have the ports, however the program ends, and whoever has opened the device:
# one that is handed over has a high number.
case_ports_free_before_device() {
    local signal device
    for signal in TERM KILL; do
        for device in gift0 uplink; do
            holder
            rm -f "$WORLD/pasta.pid" "$WORLD/after"
            if [ "$device" = gift0 ]; then
                with_tap 0x5002 "${given[@]}" --fd 9 --config-net -t 0.0.0.0/7001 -P "$WORLD/pasta.pid" "$HOLDER"
                remember "$(cat "$WORLD/pasta.pid")"
            else
                started --config-net -t 0.0.0.0/7001 "$HOLDER"
            fi
            after_device "$HOLDER" "$device" 7001 >"$WORLD/after" &
            sleep 0.3
            kill "-$signal" "$(cat "$WORLD/pasta.pid")"
            wait "$!"
            same "$signal $device $(cat "$WORLD/after")" "$signal $device free"
            until_true 5 ended
        done
    done
}

# held_by ADDRESS: a name server of the host has port 5353 there; prints what pasta says of it.
held_by() {
    local found resolver
    rm -f "$WORLD/held.log"
    nsenter --net=/run/netns/host /run/bin/nettool serve "$1:5353" >"$WORLD/held.log" 2>&1 &
    resolver=$!
    remember "$resolver"
    until_true 10 grep -q ready "$WORLD/held.log"
    shift
    found=$(configured "$@" -- true 2>&1) && return 1
    kill "$resolver"
    until_true 5 has_ended "$resolver"
    echo "$found"
}
# A resolver on one address keeps others from a port on all of them; the error says where it can be had, and
# there it can.
case_port_of_a_resolver() {
    local found option
    for option in -t -u; do
        found=$(held_by 127.0.0.53 "$option" 5353)
        holds "$found" "Failed to bind port 5353"
        holds "$found" "port 5353 on some addresses only. It is free on "
        holds "$found" " $HOST4, "
        holds "$found" "[$HOST6]"
        holds "$found" "127.0.0.1"
        holds "$found" "as in $option "
        # The lists of IPv4, and of a port that is taken everywhere or was wanted in one place.
        lacks "$(held_by 127.0.0.53 "$option" 0.0.0.0/5353)" "$HOST6"
        lacks "$(held_by "[::]" "$option" 5353)" "It is free"
        found=$(held_by '[::1]' "$option" 5353)
        holds "$found" " $HOST4, "
        holds "$found" "[$HOST6]"
        lacks "$found" '[::1]'
        lacks "$(held_by "$HOST4" "$option" "$HOST4/5353")" "It is free"
    done
    rm -f "$WORLD/held.log"
    nsenter --net=/run/netns/host /run/bin/nettool serve 127.0.0.53:5353 >"$WORLD/held.log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$WORLD/held.log"
    configured -t "$HOST4/5353" -t "[$HOST6]/5353" -t 127.0.0.1/5353 -u "$HOST4/5353" -- true
}

# The helper that makes sockets in the namespace is ended by force: then the way by the tap device is left.
case_socket_maker_lost() {
    local process program children
    holder
    started --config-net -t 7001 -l "$WORLD/pasta.log" "$HOLDER"
    serving '[::]:7001'
    from_host get 127.0.0.1:7001 2048 90
    program=$(cat "$WORLD/pasta.pid")
    # The list has no end of line, which read takes for a failure.
    read -ra children <"/proc/$program/task/$program/children" || true
    for process in "${children[@]}"; do
        [ "$(cat "/proc/$process/comm")" != socket-maker ] || kill -KILL "$process"
    done
    # As many as there are sockets in stock, and one that finds out.
    for process in $(seq 40); do from_host get 127.0.0.1:7001 16 91 || true; done >/dev/null 2>&1
    from_host get 127.0.0.1:7001 2048 92
    from_host get '[::1]:7001' 2048 93
    same "$(grep -c 'go by the tap device' "$WORLD/pasta.log")" 1
}
