# shellcheck shell=bash
# A world of its own for guests: mount, process and network namespaces in which the
# program under test runs as an ordinary user, with a guest in front of it and a
# network behind it. Everything ends with the script that made it.
#
#   guest ====socket==== [host: passt] ---veth--- [outside: servers]
#                     192.0.2.2             192.0.2.1, 198.51.100.7
#                     2001:db8:2::2         2001:db8:2::1, 2001:db8:1::7
#
# With HOSTS=(host host2) there are two hosts that look the same, addresses included, behind a switch that reaches one of
# them: `host`, until migrate.sh moves the guest.
#
# Source it after lib.sh.

# shellcheck disable=SC2034 # used by the scripts that source this file
HOST4=192.0.2.2 GATEWAY4=192.0.2.1 SERVER4=198.51.100.7 NOWHERE4=203.0.113.9
HOST6=2001:db8:2::2 GATEWAY6=2001:db8:2::1 SERVER6=2001:db8:1::7 NOWHERE6=2001:db8:dead::9
NAME=web.example.test
WORLD=/run/world
ORDINARY=65534
# The hosts that there are; the one where programs are started, and how the files of the program under test begin.
HOSTS=(host)
HOST=host
SIDE=passt
# How long a guest may take to start, in seconds.
BOOT_S=90
# What else the kernel of a User-Mode Linux guest is told.
BOOT_WORDS=()
# The program under test on each host.
declare -A PROGRAMS=([host]=/run/bin/passt [host2]=/run/bin/passt)
# What the program is told to speak. Without it, guests may choose.
PROTOCOL=(--vhost-user)

# enter_world ARGUMENT...: starts the calling script again in namespaces of its own.
enter_world() {
    [ "${PASST_WORLD_UID:-}" ] && return
    local options=(--mount --pid --net --fork --kill-child --mount-proc)
    [ "$(id -u)" -eq 0 ] || options+=(--user --map-root-user)
    PASST_WORLD_UID=$(id -u)
    export PASST_WORLD_UID
    exec unshare "${options[@]}" -- "$0" "$@"
}

# make_world LOGS: file systems and networks. LOGS outlives the world.
make_world() {
    LOGS=$1
    local resolv
    forget_proxies
    resolv=$(readlink -f /etc/resolv.conf)
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/netns /run/guests /run/bin "$WORLD" "$(dirname "$resolv")"
    mount --bind "$CACHE" /run/guests
    install "$PASST" /run/bin/passt
    install "$NETTOOL" /run/bin/nettool
    [ ! -e "${PASST%/*}/passt-repair" ] || install "${PASST%/*}/passt-repair" /run/bin/
    [ ! -e "${PASST%/*}/pesto" ] || install "${PASST%/*}/pesto" /run/bin/
    [ ! -e "$PASST.avx2" ] || install "$PASST.avx2" /run/bin/passt.avx2
    printf 'nameserver %s\nnameserver %s\nsearch example.test\n' "$SERVER4" "$SERVER6" >"$WORLD/resolv.conf"
    [ -e "$resolv" ] || : >"$resolv"
    mount --bind "$WORLD/resolv.conf" "$resolv"
    [ "$PASST_WORLD_UID" -ne 0 ] || chown "$ORDINARY:$ORDINARY" "$WORLD"
    mkfifo "$WORLD/console.in" "$WORLD/console.out"
    exec {CONSOLE_IN}<>"$WORLD/console.in" {CONSOLE_OUT}<>"$WORLD/console.out"
    make_user
    make_networks
}

# In a world no proxy can be reached.
forget_proxies() {
    local variable
    for variable in $(compgen -e); do
        case ${variable,,} in *_proxy) unset "$variable" ;; esac
    done
}

