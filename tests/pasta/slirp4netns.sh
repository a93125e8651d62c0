# shellcheck shell=bash
# The program under the name of slirp4netns: its addresses, its descriptors, its socket. Source it after ports.sh.

CASES+=(slirp4netns slirp4netns_ports slirp4netns_closed slirp4netns_refused)

# slirp ARGUMENT...: starts it as an ordinary user. Descriptor 3 is a file, and the other end of 4 is kept by EXIT.
slirp() {
    rm -f "$WORLD"/{ready,exit,api}
    mkfifo "$WORLD/exit"
    sleep 300 >"$WORLD/exit" &
    EXIT=$!
    remember "$EXIT"
    (become_user /run/bin/slirp4netns -r 3 -e 4 -a "$WORLD/api" "$@" 3>"$WORLD/ready" 4<"$WORLD/exit") >"$WORLD/slirp.log" 2>&1 &
    SLIRP=$!
    remember "$SLIRP"
    until_true 10 grep -qsx 1 "$WORLD/ready" || { cat "$WORLD/slirp.log"; return 1; }
}
# api REQUEST: what the socket says to it.
api() { (become_user /run/bin/nettool ask "$WORLD/api" "$1"); }

# refuses_in_its_words WORDS ARGUMENT...: soon, with these words, and without options that are pasta's.
refuses_in_its_words() {
    local words=$1 found
    shift
    found=$( (become_user timeout 5 /run/bin/slirp4netns "$@") 2>&1) && return 1
    echo "$found"
    holds "$found" "$words"
    for words in --netns-only '--userns ' '--netns ' --ns-ifname --outbound-if 'or a command' 'ip netns list'; do
        lacks "$found" "$words"
    done
}

case_slirp4netns() {
    local found
    name_server outside "$SERVER4"
    holder
    slirp -c --mtu=65520 --enable-sandbox --enable-seccomp "$HOLDER" tap0
    found=$(inside ip -o addr show dev tap0; inside ip -o link show dev tap0; inside ip route)
    for word in 'inet 10.0.2.100/24' 'mtu 65520' 'default via 10.0.2.2 dev tap0'; do holds "$found" "$word"; done
    lacks "$found" 'inet6 fd00'
    exchange tcp from_inside "$SERVER4:5000"
    exchange udp from_inside "$SERVER4:5000"
    # This host by its gateway, and its name server.
    exchange tcp from_inside 10.0.2.2:5600
    holds "$(inside busybox nslookup "$NAME" 10.0.2.3)" "$SERVER4"
    # There is nobody else in that network.
    same "$(from_inside connect 10.0.2.77:5600)" refused
    # The end of its process is nothing to one who holds the descriptor.
    kill "$HOLDER"
    until_true 5 has_ended "$HOLDER"
    ! has_ended "$SLIRP" || return 1
    kill "$EXIT"
    wait "$SLIRP"
}

