# shellcheck shell=bash
# Minimal roots of Debian's suites, to be the whole world of a test. Source it behind guests/lib.sh, with the folder for the
# roots in PLACE. Source it under `set -e`.
# shellcheck disable=SC2164

# make_root SUITE PACKAGE,... [ARCHITECTURE,...] [PACKAGE]: in $PLACE/SUITE, if it is not there already; with packages of
# these architectures, and not the machine's alone. The last is unpacked without what it depends on.
make_root() {
    local source form=list tree=$PLACE/$1
    [ ! -e "$tree/made" ] || return 0
    rm -rf "$tree"
    source=$(debian_source "$1")
    case $source in deb\ *) ;; *) form=sources ;; esac
    echo "$source" >"$PLACE/$1.$form"
    apt-config dump Acquire | grep -v ::IndexTargets >"$PLACE/apt.conf"
    # shellcheck disable=SC2016 # mmdebstrap's shell knows $1
    local unpack='chroot "$1" sh -ec "cd /var/tmp && apt-get download '${4:-}' && dpkg-deb -x *.deb / && rm ./*.deb"'
    mmdebstrap --mode=root --variant=minbase --format=directory --include="$2" ${3:+--architectures="$3"} ${4:+--customize-hook="$unpack"} --aptopt="$PLACE/apt.conf" \
        "$1" "$tree" "$PLACE/$1.$form"
    : >"$tree/made"
}

# enter_root SUITE FILE...: makes the root of that suite the caller's, who is process 1 of namespaces of its own. What is
# written goes to memory, over the root, but for the folder SHARED, if there is one, which is /try/shared. The files are in
# /try, and the devices are those of a machine with udev.
enter_root() {
    local suite=$1 device major minor
    shift
    mkdir -p "$PLACE/world"
    mount -t tmpfs -o mode=755 tmpfs "$PLACE/world"
    cd "$PLACE/world"
    mkdir changes work root
    mount -t overlay -o "lowerdir=$PLACE/$suite,upperdir=$PWD/changes,workdir=$PWD/work" overlay root
    cd root
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs -o mode=1777 tmpfs tmp
    mount -t tmpfs -o mode=755 tmpfs dev
    mkdir dev/pts dev/shm dev/net try .machine
    mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200 fuse:10:229; do
        IFS=: read -r device major minor <<<"$device"
        mknod -m 666 "dev/$device" c "$major" "$minor"
    done
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    cp "$@" try/
    if [ -n "${SHARED:-}" ]; then
        mkdir try/shared
        mount --bind "$SHARED" try/shared
    fi
    pivot_root . .machine
    umount --lazy /.machine
    cd /
    # As systemd has it, and engines want it.
    mount --make-rshared /
}