make_networks() {
    local host
    ip netns add outside
    for host in "${HOSTS[@]}"; do
        ip netns add "$host"
    done
    if [ ${#HOSTS[@]} -gt 1 ]; then
        make_switch
    else
        ip link add uplink mtu 65520 netns host type veth peer name hosts mtu 65520 netns outside
    fi
    ip -n outside link set lo up
    ip -n outside addr add "$GATEWAY4/24" dev hosts
    ip -n outside addr add "$GATEWAY6/64" dev hosts nodad
    ip -n outside addr add "$SERVER4/32" dev lo
    ip -n outside addr add "$SERVER6/128" dev lo nodad
    ip -n outside link set hosts up
    for host in "${HOSTS[@]}"; do
        make_host "$host"
    done
    until_true 10 settled outside
    # A router that knows the way to nowhere says so, every time.
    in_net outside sh -c 'cd /proc/sys/net && echo 1 >ipv4/ip_forward && echo 1 >ipv6/conf/all/forwarding &&
        echo 0 >ipv4/icmp_ratelimit && echo 0 >ipv6/icmp/ratelimit'
    ip -n outside route add unreachable 203.0.113.0/24
    ip -n outside -6 route add unreachable 2001:db8:dead::/48
}

# make_switch: both hosts have one Ethernet address, which they must not find duplicated.
make_switch() {
    local host
    ip netns add switch
    ip -n switch link add bridge mtu 65520 type bridge
    ip -n switch link set bridge up
    ip link add outside mtu 65520 netns switch type veth peer name hosts mtu 65520 netns outside
    ip -n switch link set outside master bridge up
    for host in "${HOSTS[@]}"; do
        ip link add "$host" mtu 65520 netns switch type veth peer name uplink address 02:00:00:00:00:02 mtu 65520 netns "$host"
        # A host to which the guest has not come yet asks for no routers: the switch would take that for a word of the guest's.
        in_net "$host" sh -c 'echo 0 | tee /proc/sys/net/ipv6/conf/uplink/accept_dad /proc/sys/net/ipv6/conf/uplink/router_solicitations >/dev/null'
        ip -n switch link set "$host" master bridge up
    done
}

# make_host HOST: what is in its namespace.
make_host() {
    ip -n "$1" link set lo up
    ip -n "$1" addr add "$HOST4/24" dev uplink
    ip -n "$1" addr add "$HOST6/64" dev uplink nodad
    ip -n "$1" link set uplink up
    ip -n "$1" route add default via "$GATEWAY4"
    ip -n "$1" -6 route add default via "$GATEWAY6"
    until_true 10 settled "$1"
    # What distributions allow: ping for everyone. A user namespace has one group.
    in_net "$1" sh -c 'exec 2>/dev/null; cd /proc/sys/net/ipv4; echo 0 2147483647 >ping_group_range || echo 0 0 >ping_group_range'
}

# make_pasta: the program under its other name, and the device that makes tap devices, as
# distributions have it: for everyone.
make_pasta() {
    ln -s passt /run/bin/pasta
    ln -s passt /run/bin/slirp4netns
    [ "$PASST_WORLD_UID" -eq 0 ] || return 0
    mkdir -p /dev/net
    mount -t tmpfs -o mode=755 tmpfs /dev/net
    mknod -m 666 /dev/net/tun c 10 200
}

# settled NAMESPACE: carriers are seen, and duplicate address detection has ended.
settled() {
    [ "$(ip -n "$1" -6 addr show tentative | wc -l)" -eq 0 ] &&
        ip -n "$1" link show up type veth | grep 'state UP' >/dev/null
}

# in_net NAMESPACE COMMAND...
in_net() {
    local namespace=$1
    shift
    nsenter --net="/run/netns/$namespace" "$@"
}

# become_user COMMAND...: replaces this shell by a command of an ordinary user in
# the network of $HOST.
become_user() {
    become_one
    exec "${AS_USER[@]}" "$@"
}

# become_one: AS_USER, before a command, makes it one of an ordinary user's in the network of $HOST; the rest is done.
become_one() {
    export HOME=$WORLD TMPDIR=$WORLD
    cd "$WORLD" || return
    AS_USER=(nsenter --net="/run/netns/$HOST")
    if [ "$PASST_WORLD_UID" -eq 0 ]; then
        AS_USER+=(setpriv --reuid="$ORDINARY" --regid="$ORDINARY" --clear-groups)
    else
        AS_USER+=(nsenter --user=/run/ordinary --preserve-credentials --)
    fi
}

# make_user: the user namespace in which who runs all this is an ordinary user. It is one for all, as processes of
# one user are for each other.
make_user() {
    [ "$PASST_WORLD_UID" -ne 0 ] || return 0
    unshare --user --map-user="$ORDINARY" --map-group="$ORDINARY" sleep 60 &
    until_true 10 grep -qx sleep "/proc/$!/comm"
    : >/run/ordinary
    mount --bind "/proc/$!/ns/user" /run/ordinary
    kill $!
    wait $! || true
}

# until_true SECONDS COMMAND...: repeats the command until it succeeds.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.05
    done
}

# start_servers: nettool on port 5000, DNS, and HTTP with one file.
start_servers() {
    mkdir -p "$WORLD/www"
    head -c "$1" /dev/urandom >"$WORLD/www/file"
    in_net outside /run/bin/nettool serve "$SERVER4:5000" "[$SERVER6]:5000" >"$LOGS/serve.log" 2>&1 &
    in_net outside /run/bin/nettool dns "$SERVER4:53" "$NAME" "$SERVER4" "$SERVER6" >"$LOGS/dns4.log" 2>&1 &
    in_net outside /run/bin/nettool dns "[$SERVER6]:53" "$NAME" "$SERVER4" "$SERVER6" >"$LOGS/dns6.log" 2>&1 &
    in_net outside /run/guests/busybox/busybox httpd -f -h "$WORLD/www" -p '[::]:80' >"$LOGS/http.log" 2>&1 &
    local log
    for log in serve dns4 dns6; do
        until_true 10 grep -q ready "$LOGS/$log.log" || return 1
    done
}

# start_passt ARGUMENT...: returns when the program says by its PID file that it serves.
start_passt() {
    rm -f "$WORLD/$SIDE".{sock,pid,status}
    run_passt "$@" >>"$LOGS/passt.log" 2>&1 &
    if ! until_true 10 passt_serves_or_ended || ! passt_runs; then
        tail -n 5 "$LOGS/passt.log" >&2
        warn "passt has ended or wrote no PID file"
        return 1
    fi
}

run_passt() {
    local status=0
    (become_user "${PROGRAMS[$HOST]}" "${PROTOCOL[@]}" -f -s "$WORLD/$SIDE.sock" -P "$WORLD/$SIDE.pid" "$@") || status=$?
    echo "$status" >"$WORLD/$SIDE.status"
}

passt_runs() { [ ! -e "$WORLD/$SIDE.status" ]; }
passt_serves_or_ended() { [ -s "$WORLD/$SIDE.pid" ] || ! passt_runs; }

# start_guest KIND: returns when the guest's agent answers.
start_guest() {
    echo "$1" >"$WORLD/guest.kind"
    ("boot_${1//-/_}") <"$WORLD/console.in" >"$WORLD/console.out" 2>>"$LOGS/guest.log" &
    echo $! >"$WORLD/guest.job"
    disown
    await_marker "$BOOT_S" ready >/dev/null
}

boot_uml() {
    become_user /run/guests/uml/linux mem=512M initrd=/run/guests/uml/initramfs uml_dir="$WORLD/" \
        virtio_uml.device="$WORLD/$SIDE.sock:1" con=null con0=fd:0,fd:1 quiet panic=-1 "${BOOT_WORDS[@]}"
}

boot_qemu() {
    emulate q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=512M,share=on \
        -chardev socket,id=c,path="$WORLD/$SIDE.sock" -netdev vhost-user,id=n,chardev=c \
        -device "virtio-net-pci,netdev=n,romfile=$(qemu_vectors)"
}

# The interface from before virtio 1.0, which firmware speaks, with the short header in front of frames.
boot_qemu_legacy() {
    emulate q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=512M,share=on \
        -chardev socket,id=c,path="$WORLD/passt.sock" -netdev vhost-user,id=n,chardev=c \
        -device "virtio-net-pci,netdev=n,romfile=,disable-modern=on,mrg_rxbuf=off$(qemu_vectors)"
}

# Four processors, each with a queue pair of its own.
boot_qemu_mq() {
    emulate q35,memory-backend=mem -smp 4 -object memory-backend-memfd,id=mem,size=512M,share=on \
        -chardev socket,id=c,path="$WORLD/$SIDE.sock" -netdev vhost-user,id=n,chardev=c,queues=4 \
        -device "virtio-net-pci,netdev=n,romfile=,mq=on$(qemu_vectors ,vectors=10)"
}

boot_qemu_stream() {
    emulate q35 -netdev stream,id=n,server=off,addr.type=unix,addr.path="$WORLD/$SIDE.sock" \
        -device virtio-net-pci,netdev=n,romfile=
}

# One that can be moved, whose connections stay behind: on the stream socket, and on the second host, if that is asked for,
# with a program that the emulator starts by itself.
boot_qemu_reset() {
    local netdev=stream,id=n,server=off,addr.type=unix,addr.path=$WORLD/$SIDE.sock word
    [ -z "${NETDEV_PASST:-}" ] || local MOVING=/run/guests/libvirt/bin/qemu
    if emulator_starts_passt; then
        netdev=passt,id=n,path=/run/bin/passt,quiet=off
        for word in "${FORWARDS[@]}"; do
            netdev+=,param=${word//,/,,}
        done
    fi
    emulate_with_monitor q35 -netdev "$netdev" -device virtio-net-pci,netdev=n,romfile=
}
emulator_starts_passt() { [ -n "${NETDEV_PASST:-}" ] && [ "$KIND.$HOST" = qemu-reset.host2 ]; }

# One that can be moved, with two queue pairs.
boot_qemu_migrate() { emulate_one_that_moves ,queues=2 ,mq=on; }

# One that can be moved between this program and the packaged passt: with what both of them can do, and nothing else.
boot_qemu_upstream() {
    local feature off=''
    for feature in csum guest_tso4 guest_tso6 host_tso4 host_tso6 host_ecn guest_announce indirect_desc event_idx; do
        off+=,$feature=off
    done
    emulate_one_that_moves '' "$off"
}

# emulate_one_that_moves BACKEND DEVICE: what is behind the network's back-end, and behind its device.
emulate_one_that_moves() {
    emulate_with_monitor q35,memory-backend=mem -smp 2 -object memory-backend-memfd,id=mem,size=512M,share=on \
        -chardev socket,id=c,path="$WORLD/$SIDE.sock" -netdev "vhost-user,id=n,chardev=c$1" \
        -device "virtio-net-pci,netdev=n,romfile=$2"
}

# emulate_with_monitor MACHINE OPTION...: takes a state where INCOMING says where that comes from; its monitor is a pair of
# pipes.
emulate_with_monitor() {
    local incoming=()
    [ -z "${INCOMING:-}" ] || incoming=(-incoming "$INCOMING")
    EMULATOR=${MOVING:-/run/guests/migrate/bin/qemu} emulate "$@" \
        -chardev pipe,id=m,path="$WORLD/$SIDE.monitor" -mon chardev=m,mode=control "${incoming[@]}"
}

# UEFI and its drivers start, and get the rest from the network, with the interface from before virtio 1.0. Linux then
# finds the newer one on the same device. This is how the front-end connects where nothing is said of reconnecting.
boot_qemu_ovmf() {
    install -m 666 /run/guests/ovmf/OVMF_VARS_4M.fd "$WORLD/vars.fd"
    emulate_machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=512M,share=on \
        -drive if=pflash,format=raw,readonly=on,file=/run/guests/ovmf/OVMF_CODE_4M.fd \
        -drive if=pflash,format=raw,file="$WORLD/vars.fd" \
        -chardev socket,id=c,path="$WORLD/$SIDE.sock" -netdev vhost-user,id=n,chardev=c \
        -device "virtio-net-pci,netdev=n,romfile=,bootindex=1$(qemu_vectors)"
}

# With a kernel that mounts file systems of others.
boot_qemu_nfs() { IMAGE=nfs boot_qemu; }

# A BIOS, and iPXE from the device's ROM.
boot_qemu_ipxe() {
    emulate_machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=512M,share=on \
        -chardev socket,id=c,path="$WORLD/$SIDE.sock" -netdev vhost-user,id=n,chardev=c \
        -device "virtio-net-pci,netdev=n,bootindex=1$(qemu_vectors)"
}

# emulate MACHINE OPTION...: a machine that starts the kernel itself.
emulate() {
    local image=/run/guests/${IMAGE:-qemu}
    emulate_machine "$@" -kernel "$image/linux" -initrd "$image/initramfs" -append "$GUEST_COMMAND_LINE"
}

# emulate_machine MACHINE OPTION...: QEMU without acceleration, its console on ours.
emulate_machine() {
    become_user "${EMULATOR:-qemu-system-x86_64}" -M "$@" -accel tcg -cpu max -m 512 \
        -nodefaults -nographic -serial stdio -no-reboot
}

# qemu_vectors [OPTION]: the option, unless QEMU is 7.2: that crashes without acceleration when a
# guest's driver sets up the MSI-X vectors of a vhost-user device. Line interrupts work.
qemu_vectors() {
    case $(qemu-system-x86_64 --version) in *'version 7.'*) echo ,vectors=0 ;; *) echo "${1:-}" ;; esac
}

