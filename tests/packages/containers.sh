#!/bin/bash
# What tests/packages/containers runs in a root of a suite, as root and process 1 of it: containers.sh SUITE [CASE...].
# The network is here, and a network behind it in a namespace, `outside`, with a server for files and one for names:
#
#   containers ==== [here: 192.0.2.2, 2001:db8:2::2] ---veth--- [outside: 192.0.2.1, 2001:db8:2::1; 198.51.100.7]
set -euo pipefail
# shellcheck source=cases.sh
. /try/cases.sh

SUITE=$1
shift
USER_ID=1000
SERVER=198.51.100.7 NAME=web.example.test
HOST4=192.0.2.2 HOST6=2001:db8:2::2
CLIENT4=192.0.2.1 CLIENT6=2001:db8:2::1
SLIRP4NETNS=/usr/libexec/passt-rs/slirp4netns
# What a download is compared with.
SUM=

# Podman knows pasta from 4.4 on, rootlesskit from 2.0.
CASES=(podman_slirp4netns podman_slirp4netns_ports rootlesskit_slirp4netns docker_slirp4netns)
[ "$SUITE" = bookworm ] || CASES=(podman_pasta podman_bridge podman_quadlet "${CASES[@]}" rootlesskit_pasta docker_pasta)
[ $# -eq 0 ] || CASES=("$@")

# ordinary [NAME=VALUE...] COMMAND...: as somebody who has logged in.
ordinary() {
    setpriv --reuid=$USER_ID --regid=$USER_ID --init-groups --inh-caps=-all env -i HOME=/home/user USER=user TERM=dumb \
        PATH="$PATH" XDG_RUNTIME_DIR=/run/user/$USER_ID DOCKER_HOST=unix:///run/user/$USER_ID/docker.sock "$@"
}

make_network() {
    ip netns add outside
    ip link add uplink type veth peer name hosts netns outside
    ip link set lo up
    ip addr add $HOST4/24 dev uplink
    ip addr add $HOST6/64 dev uplink nodad
    ip link set uplink up
    ip -n outside link set lo up
    ip -n outside addr add $CLIENT4/24 dev hosts
    ip -n outside addr add $CLIENT6/64 dev hosts nodad
    ip -n outside addr add $SERVER/32 dev lo
    ip -n outside link set hosts up
    ip route add default via $CLIENT4
    ip -6 route add default via $CLIENT6
    rm -f /etc/resolv.conf
    echo "nameserver $SERVER" >/etc/resolv.conf
    mkdir /srv/www
    head -c 20000000 /dev/urandom >/srv/www/file
    SUM=$(sha256sum </srv/www/file)
    ip netns exec outside busybox httpd -p $SERVER:80 -h /srv/www
    ip netns exec outside perl /try/names.pl $SERVER $NAME &
}

# Answers questions for an IPv4 address of the one name, and says that there is nothing else.
write_names() {
    cat >/try/names.pl <<'PERL'
use IO::Socket::INET;
my ($address, $name) = @ARGV;
my $socket = IO::Socket::INET->new(Proto => 'udp', LocalAddr => $address, LocalPort => 53) or die $!;
while (my $from = $socket->recv(my $query, 512)) {
    my ($labels, $at) = ('', 12);
    while ((my $length = ord(substr($query, $at, 1))) > 0) { $labels .= substr($query, $at + 1, $length) . '.'; $at += $length + 1; }
    my $question = substr($query, 12, $at + 5 - 12);
    my $known = lc($labels) eq "$name.";
    my $answers = $known && unpack('n', substr($query, $at + 1, 2)) == 1;
    my $reply = substr($query, 0, 2) . pack('n5', $known ? 0x8180 : 0x8183, 1, $answers ? 1 : 0, 0, 0) . $question;
    $reply .= pack('n3Nn', 0xc00c, 1, 1, 60, 4) . $socket->sockaddr if $answers;
    $socket->send($reply, 0, $from);
}
PERL
}

# The image: busybox, and a page that says who asks for it.
make_image() {
    local tree=/try/image tool
    mkdir -p $tree/bin $tree/tmp $tree/etc $tree/www/cgi-bin
    cp /bin/busybox $tree/bin/
    for tool in sh wget httpd ip sha256sum sleep; do ln -s busybox $tree/bin/$tool; done
    cat >$tree/www/cgi-bin/who <<'CGI'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n%s\n' "$REMOTE_ADDR"
CGI
    chmod 755 $tree/www/cgi-bin/who
    tar -C $tree -cf /try/image.tar .
    chmod 644 /try/image.tar
}

make_user() {
    useradd --create-home --uid $USER_ID --shell /bin/sh user
    grep -q ^user: /etc/subuid || echo user:100000:65536 | tee -a /etc/subuid >>/etc/subgid
    mkdir -p /run/user
    install -d -m 700 -o $USER_ID -g $USER_ID /run/user/$USER_ID
    install -d -o $USER_ID -g $USER_ID /home/user/.config /home/user/.config/containers
    printf '[storage]\ndriver = "vfs"\n' >/home/user/.config/containers/storage.conf
    # There is no systemd, and no journal.
    printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nnetwork_cmd_path = "%s"\n' $SLIRP4NETNS \
        >/home/user/.config/containers/containers.conf
}

# told FILE: the page of a port that leads to a container, as somebody outside gets it.
told() { timeout 5 ip netns exec outside busybox wget -q -O - "$1"; }

# answers ADDRESS CLIENT PORT: what is at the port sees who is there. HOST is where the port is.
answers() {
    local said
    until_true 20 told "http://$1:$3/cgi-bin/who"
    said=$(told "http://$1:$3/cgi-bin/who")
    echo "$said"
    [[ $said == *"$2"* ]] || { echo "a client at $2 is seen as $said"; return 1; }
}

is_closed() { ! told "http://$HOST4:$1/" 2>/dev/null; }

# nothing_runs PROGRAM...
nothing_runs() {
    local program
    for program in "$@"; do
        until_true 20 eval "! pgrep -u $USER_ID -f '^([^ ]*/)?$program( |\$)'" || { ps -u $USER_ID -o pid,args; return 1; }
    done
}

# downloads COMMAND...: the command runs a shell's line in a container.
downloads() {
    local sum
    sum=$("$@" /bin/sh -c "wget -q -O - http://$NAME/file | sha256sum")
    [ "$sum" = "$SUM" ] || { echo "the file has arrived as '$sum', and is '$SUM'"; return 1; }
}

podman() { ordinary timeout 90 podman "$@"; }
import_for_podman() { podman image exists box || podman import -q /try/image.tar box; }

# podman_serves PORT OPTION...: a container with a server, whose port 80 is published.
podman_serves() {
    local port=$1
    shift
    podman run -d --name web -p "$port:80" "$@" box /bin/httpd -f -p 80 -h /www
}

podman_goes() {
    podman rm -f -t 0 web
    until_true 10 is_closed "$1"
}

case_podman_pasta() {
    import_for_podman
    podman info --format '{{.Host.Pasta.Executable}}' | grep -x /usr/bin/pasta
    downloads podman run --rm --network pasta box
    podman_serves 8080 --network pasta
    answers $HOST4 $CLIENT4 8080
    answers "[$HOST6]" $CLIENT6 8080
    podman_goes 8080
    # Without being asked for, too.
    [ "$(podman info --format '{{.Host.RootlessNetworkCmd}}')" = pasta ]
    downloads podman run --rm box
    nothing_runs pasta
}

# A network of Podman's own: pasta connects the namespace in which its bridges are. Published ports go through rootlessport,
# which does not keep addresses, or by pesto, where Podman knows that.
case_podman_bridge() {
    import_for_podman
    podman network create net
    downloads podman run --rm --network net box
    podman_serves 8081 --network net
    until_true 20 told "http://$HOST4:8081/cgi-bin/who"
    podman_goes 8081
    podman network rm net
    nothing_runs pasta
}

# The unit that the guide has, with another image: what Quadlet makes of it, as systemd would start it, which is not here. So
# names are put in, and a control group of the unit's own is not asked for.
case_podman_quadlet() {
    local line
    import_for_podman
    mkdir -p /try/quadlet
    # shellcheck disable=SC2016 # they are the marks of a block
    sed -n '/^```ini$/,/^```$/{p;/^```$/q}' /try/podman.md | sed -e '/^```/d' -e 's#^Image=.*#Image=localhost/box:latest\nExec=/bin/httpd -f -p 80 -h /www#' \
        >/try/quadlet/web.container
    cat /try/quadlet/web.container
    line=$(ordinary QUADLET_UNIT_DIRS=/try/quadlet /usr/libexec/podman/quadlet -user -dryrun | sed -n 's/^ExecStart=//p')
    echo "$line"
    [[ $line == *'--network pasta:--mtu,1500'* || $line == *'--network=pasta:--mtu,1500'* ]]
    line=${line//%N/web}
    line=${line//%t//run/user/$USER_ID}
    # shellcheck disable=SC2086 # its words are the command's
    ordinary ${line/--cgroups=split/}
    answers $HOST4 $CLIENT4 8080
    podman exec systemd-web /bin/ip -o link | grep 'mtu 1500 .*qdisc'
    pgrep -u $USER_ID -fa '^/usr/bin/pasta ' | grep -e '--mtu 1500'
    podman rm -f -t 0 systemd-web
    until_true 10 is_closed 8080
    nothing_runs pasta
}

case_podman_slirp4netns() {
    import_for_podman
    downloads podman run --rm --network slirp4netns box
    podman_serves 8082 --network slirp4netns
    pgrep -u $USER_ID -f "^$SLIRP4NETNS "
    podman exec web /bin/ip -4 -o addr show dev tap0 | grep 'inet 10.0.2.100/24'
    until_true 20 told "http://$HOST4:8082/cgi-bin/who"
    podman_goes 8082
    nothing_runs $SLIRP4NETNS
}

# The ports are those of the API socket.
case_podman_slirp4netns_ports() {
    import_for_podman
    podman_serves 8083 --network slirp4netns:port_handler=slirp4netns
    answers $HOST4 $CLIENT4 8083
    podman_goes 8083
    nothing_runs $SLIRP4NETNS
}

# kit OPTION...: a shell in rootlesskit's namespaces, with a server on port 80 for as long as /tmp/stop is not there.
kit() {
    rm -f /tmp/stop /tmp/up
    # shellcheck disable=SC2016 # the shell inside expands it
    ordinary rootlesskit --mtu=65520 --disable-host-loopback --copy-up=/etc "$@" sh -euc '
        ip -4 -o addr show dev tap0
        busybox httpd -p 80 -h /try/image/www
        busybox wget -q -O - "http://$1/file" | sha256sum
        echo >/tmp/up
        while [ ! -e /tmp/stop ]; do sleep 0.1; done' sh $NAME >/try/kit 2>&1 &
    KIT=$!
    until_true 30 test -e /tmp/up || { cat /try/kit; return 1; }
    cat /try/kit
    grep 'inet 10.0.2.100/24' /try/kit
    grep -F "$SUM" /try/kit
}

kit_ends() {
    echo >/tmp/stop
    wait "$KIT"
    nothing_runs "$@"
}

case_rootlesskit_pasta() {
    # Port 80 is everybody's here, so that what listens inside is forwarded by the same number.
    echo 80 >/proc/sys/net/ipv4/ip_unprivileged_port_start
    kit --net=pasta --port-driver=implicit
    answers $HOST4 $CLIENT4 80
    kit_ends pasta
    echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start
}

case_rootlesskit_slirp4netns() {
    kit --net=slirp4netns --slirp4netns-binary=$SLIRP4NETNS --port-driver=slirp4netns -p 0.0.0.0:8084:80/tcp
    answers $HOST4 $CLIENT4 8084
    kit_ends $SLIRP4NETNS
    kit --net=slirp4netns --slirp4netns-binary=$SLIRP4NETNS --port-driver=builtin -p 0.0.0.0:8084:80/tcp
    until_true 20 told "http://$HOST4:8084/cgi-bin/who"
    kit_ends $SLIRP4NETNS
}

docker() { ordinary timeout 90 docker "$@"; }

# docker_with NETWORK PORT-DRIVER: the daemon as its script starts it for an ordinary user, and containers.
docker_with() {
    local script=/usr/share/docker.io/contrib/dockerd-rootless.sh daemon
    ordinary DOCKERD_ROOTLESS_ROOTLESSKIT_NET="$1" DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER="$2" PATH="/try/bin:$PATH" \
        sh $script --storage-driver vfs >/try/dockerd 2>&1 &
    daemon=$!
    until_true 60 docker version || { tail -n 20 /try/dockerd; return 1; }
    docker info --format '{{.ServerVersion}} {{.SecurityOptions}}' | grep rootless
    docker import /try/image.tar box
    downloads docker run --rm box
    docker run -d --name web -p 8085:80 box /bin/httpd -f -p 80 -h /www
    until_true 20 told "http://$HOST4:8085/cgi-bin/who"
    [ "$2" != implicit ] || answers $HOST4 $CLIENT4 8085
    docker rm -f web
    until_true 10 is_closed 8085
    # There are no processes here but those of this world.
    pkill -u $USER_ID -x dockerd
    wait "$daemon" || true
    nothing_runs dockerd rootlesskit pasta slirp4netns
}

case_docker_pasta() { docker_with pasta implicit; }

# The script has no option for where slirp4netns is.
case_docker_slirp4netns() {
    mkdir -p /try/bin
    ln -sf $SLIRP4NETNS /try/bin/slirp4netns
    docker_with slirp4netns builtin
}

# The next case begins without what the failed one has left.
failed() {
    podman rm -f -t 0 web >/dev/null 2>&1 || true
    pkill -KILL -u $USER_ID || true
}

dpkg -i /try/*.deb
write_names
make_network
make_image
make_user
dpkg-query -W -f '${Package} ${Version}\n' passt-rs podman rootlesskit docker.io
play_cases "containers $SUITE" "${CASES[@]}"
