# shellcheck shell=bash
# One socket for a port, whomever it talks to: what that is for, with programs that need it, and beside it the same on
# the host.

CASES+=(
    tftp_v4 tftp_v6 third_party_v4 third_party_v6 port_again dns_storm_v4 dns_storm_v6
)

TFTP_BYTES=100000
# tftp_of ADDRESS PORT: the sum of a file got by busybox's client, inside and on the host.
tftp_of() {
    local get="busybox tftp -g -r boot -l - $1 $2 | sha256sum"
    in_net host bash -c "$get"
    in_shell "$get"
}
# with_tftp ADDRESS PORT: the server answers from a port of its own for each transfer.
with_tftp() {
    local log=$WORLD/tftp.log sums
    nsenter --net=/run/netns/outside /run/bin/nettool tftp "$1" "$TFTP_BYTES" 7 >"$log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$log"
    sums=$(tftp_of "$2" 6969)
    same "$(wc -l <<<"$sums")" 2
    same "$(sort -u <<<"$sums" | wc -l)" 1
    same "$(grep -c '^sent to' "$log")" 2
}
case_tftp_v4() { with_tftp "$SERVER4:6969" "$SERVER4"; }
case_tftp_v6() { with_tftp "[$SERVER6]:6969" "$SERVER6"; }

# third_party SERVER THIRD: the port is the same for everybody, and open to a third party.
third_party() {
    local log=$WORLD/third.log here there
    nsenter --net=/run/netns/outside /run/bin/nettool introduce "$1" "$2" >"$log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$log"
    here=$(in_net host /run/bin/nettool punch 4444 "$1")
    there=$(configured -- /run/bin/nettool punch 4444 "$1")
    same "$here" "you are 4444, $2 says hello"
    same "$there" "$here"
}
case_third_party_v4() { third_party "$SERVER4:3478" 203.0.113.193:4000; }
case_third_party_v6() { third_party "[$SERVER6]:3478" '[2001:db8:f:1::1]:4000'; }

# The port on the host, which is what a program inside has talked from, is no service of the host's, after whose example the
# program's port is taken inside.
case_port_again() {
    local log=$WORLD/third.log found
    nsenter --net=/run/netns/outside /run/bin/nettool introduce "$SERVER4:3478" 203.0.113.193:4000 >"$log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$log"
    found=$(pasta --config-net -- sh -c "for _ in 1 2 3; do /run/bin/nettool punch 4444 $SERVER4:3478; sleep 1.1; done")
    same "$found" "$(yes 'you are 4444, 203.0.113.193:4000 says hello' | head -n 3)"
}

# Far more questions than there are descriptors, and connections beside them; STORM_SECONDS=60 for a long one.
dns_storm() {
    local log=$WORLD/storm.log
    nsenter --net=/run/netns/outside /run/bin/nettool serve "$1:53" >"$log" 2>&1 &
    remember $!
    until_true 10 grep -q ready "$log"
    (
        ulimit -n 4096
        in_shell "cd /run/bin
            ./nettool storm $1:53 5000 ${STORM_SECONDS:-5} & storm=\$!
            while kill -0 \$storm; do
                ./nettool get $1:5000 1000000 1; ./nettool short $1:5000 20; sleep 0.5
            done 2>/dev/null
            wait \$storm"
    )
}
case_dns_storm_v4() { dns_storm "$SERVER4"; }
case_dns_storm_v6() { dns_storm "[$SERVER6]"; }
