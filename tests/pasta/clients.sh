# shellcheck shell=bash
# What systemd-networkd and NetworkManager make of the answers: with DHCP, DHCPv6 and router advertisements together, as
# distributions have them. They come from the cache, and run inside without a system around them.
# shellcheck disable=SC2016

CASES+=(networkd networkmanager)

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
    expect "$found" "inet $HOST4/24" "inet6 $HOST6/128" 'inet6 2001:db8:2:' "default via $GATEWAY4 dev uplink proto dhcp" \
        'default via fe80:' 'proto ra' "DNS=$SERVER4" DOMAINS=example.test 'dynamic uplink' 'valid_lft 86'
    case $found in *'another form'*) return ;; esac
    expect "$found" MTU=65520 "SERVER_ADDRESS=$GATEWAY4" LIFETIME=86400
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
