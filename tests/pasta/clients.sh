# shellcheck shell=bash
# What systemd-networkd and NetworkManager make of the answers: with DHCP, DHCPv6 and router advertisements together, as
# distributions have them. They come from the cache, and run inside without a system around them.
# shellcheck disable=SC2016

CASES+=(networkd networkmanager networkd_follows dhcpcd_follows)

LIBRARIES=/run/guests/clients/lib

# expect WHAT WORD...: each is in it.
expect() {
    local what=$1 word
    shift
    for word in "$@"; do
        holds "$what" "$word"
    done
}

# It changes to a user of its own, of whom a user namespace knows nothing: here that one is root. It names itself to
# servers by the machine's id, which minimal roots have not got. A sysfs that cannot be written tells it that there is no
# udev to wait for.
case_networkd() {
    local found
    mkdir -p /run/systemd
    found=$(pasta --dhcp-dns --dhcp-search -- bash -euc "LIBRARIES=$LIBRARIES"'
        mount -t sysfs -o ro sysfs /sys
        mount -t tmpfs tmpfs /run/systemd
        mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
        mkdir etc
        [ ! -d /etc/iproute2 ] || cp -r /etc/iproute2 etc
        printf "root:x:0:0::/:/bin/sh\nsystemd-network:x:0:0::/:/bin/sh\n" >etc/passwd
        printf "root:x:0:\nsystemd-network:x:0:\n" >etc/group
        echo 5f2c8a1e0b7d4c639a10e4d7b6c5f382 >etc/machine-id
        mount --bind etc /etc
        printf "%s\n" "[Match]" Name=uplink "[Network]" DHCP=yes "[DHCPv4]" UseDomains=yes >/run/systemd/network/uplink.network
        LD_LIBRARY_PATH=$LIBRARIES SYSTEMD_LOG_TARGET=console /run/guests/clients/bin/systemd-networkd &
        timeout 30 sh -c "until ip -o -4 addr show dev uplink | grep inet && ip -o -6 addr show dev uplink |
            grep /128 | grep -v tentative; do sleep 0.1; done"
        ip -o addr; ip route; ip -6 route; cat /run/systemd/netif/links/*
        cat /run/systemd/netif/leases/* 2>/dev/null || echo "leases are kept in another form"
        kill $!; wait $!' 2>&1) || { echo "$found"; return 1; }
    echo "$found"
    # Where a route has a next hop that is an object of its own, that one's number is told, too.
    found=$(sed -E 's/ nhid [0-9]+//' <<<"$found")
    expect "$found" "inet $HOST4/24" "inet6 $HOST6/128" 'inet6 2001:db8:2:' "default via $GATEWAY4 dev uplink proto dhcp" \
        'default via fe80:' 'proto ra' "DNS=$SERVER4" DOMAINS=example.test 'dynamic uplink' 'valid_lft 86'
    case $found in *'another form'*) return ;; esac
    expect "$found" MTU=65520 "SERVER_ADDRESS=$GATEWAY4"
}

# It wants an Ethernet device: one end of a cable, whose other end is bridged with ours, as nested guests are. In the mode
# for early boot it needs no bus, and ends when everything is there.
case_networkmanager() {
    local found
    mkdir -p /run/NetworkManager
    found=$(pasta --dhcp-dns --dhcp-search -- bash -euc "LIBRARIES=$LIBRARIES"'
        mount -t sysfs -o ro sysfs /sys
        ip link add bridge0 type bridge
        ip link set uplink master bridge0
        ip link add nm0 mtu 65520 type veth peer name nm1 mtu 65520
        ip link set nm1 master bridge0
        for device in uplink bridge0 nm1; do ip link set $device up; done
        mount -t tmpfs tmpfs /run/NetworkManager
        mount -t tmpfs tmpfs /var/lib
        mkdir -p /var/lib/NetworkManager nm/conf.d nm/lib nm/keys
        printf "%s\n" "[main]" plugins=keyfile dhcp=internal "no-auto-default=*" rc-manager=unmanaged "[keyfile]" \
            path=$PWD/nm/keys >nm/nm.conf
        printf "%s\n" "[connection]" id=nm0 uuid=6c1d3a5e-0b0e-4a0e-9d3b-2f3f4f5f6f70 type=ethernet interface-name=nm0 \
            "[ipv4]" method=auto may-fail=false "[ipv6]" method=auto may-fail=false addr-gen-mode=eui64 \
            >nm/keys/nm0.nmconnection
        chmod 600 nm/keys/nm0.nmconnection
        LD_LIBRARY_PATH=$LIBRARIES timeout 60 /run/guests/clients/bin/NetworkManager --no-daemon \
            --configure-and-quit=initrd --config=$PWD/nm/nm.conf --config-dir=$PWD/nm/conf.d \
            --system-config-dir=$PWD/nm/lib --intern-config=$PWD/nm/intern.conf --state-file=$PWD/nm/state \
            --pid-file=$PWD/nm/pid
        ip -o addr show dev nm0; ip route; ip -6 route; cat /run/NetworkManager/devices/* /run/NetworkManager/resolv.conf
        /run/bin/nettool get '"$SERVER4:5000"' 100000 91
        /run/bin/nettool get '"[$SERVER6]:5000"' 100000 92' 2>&1) || { echo "$found"; return 1; }
    echo "$found"
    expect "$found" "inet $HOST4/24" "inet6 $HOST6/128" 'inet6 2001:db8:2:' "default via $GATEWAY4 dev nm0 proto dhcp" \
        'default via fe80:' "nameserver $SERVER4" 'search example.test' interface_mtu=65520 "routers=$GATEWAY4"
}

# resolvers ADDRESS...: what the laptop's resolv.conf names from now on.
resolvers() {
    printf 'nameserver %s\n' "$@" >"$WORLD/etc/resolv.new"
    mv "$WORLD/etc/resolv.new" "$WORLD/etc/resolv.conf"
}
# tells FILE WORD...: each is in it.
tells() {
    local file=$1 word
    shift
    for word in "$@"; do grep -F -e "$word" "$file" >/dev/null || return 1; done
}
# a_client SCRIPT: it runs inside, with mounts of its own, before a host that is at home. It is to renew its lease after ten
# seconds, which is a minute elsewhere.
a_client() {
    laptop
    own_etc
    [ -s "$WORLD/etc/machine-id" ] || echo 5f2c8a1e0b7d4c639a10e4d7b6c5f382 >"$WORLD/etc/machine-id"
    at_home
    resolvers "$RESOLVER_A" "$SERVER6"
    holder
    started --ns-ifname tap0 --dhcp-dns --dhcp-option 58=10 "$HOLDER"
    inside ip link set tap0 up
    inside unshare --mount bash -euc "$1" >"$WORLD/client.log" 2>&1 &
    remember $!
}
# at_office: another network for the laptop, with other name servers.
at_office() {
    on_laptop addr flush dev uplink
    on_laptop addr add "$OFFICE_A/27" dev uplink
    on_laptop addr add "$OFFICE6::98/64" dev uplink nodad
    on_laptop route add default via "$OFFICE_GW" dev uplink
    on_laptop -6 route replace default via "$OFFICE6::1" dev uplink
    resolvers "$RESOLVER_B" "$OFFICE6::53"
}
# awaits COMMAND...: it is true some time; what the client has said if not.
awaits() {
    until_true 30 "$@" || { echo "not true: $*"; cat "$WORLD/client.log"; inside ip addr; tail -n 40 "$WORLD/told"; return 1; }
}

# What advertisements tell is taken at once; a lease when its time is half over.
case_networkd_follows() {
    mkdir -p /run/systemd
    rm -rf "$WORLD/systemd"
    a_client "LIBRARIES=$LIBRARIES"'
        mount -t sysfs -o ro sysfs /sys
        mkdir systemd
        mount --bind systemd /run/systemd
        mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
        printf "root:x:0:0::/:/bin/sh\nsystemd-network:x:0:0::/:/bin/sh\n" >passwd
        printf "root:x:0:\nsystemd-network:x:0:\n" >group
        mount --bind passwd /etc/passwd
        mount --bind group /etc/group
        printf "%s\n" "[Match]" Name=tap0 "[Network]" DHCP=ipv4 IPv6AcceptRA=yes >/run/systemd/network/tap0.network
        exec env LD_LIBRARY_PATH=$LIBRARIES SYSTEMD_LOG_TARGET=console /run/guests/clients/bin/systemd-networkd'
    awaits has "$HOME_A/27"
    awaits has "$HOME6:"
    awaits told_by_networkd "$RESOLVER_A" "$SERVER6"
    at_office
    awaits has "$OFFICE6:"
    awaits is_past "$HOME6:"
    awaits told_by_networkd "$OFFICE6::53"
    awaits has "$OFFICE_A/27"
    awaits told_by_networkd "$RESOLVER_B"
    awaits answers
}
# is_past PREFIX: an address of it is none to begin with any more, or is gone.
is_past() { ! inside ip -o -6 addr | grep "inet6 $1" | grep -v deprecated >/dev/null; }
told_by_networkd() {
    cat "$WORLD"/systemd/netif/links/* >"$WORLD/networkd.links"
    tells "$WORLD/networkd.links" "$@"
}

# A lease is taken when it is asked for again.
case_dhcpcd_follows() {
    mkdir -p /run/dhcpcd
    rm -f "$WORLD/told" "$WORLD/dhcpcd.pid"
    a_client 'grep -v "^_\?dhcpcd:" /etc/passwd >passwd
        mount --bind passwd /etc/passwd
        mount -t tmpfs tmpfs /run/dhcpcd
        mount -t tmpfs tmpfs /var/lib
        mkdir /var/lib/dhcpcd
        printf "%s\n" "#!/bin/sh" "env >>$PWD/told" >hook.sh
        chmod +x hook.sh
        echo "option domain_name_servers, interface_mtu" >dhcpcd.conf
        dhcpcd -B -d -f "$PWD/dhcpcd.conf" -c "$PWD/hook.sh" tap0 &
        echo $! >dhcpcd.pid
        wait'
    awaits tells "$WORLD/told" "new_ip_address=$HOME_A" "new_domain_name_servers=$RESOLVER_A" "nd1_rdnss1_servers=$SERVER6"
    remember "$(cat "$WORLD/dhcpcd.pid")"
    at_office
    awaits tells "$WORLD/told" "rdnss1_servers=$OFFICE6::53"
    awaits has "$OFFICE6:"
    awaits tells "$WORLD/told" "new_ip_address=$OFFICE_A" "new_domain_name_servers=$RESOLVER_B"
    awaits answers
}
