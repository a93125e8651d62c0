#!/bin/bash
# Gets what guests are made of into the cache folder, changing nothing on the
# machine but installing a few packages:
#
#   fetch.sh uml     kernel that runs as a process (user-mode-linux of unstable)
#   fetch.sh qemu    the emulator, and the installed release's cloud kernel
#   fetch.sh peer    the newest packaged passt, to run the same tests against
#
# apt checks every download against the archive's signature. The mirror's address
# comes from the apt sources of this machine. A complete part is left alone;
# delete its folder to get it anew.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The private folder in which apt looks at suites that the machine does not use.
APT=$CACHE/apt

# private_apt SUITE ARGUMENT...: apt-get with lists of its own. SUITE `installed`
# means the machine's own sources.
private_apt() {
    local suite=$1 options=()
    shift
    mkdir -p "$APT/$suite/lists/partial" "$APT/$suite/cache/archives/partial"
    options=(-q -o "Dir::State::lists=$APT/$suite/lists" -o "Dir::Cache=$APT/$suite/cache"
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=)
    if [ "$suite" != installed ]; then
        write_source "$suite"
        options+=(-o "Dir::Etc::sourcelist=$APT/$suite/sources.list" -o Dir::Etc::sourceparts=/dev/null)
    fi
    apt-get "${options[@]}" "$@" >>"$APT/log" 2>&1
}

# write_source SUITE: the same suite of the mirror from which the release comes.
write_source() {
    local release mirror
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016 # apt expands these
    mirror=$(apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' |
        awk -v release="$release" '$1 == release && $2 == "main" { print $3; exit }')
    [ -n "$mirror" ] || die "no apt source for the release '$release' on this machine"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$APT/$1/sources.list"
}

# unpack SUITE FOLDER PACKAGE...: downloads packages and unpacks them.
unpack() {
    local suite=$1 folder=$2 packages
    shift 2
    packages=$APT/$suite/packages
    rm -rf "$packages" "$folder"
    mkdir -p "$packages" "$folder"
    retry private_apt "$suite" update || return 1
    (cd "$packages" && retry private_apt "$suite" download "$@") || return 1
    local package
    for package in "$packages"/*.deb; do
        dpkg -x "$package" "$folder"
    done
    rm -rf "$packages"
}

# use_loader FOLDER PROGRAM...: programs of a newer suite need its C library.
# They are run where the cache appears inside the tests' mount namespace.
use_loader() {
    local folder=$1 libraries
    shift
    libraries=/run/guests/$(basename "$folder")/lib
    mkdir -p "$folder/lib"
    cp "$folder"/root/usr/lib/x86_64-linux-gnu/{ld-linux-x86-64.so.2,libc.so.6} "$folder/lib/"
    patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" --set-rpath "$libraries" "$@"
}

# take_modules SOURCE TARGET MODULE...: copies modules and notes their order.
take_modules() {
    local source=$1 target=$2 module
    shift 2
    mkdir -p "$target"
    for module in "$@"; do
        cp "$source/$module.ko" "$target/"
        basename "$module.ko"
    done >"$target/order"
}

fetch_busybox() {
    local folder=$CACHE/busybox
    unpack installed "$folder/root" busybox-static
    cp "$folder/root/bin/busybox" "$folder/busybox" 2>/dev/null ||
        cp "$folder/root/usr/bin/busybox" "$folder/busybox"
}

fetch_uml() {
    local folder=$CACHE/uml
    unpack unstable "$folder/root" user-mode-linux libc6
    cp "$folder/root/usr/bin/linux.uml" "$folder/linux"
    use_loader "$folder" "$folder/linux"
    take_modules "$(echo "$folder"/root/usr/lib/uml/modules/*/kernel)" "$folder/modules" \
        net/core/failover drivers/net/net_failover drivers/net/virtio_net
}

fetch_qemu() {
    local folder=$CACHE/qemu kernel
    retry private_apt installed update
    kernel=$(apt-cache -o "Dir::State::lists=$APT/installed/lists" -o "Dir::Cache=$APT/installed/cache" \
        depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
    unpack installed "$folder/root" "$kernel"
    cp "$folder"/root/boot/vmlinuz-* "$folder/linux"
    take_modules "$(echo "$folder"/root/lib/modules/*/kernel)" "$folder/modules" \
        drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev \
        drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci \
        net/core/failover drivers/net/net_failover drivers/net/virtio_net
}

fetch_peer() {
    local folder=$CACHE/peer
    unpack unstable "$folder/root" passt libc6
    cp "$folder"/root/usr/bin/passt{,.avx2} "$folder/"
    use_loader "$folder" "$folder"/passt{,.avx2}
}

# fetch PART: does nothing if the part is complete.
fetch() {
    local folder=$CACHE/$1
    [ -e "$folder/complete" ] && return 0
    say "fetching $1"
    rm -rf "$folder"
    mkdir -p "$folder"
    local status
    set +e
    (set -e && "fetch_$1")
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        tail -n 15 "$APT/log" >&2
        warn "cannot get '$1'; apt's words are above and in $APT/log"
        return 1
    fi
    rm -rf "$folder/root"
    touch "$folder/complete"
}

# build_image KIND: the initramfs, of busybox, nettool, our init and the modules.
build_image() {
    local folder=$CACHE/$1 tree=$CACHE/$1/tree
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,dev,etc,proc,run,sys,tmp,lib/modules}
    cp "$CACHE/busybox/busybox" "$NETTOOL" "$tree/bin/"
    cp "$folder"/modules/* "$tree/lib/modules/"
    install -m 755 "$ROOT/tests/guests/init" "$tree/init"
    (cd "$tree" && find . -print0 | cpio --quiet -0 -o -H newc | gzip -1) >"$folder/initramfs.new"
    mv "$folder/initramfs.new" "$folder/initramfs"
    rm -rf "$tree"
}

mkdir -p "$APT"
need patchelf=patchelf cpio=cpio
need_cargo
for part in "$@"; do
    case $part in
    uml | qemu)
        [ "$part" = uml ] || need qemu-system-x86_64=qemu-system-x86
        fetch busybox
        fetch "$part"
        build_nettool
        build_image "$part"
        ;;
    peer) fetch peer ;;
    *) die "unknown part '$part'" ;;
    esac
done
