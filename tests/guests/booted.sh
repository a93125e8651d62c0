# shellcheck shell=bash
# Hosts whose kernel was started without IPv6. The host is a guest here, User-Mode Linux with the files of this machine,
# and its network is what the program under test gives it; in it run passt and pasta.
#
# Cases are as in cases.sh, where their list is.

# booted_with WORD: starts a guest whose kernel is told WORD, and prints what its programs say. Everything works by IPv4
# there, and what needs IPv6 is refused.
booted_with() {
    stop_guest
    # shellcheck disable=SC2034 # world.sh reads it
    BOOT_WORDS=("$1")
    start_guest "$KIND"
    guest 20 dhcp4
    [ -e /run/bin/pasta ] || ln -s passt /run/bin/pasta
    cat >"$WORLD/inner.sh" <<END
        set -eu
        exec 2>&1
        nettool=/run/bin/nettool
        \$nettool serve 0.0.0.0:7001 >/tmp/inner.log &
        timeout 10 sh -c 'until grep -qs ready /tmp/inner.log; do sleep 0.05; done'
        \$nettool get $SERVER4:5000 1000000 93; \$nettool udp $SERVER4:5000 1000; \$nettool get $GATEWAY4:5600 2048 94
        timeout 10 sh -c "until \$nettool get 127.0.0.1:5600 2048 95; do sleep 0.1; done"
        echo >/tmp/served
        timeout 30 sh -c 'until [ -e /tmp/over ]; do sleep 0.05; done'
END
    cat >"$WORLD/host.sh" <<END
        set -eu
        nettool=/run/bin/nettool
        ordinary() { setpriv --reuid=$ORDINARY --regid=$ORDINARY --clear-groups "\$@"; }
        # starts [ARGUMENT...]: passt, until it serves.
        starts() {
            ordinary /run/bin/passt -s /tmp/sock -P /tmp/pid "\$@"
            kill "\$(cat /tmp/pid)"
            timeout 10 sh -c 'while kill -0 \$(cat /tmp/pid); do sleep 0.05; done' 2>/dev/null
        }
        chmod 666 /dev/net/tun
        \$nettool serve 127.0.0.1:5600 >/tmp/host.log 2>&1 &
        timeout 10 sh -c 'until grep -qs ready /tmp/host.log; do sleep 0.05; done'
        ordinary /run/bin/pasta --config-net -t 7001 -u 7001 -- bash $WORLD/inner.sh 2>/tmp/said &
        timeout 30 sh -c 'until [ -e /tmp/served ]; do sleep 0.05; done' || { cat /tmp/said; exit 1; }
        \$nettool get 127.0.0.1:7001 2048 96; \$nettool get $HOST4:7001 1000000 97; \$nettool udp $HOST4:7001 1000
        echo >/tmp/over
        wait %2
        sed 's/^/pasta: /' /tmp/said
        ordinary /run/bin/pasta --config-net -6 -- true 2>&1 | sed 's/^/IPv6 only: /'
        starts -t 7001 2>&1 | sed 's/^/passt: /'
        ip route add default via $GATEWAY4 metric 9
        starts 2>&1 | sed 's/^/two routes: /'
        ordinary /run/bin/passt --check | sed 's/^/check: /'
END
    guest 90 "machine /bin/bash $WORLD/host.sh"
}
# said WORDS WHO: how many lines of that program have them.
said() { grep -c "^$2: .*$1" <<<"$FOUND" || true; }

case_booted_with_ipv6_disabled() {
    FOUND=$(booted_with ipv6.disable=1) || { echo "$FOUND"; return 1; }
    echo "$FOUND"
    # This kernel has no CONFIG_INET_UDP_DIAG.
    holds "$FOUND" 'pasta: Cannot ask the kernel what listens: No such file or directory: /proc/net is read'
    same "$(said '' pasta)" 1
    holds "$FOUND" 'IPv6 only: IPv6 not available but --ipv6-only given'
    holds "$FOUND" 'passt:     TCP [0.0.0.0]:7001'
    same "$(said NDP passt)" 0
    same "$(said 'Multiple default' passt)" 0
    same "$(said 'Multiple default IPv4 routes' 'two routes')" 1
    holds "$FOUND" 'check: limited  IPv6: the kernel has none'
    same "$(said 'peek offset' check)" 0
}

case_booted_with_ipv6_addresses_disabled() {
    FOUND=$(booted_with ipv6.disable_ipv6=1) || { echo "$FOUND"; return 1; }
    echo "$FOUND"
    same "$(said 'IPv6 not supported, disabling' pasta)" 1
    holds "$FOUND" 'pasta: Cannot ask the kernel what listens: No such file or directory: /proc/net is read'
    same "$(said '' pasta)" 2
    holds "$FOUND" 'IPv6 only: IPv6 not available in the namespace, but --ipv6-only given'
    holds "$FOUND" 'passt:     TCP [*]:7001'
    same "$(said 'Multiple default' passt)" 0
    same "$(said 'Multiple default IPv4 routes' 'two routes')" 1
    holds "$FOUND" 'check: limited  IPv6: no interface to be like'
    same "$(said 'peek offset' check)" 0
}