case_slirp4netns_ports() {
    local found id request
    holder
    slirp -c "$HOLDER" tap0
    serving '[::]:7001'
    same "$(from_host connect 127.0.0.1:7001)" refused
    same "$(api '{"execute": "list_hostfwd"}')" '{"return":{"entries":[]}}'
    # As Podman says it; and what has been left out is what it always is.
    found=$(api '{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"0.0.0.0","host_port":7005,"guest_addr":"10.0.2.100","guest_port":7001}}')
    holds "$found" '{"return":{"id":'
    id=${found//[^0-9]/}
    holds "$(api '{"execute": "add_hostfwd", "arguments": {"proto": "udp", "host_port": 7006, "guest_port": 7001}}')" \
        '{"return":{"id":'
    exchange tcp from_host 127.0.0.1:7005
    exchange tcp outside "$HOST4:7005"
    exchange udp outside "$HOST4:7006"
    holds "$(api '{"execute": "list_hostfwd"}')" \
        '{"guest_addr":"10.0.2.100","guest_port":7001,"host_addr":"0.0.0.0","host_port":7005,"id":'"$id"',"proto":"tcp"}'
    holds "$(api '{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 7005, "guest_port": 80}}')" \
        '{"error":{"desc":"bad request: add_hostfwd: '
    holds "$(api '{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "'"$HOST4"'", "host_port": 5601, "guest_port": 80}}')" \
        'Address already in use'
    same "$(api '{"execute": "remove_hostfwd", "arguments": {"id": '"$id"'}}')" '{"return":{}}'
    until_true 5 refused_at 127.0.0.1:7005
    holds "$(api '{"execute": "remove_hostfwd", "arguments": {"id": '"$id"'}}')" "there is no 'id' $id"
    # Not one of them is lost of many at a time.
    local port asking=()
    for port in $(seq 7101 7120); do
        api '{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":'"$port"',"guest_port":7001}}' &
        asking+=($!)
    done
    wait "${asking[@]}"
    same "$(api '{"execute": "list_hostfwd"}' | grep -o '"id"' | wc -l)" 21
    from_host get 127.0.0.1:7120 2048 83
    for request in '' '{' 'x' '{}' '[1]' '{"execute":"quit"}' '{"execute":"add_hostfwd"}' \
        '{"execute":"add_hostfwd","arguments":{"proto":"sctp"}}' '{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":70000}}'; do
        lacks "$(api "$request")" return
    done
    # The kernel takes an answer for lost where something was written that nobody reads.
    for id in 4097 5000 100000; do
        holds "$(api "{\"execute\": \"$(head -c $id /dev/zero | tr '\0' x)\"}")" \
            '{"error":{"desc":"bad request: it is longer than 4096 bytes"}}'
    done
    same "$(api "$(printf '%4000s{"execute": "list_hostfwd"}' '')")" "$(api '{"execute": "list_hostfwd"}')"
    ! has_ended "$SLIRP" || return 1
    kill "$SLIRP"
    wait "$SLIRP"
}

case_slirp4netns_closed() {
    local found
    name_server outside "$SERVER4"
    holder
    slirp -c --disable-host-loopback --disable-dns --cidr=10.64.0.0/16 -6 --macaddress=02:00:00:12:34:56 --netns-type=path \
        --userns-path="/proc/$HOLDER/ns/user" "/proc/$HOLDER/ns/net" eth7
    found=$(inside ip -o addr show dev eth7; inside ip -o link show dev eth7; inside ip route; inside ip -6 route)
    for word in 'inet 10.64.0.100/16' 'mtu 1500' 'default via 10.64.0.2 dev eth7' 'inet6 fd00::100/64' 'default via fd00::2' \
        02:00:00:12:34:56; do
        holds "$found" "$word"
    done
    exchange tcp from_inside "$SERVER4:5000"
    exchange tcp from_inside "[$SERVER6]:5000"
    same "$(from_inside connect 10.64.0.2:5600)" refused
    same "$(from_inside connect "[fd00::2]:5600")" refused
    ! inside timeout 3 busybox nslookup "$NAME" 10.64.0.3 || return 1
    # One that says something holds on to it no longer, either.
    echo >"$WORLD/exit"
    wait "$SLIRP"
}

case_slirp4netns_refused() {
    local found
    holder
    : >"$WORLD/file"
    found=$( (become_user /run/bin/slirp4netns -e 4 "$HOLDER" tap0 4<"$WORLD/file") 2>&1) && return 1
    holds "$found" '--exit-fd 4: Operation not permitted: give one end of a pipe or a socket'
    found=$( (become_user /run/bin/slirp4netns -r 77 "$HOLDER" tap0) 2>&1) && return 1
    holds "$found" '--ready-fd 77: Bad file descriptor'
    found=$( (become_user /run/bin/slirp4netns -a "$WORLD/none/api" "$HOLDER" tap0) 2>&1) && return 1
    holds "$found" '--api-socket'
    found=$( (become_user /run/bin/slirp4netns --disable-dns=no "$HOLDER" tap0) 2>&1) && return 1
    holds "$found" "slirp4netns: option '--disable-dns' doesn't allow an argument"
    # What is wrong, and the cure, with the options that there are.
    refuses_in_its_words '/proc/4194303/ns/user: No such file or directory: there is no process 4194303: give the id of one that runs' \
        4194303 tap0
    refuses_in_its_words 'none: No such file or directory: give the path of one' --netns-type=path "$WORLD/none" tap0
    refuses_in_its_words 'is no network namespace: give a path, as /proc/PID/ns/net' --netns-type=path "$WORLD/file" tap0
    refuses_in_its_words 'this is no user namespace' --userns-path "$WORLD/file" "$HOLDER" tap0
    refuses_in_its_words 'there is such a device, choose another TAPNAME' "$HOLDER" lo
    refuses_in_its_words '--outbound-addr and --outbound-addr6 take an interface of the host; none is none' \
        --outbound-addr none "$HOLDER" tap0
    # Nobody writes into it.
    mkfifo "$WORLD/fifo"
    chmod 666 "$WORLD/fifo"
    refuses_in_its_words 'is no network namespace' --netns-type=path "$WORLD/fifo" tap0
    refuses_in_its_words 'this is no user namespace' --userns-path "$WORLD/fifo" "$HOLDER" tap0
}