# stop_guest: as a front-end dies that is killed.
stop_guest() {
    kill -KILL "$(cat "$WORLD/guest.job")" 2>/dev/null || true
    until_true 5 guest_ended
}
guest_ended() { ! kill -0 "$(cat "$WORLD/guest.job")" 2>/dev/null; }

# guest SECONDS COMMAND: runs a line in the guest, prints its output.
guest() {
    local id=$EPOCHREALTIME
    printf '%s %s\n' "$id" "$2" >&"$CONSOLE_IN"
    await_marker "$1" "$id"
}

# await_marker SECONDS ID: prints the console up to the marker; the status in it.
await_marker() {
    local end=$((SECONDS + $1)) id=$2 line='' part
    while [ $SECONDS -lt $end ]; do
        if ! IFS= read -r -t 1 -u "$CONSOLE_OUT" part; then
            # A slow guest's line may come in pieces.
            line+=$part
            ! guest_ended || { warn "the guest has ended"; return 1; }
            passt_runs || { warn "passt has ended"; return 1; }
            continue
        fi
        line+=$part
        line=${line%$'\r'}
        printf '%s\n' "$line" >>"$LOGS/console.log"
        case $line in
        "#$id "*) return "${line##* }" ;;
        *) printf '%s\n' "$line" ;;
        esac
        line=
    done
    warn "the guest did not answer within $1 s"
    return 1
}
