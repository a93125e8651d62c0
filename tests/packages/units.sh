#!/bin/bash
# What tests/packages/units runs in a root of a suite, as root and process 1 of it: units.sh --boot SUITE [CASE...] becomes
# systemd, which starts it again as a service: units.sh SUITE [CASE...]. What it says goes to /try/shared/SUITE.
set -euo pipefail
# shellcheck source=cases.sh
. /try/cases.sh

CASES=(started_by_a_client started_by_hand group_may_connect stays_for_others comes_back vhost_user_repair less_than_the_unit_leaves
    namespace_served namespace_gone)

# boot SUITE CASE...: systemd, with these cases as all that it has to start.
boot() {
    dpkg -i /try/*.deb
    # It would ask who this machine is.
    printf '%032d\n' 7 >/etc/machine-id
    cat >/etc/systemd/system/try.service <<END
[Unit]
After=multi-user.target
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=/bin/bash /try/units.sh $*
StandardOutput=append:/try/shared/$1
StandardError=inherit
END
    printf '[Unit]\nRequires=basic.target try.service\n' >/etc/systemd/system/try.target
    exec /lib/systemd/systemd --system --unit=try.target --show-status=no
}

# configure NAME OPTION...: of the passt or pasta of that name.
configure() {
    local name=$1
    shift
    mkdir -p /etc/passt
    printf 'PASST_OPTIONS=%s\nPASTA_OPTIONS=%s\n' "-4 -a 192.0.2.2/24 -g 192.0.2.1 $*" "-4 -a 192.0.2.2/24 -g 192.0.2.1 $*" >"/etc/passt/$name.conf"
}

# answers SOCKET [AS...]: a front-end asks for the features of the device there, as the command says.
answers() {
    local socket=$1
    shift
    # shellcheck disable=SC2016 # perl expands it
    timeout 10 "$@" perl -MIO::Socket::UNIX -e '
        my $socket = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $ARGV[0]) or die "$!\n";
        syswrite $socket, pack("L3", 1, 1, 0) or die "$!\n";
        my $reply = "";
        while (length $reply < 20) { sysread($socket, $reply, 20, length $reply) or die "no answer\n"; }
        die "not this answer\n" if unpack("L", $reply) != 1;' "$socket"
}

process_of() { systemctl show --value --property=MainPID "$1"; }
is() { [ "$(systemctl show --value --property="$2" "$1")" = "$3" ]; }

case_started_by_a_client() {
    configure web -t 2222:22
    systemctl start passt@web.socket
    is passt@web.service ActiveState inactive
    [ "$(stat -c '%a %U' /run/passt/web.sock)" = '660 root' ]
    answers /run/passt/web.sock
    until_true 10 is passt@web.service ActiveState active
    ss -Hltn 'sport = 2222' | grep .
    # And the next one.
    answers /run/passt/web.sock
    systemctl stop passt@web.service passt@web.socket
    ! ss -Hltn 'sport = 2222' | grep . || return 1
    [ ! -e /run/passt/web.sock ]
}

case_started_by_hand() {
    configure web
    systemctl start passt@web.service
    answers /run/passt/web.sock
    systemctl stop passt@web.service
    is passt@web.service Result success
    # Whoever connects starts it again.
    answers /run/passt/web.sock
    systemctl stop passt@web.service passt@web.socket
}

case_group_may_connect() {
    configure web
    groupadd --force kvm
    useradd --groups kvm member
    useradd stranger
    mkdir -p /run/systemd/system/passt@.socket.d
    printf '[Socket]\nSocketGroup=kvm\n' >/run/systemd/system/passt@.socket.d/group.conf
    systemctl daemon-reload
    systemctl start passt@web.socket
    answers /run/passt/web.sock setpriv --reuid=member --regid=member --init-groups
    # Also while the service runs.
    answers /run/passt/web.sock setpriv --reuid=member --regid=member --init-groups
    ! answers /run/passt/web.sock setpriv --reuid=stranger --regid=stranger --init-groups || return 1
    systemctl stop passt@web.service passt@web.socket
    rm -r /run/systemd/system/passt@.socket.d
    systemctl daemon-reload
}

case_stays_for_others() {
    configure one
    configure two
    systemctl start passt@one.socket passt@two.socket
    answers /run/passt/one.sock
    answers /run/passt/two.sock
    systemctl stop passt@one.service
    answers /run/passt/two.sock
    answers /run/passt/one.sock
    systemctl stop passt@{one,two}.{service,socket}
}

case_comes_back() {
    local before
    configure web
    systemctl start passt@web.service
    before=$(process_of passt@web.service)
    kill -KILL "$before"
    until_true 10 eval "[ \"\$(process_of passt@web.service)\" -gt 0 ] && [ \"\$(process_of passt@web.service)\" != $before ]"
    answers /run/passt/web.sock
    systemctl stop passt@web.service passt@web.socket
}

# The socket of passt-repair may be in the unit's own folder.
case_vhost_user_repair() {
    configure web --vhost-user
    systemctl start passt@web.service
    answers /run/passt/web.sock
    systemctl stop passt@web.service passt@web.socket
    configure web --vhost-user --repair-path /run/passt-web/repair
    systemctl start passt@web.service
    [ -S /run/passt-web/repair ]
    answers /run/passt/web.sock
    systemctl stop passt@web.service passt@web.socket
    [ ! -e /run/passt-web ]
}

# status_of UNIT: what its process may do.
status_of() { cat "/proc/$(process_of "$1")/status"; }

case_less_than_the_unit_leaves() {
    local found
    configure web
    systemctl start passt@web.service
    found=$(status_of passt@web.service)
    echo "$found"
    ! grep -P '^Uid:\t0\t' <<<"$found" || return 1
    grep -P '^CapEff:\t0+$' <<<"$found"
    grep -P '^CapBnd:\t0+$' <<<"$found"
    grep -P '^NoNewPrivs:\t1$' <<<"$found"
    grep -P '^Seccomp:\t2$' <<<"$found"
    # The filter of the unit, and the program's own.
    grep -P '^Seccomp_filters:\t([2-9]|[1-9][0-9])' <<<"$found"
    [ -z "$(ls -A "/proc/$(process_of passt@web.service)/root")" ]
    systemd-analyze security --no-pager passt@web.service | tail -n 1
    systemctl stop passt@web.service passt@web.socket
}

case_namespace_served() {
    local found
    configure net -t 8080:80 -T none
    ip netns add net
    systemctl start pasta@net.service
    found=$(ip netns exec net ip -4 -o addr; ip netns exec net ip route)
    echo "$found"
    grep -F '192.0.2.2/24' <<<"$found"
    grep -F 'default via 192.0.2.1' <<<"$found"
    ss -Hltn 'sport = 8080' | grep .
    found=$(status_of pasta@net.service)
    echo "$found"
    # To bind to low ports there is all that is left.
    grep -P '^CapEff:\t0*400$' <<<"$found"
    grep -P '^Seccomp:\t2$' <<<"$found"
    systemctl stop pasta@net.service
    is pasta@net.service Result success
    ip netns del net
}

case_namespace_gone() {
    configure net -T none
    # There is nothing to do, which is no failure.
    systemctl start pasta@net.service
    is pasta@net.service ActiveState inactive
    ip netns add net
    systemctl start pasta@net.service
    is pasta@net.service ActiveState active
    ip netns del net
    until_true 10 is pasta@net.service ActiveState inactive
    is pasta@net.service Result success
}

failed() {
    journalctl --no-pager -q -n 12 -o cat | sed 's/^/      /'
    systemctl stop 'pass*@*' || true
    systemctl reset-failed || true
}

if [ "$1" = --boot ]; then
    shift
    boot "$@"
fi
SUITE=$1
shift
[ $# -eq 0 ] || CASES=("$@")
systemctl --version | head -n 1
ip link set lo up
play_cases "units $SUITE" "${CASES[@]}"
