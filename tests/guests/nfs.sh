# shellcheck shell=bash
# A guest whose kernel mounts a file system from a server that takes only source ports below 1024, as NFS servers do unless
# they are told otherwise (`insecure` of exports(5)). The server outside is nfs-ganesha, with its files in memory.
#
# Cases are as in cases.sh, where their list is.

# It looks up what a transport is in /etc/netconfig, which minimal roots have not got.
serve_nfs() {
    local may_fail=
    mkdir -p "$WORLD/nfs/etc"
    cp /etc/passwd /etc/group "$WORLD/nfs/etc"
    cat >"$WORLD/nfs/etc/netconfig" <<END
udp tpi_clts v inet udp - -
tcp tpi_cots_ord v inet tcp - -
udp6 tpi_clts v inet6 udp - -
tcp6 tpi_cots_ord v inet6 tcp - -
END
    # Since release 6 it wants a right that root of a user namespace has not, and may be told to go on without.
    ! grep -qai allow_set_io_flusher_fail /run/guests/nfs/bin/ganesha.nfsd || may_fail="allow_set_io_flusher_fail = true;"
    cat >"$WORLD/nfs/conf" <<END
NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; Plugins_Dir = "/run/guests/nfs/lib"; $may_fail }
NFSV4 {
    Graceless = true; RecoveryBackend = fs; RecoveryRoot = "$WORLD/nfs"; Only_Numeric_Owners = true; UseGetpwnam = true;
}
EXPORT {
    Export_Id = 1; Path = /export; Pseudo = /; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 4;
    PrivilegedPort = true; FSAL { Name = MEM; }
}
MEM { Inode_Size = 2097152; }
LOG { Default_Log_Level = EVENT; }
END
    # shellcheck disable=SC2016
    in_net outside unshare --mount sh -ec 'mount --bind "$1/etc" /etc
        exec env LD_LIBRARY_PATH=/run/guests/nfs/lib /run/guests/nfs/bin/ganesha.nfsd -F -L STDERR -f "$1/conf" \
            -p "$1/pid"' - "$WORLD/nfs" >"$LOGS/nfs.log" 2>&1 &
    until_true 20 nfs_is_there
}
nfs_is_there() { in_net outside ss -Hltn 'sport = :2049' | grep 2049 >/dev/null; }

mount_nfs() { guest 60 "mkdir -p /tmp/nfs; mount -t nfs4 -o vers=4.0,sec=sys,addr=$SERVER4,clientaddr=$HOST4 $SERVER4:/ /tmp/nfs"; }

# What everybody may bind is set for the host's namespace, where the program runs.
unprivileged_from() { in_net host sh -c "echo $1 >/proc/sys/net/ipv4/ip_unprivileged_port_start"; }

case_nfs_refused_from_high_ports() {
    unprivileged_from 1024
    if mount_nfs; then
        echo "mounted"
        return 1
    fi
    same "$(guest 5 'grep -c /tmp/nfs /proc/mounts')" 0
}

case_nfs_mounted_from_low_ports() {
    local peer
    unprivileged_from 0
    mount_nfs
    guest 60 'head -c 1000000 /dev/urandom >/tmp/data; cp /tmp/data /tmp/nfs/data; umount /tmp/nfs'
    mount_nfs
    guest 60 'cmp /tmp/data /tmp/nfs/data'
    peer=$(in_net outside ss -Htn 'sport = :2049' | awk '{ print $5 }')
    echo "$peer"
    peer=${peer##*:}
    [ "$peer" -lt 1024 ]
    guest 60 'umount /tmp/nfs'
}
