#!/bin/bash
# Gets what guests are made of into the cache folder, changing nothing on the
# machine but installing a few packages:
#
#   fetch.sh uml     kernel that runs as a process (user-mode-linux of unstable)
#   fetch.sh qemu    the emulator, and the installed release's cloud kernel
#   fetch.sh migrate an emulator that moves the state of vhost-user devices: QEMU 10 (trixie), unless the machine's is
#                    as new
#   fetch.sh libvirt the newest packaged libvirt and QEMU, which are not to be installed where tests run
#   fetch.sh ovmf    firmware of UEFI, and what makes a boot file of the emulator's kernel and initramfs
#   fetch.sh nfs     the same kernel with a client of NFS, and a server that needs none (nfs-ganesha)
#   fetch.sh peer    the newest packaged passt, to run the same tests against
#   fetch.sh clients     systemd-networkd, NetworkManager and avahi, which are not to be installed where tests run
#   fetch.sh dhclient    ISC's DHCP client (trixie), for machines whose release has it no more
#   fetch.sh policies    compilers of AppArmor's and SELinux's policies
#
# apt checks every download against the archive's signature. The mirror's address and
# every setting come from the apt sources of this machine. A complete part is left alone;
# delete its folder to get it anew.
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

# The private folder in which apt looks at suites that the machine does not use.
APT=$CACHE/apt

# use_suite SUITE: sets OPTIONS, for apt with lists of its own and nothing installed. SUITE `installed` means the
# machine's own sources, with what it prefers; the settings are the machine's in any case.
use_suite() {
    local suite=$1 source
    mkdir -p "$APT/$suite/lists/partial" "$APT/$suite/cache/archives/partial"
    : >"$APT/status"
    OPTIONS=(-o "Dir::State::lists=$APT/$suite/lists" -o "Dir::Cache=$APT/$suite/cache" -o "Dir::State::status=$APT/status"
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=)
    [ "$suite" != installed ] || return 0
    source=$(debian_source "$suite") || return 1
    rm -f "$APT/$suite"/machine.*
    case $source in
    deb\ *) echo "$source" >"$APT/$suite/machine.list" ;;
    *) echo "$source" >"$APT/$suite/machine.sources" ;;
    esac
    OPTIONS+=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$APT/$suite" -o APT::Default-Release=
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null)
}

private_apt() { apt-get -q "${OPTIONS[@]}" "$@"; }

# apt_logged ARGUMENT...: apt-get, by OPTIONS; where it fails its words are shown.
apt_logged() {
    retry private_apt "$@" >"$APT/log" 2>&1 && return 0
    tail -n 15 "$APT/log" >&2
    warn "apt-get $* failed; its words are above and in $APT/log"
    return 1
}

# download FOLDER PACKAGE...: gets packages, except those that are there. Sets DEBS, their files.
download() {
    local folder=$1 uri file size hash
    shift
    mkdir -p "$folder"
    DEBS=()
    apt-get -qq "${OPTIONS[@]}" download --print-uris "$@" >"$APT/uris" 2>"$APT/log" || {
        cat "$APT/log" >&2
        warn "the apt sources of this machine do not have: $*"
        return 1
    }
    while read -r uri file size hash; do
        DEBS+=("$folder/$file")
        [ -n "$uri$size" ] && sha256sum --status -c - 2>/dev/null <<<"${hash#SHA256:}  $folder/$file" && continue
        (cd "$folder" && apt_logged download "${file%%_*}") || return 1
    done <"$APT/uris"
}

# unpack SUITE PART PACKAGE...: downloads packages and unpacks them into the part's folder `root`.
unpack() {
    local suite=$1 part=$2 package
    shift 2
    use_suite "$suite"
    apt_logged update
    download "$APT/packages/$part" "$@"
    for package in "${DEBS[@]}"; do
        dpkg -x "$package" "$CACHE/$part/root"
    done
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

# take_modules SOURCE TARGET MODULE...: copies the modules of the kernel whose folder of modules is SOURCE, unpacked, with
# those that they need, and notes their order. What is built into the kernel is left out.
take_modules() {
    local source=$1 target=$2 module word path dependencies version
    shift 2
    version=$(basename "$source")
    # Where modprobe looks depends on how it was built.
    dependencies=$target/tree
    mkdir -p "$dependencies/usr/lib/modules"
    ln -s usr/lib "$dependencies/lib"
    mv "$source" "$dependencies/usr/lib/modules/"
    depmod -b "$dependencies" "$version"
    for module in "$@"; do
        modprobe -d "$dependencies" -S "$version" --show-depends "$module" >"$target/needed" || {
            warn "the kernel $version has no module '$module', neither as a file nor built in"
            return 1
        }
        while read -r word path; do
            [ "$word" = insmod ] || continue
            unpack_module "${path%% *}" "$target"
        done <"$target/needed"
    done | awk '!seen[$0]++' >"$target/order"
    rm -rf "$dependencies" "$target/needed"
}

# unpack_module FILE FOLDER: copies a module, prints its name.
unpack_module() {
    local name
    name=$(basename "$1")
    name=${name%.ko*}.ko
    case $1 in
    *.ko) cp "$1" "$2/$name" ;;
    *.xz) xz -dc "$1" >"$2/$name" ;;
    *.zst) zstd -qdc "$1" >"$2/$name" ;;
    *.gz) gzip -dc "$1" >"$2/$name" ;;
    *) warn "cannot unpack $1: neither .ko nor .xz, .zst or .gz"; return 1 ;;
    esac
    echo "$name"
}

fetch_busybox() {
    local folder=$CACHE/busybox
    unpack installed busybox busybox-static
    cp "$folder/root/bin/busybox" "$folder/busybox" 2>/dev/null ||
        cp "$folder/root/usr/bin/busybox" "$folder/busybox"
}

fetch_uml() {
    local folder=$CACHE/uml
    unpack unstable uml user-mode-linux libc6
    cp "$folder/root/usr/bin/linux.uml" "$folder/linux"
    use_loader "$folder" "$folder/linux"
    take_modules "$(echo "$folder"/root/usr/lib/uml/modules/*)" "$folder/modules" virtio_net tun
    touch "$folder/hosts"
}

# depends PACKAGE PATTERN: the packages that it needs whose names match.
depends() { apt-cache "${OPTIONS[@]}" depends "$1" | awk -v pattern="$2" '$1 == "Depends:" && $2 ~ pattern { print $2 }'; }

fetch_qemu() { fetch_cloud_kernel qemu virtio_pci virtio_net; }

# fetch_cloud_kernel PART MODULE...: the metapackage leads to the newest kernel, which newer suites divide: into packages
# of the same version.
fetch_cloud_kernel() {
    local folder=$CACHE/$1 kernel parts file
    use_suite installed
    apt_logged update
    kernel=$(depends linux-image-cloud-amd64 '^linux-image-[0-9]')
    [ -n "$kernel" ] || { warn "the apt sources of this machine have no linux-image-cloud-amd64"; return 1; }
    kernel=${kernel%%$'\n'*}
    mapfile -t parts < <(depends "$kernel" '^linux-(base|binary|modules)-[0-9]')
    unpack installed "$1" "$kernel" "${parts[@]}"
    for file in "$folder"/root/{boot,usr/lib/modules/*}/vmlinuz*; do
        [ ! -f "$file" ] || cp "$file" "$folder/linux"
    done
    [ -e "$folder/linux" ] || { warn "there is no kernel (vmlinuz) in: $kernel ${parts[*]}"; return 1; }
    for file in "$folder"/root/{,usr/}lib/modules/*; do
        [ ! -d "$file" ] || take_modules "$file" "$folder/modules" "${@:2}"
    done
}

# Machines whose QEMU is older get trixie's.
fetch_migrate() {
    local folder=$CACHE/migrate
    if moves_device_state qemu-system-x86_64; then
        mkdir -p "$folder/bin"
        printf '#!/bin/sh\nexec qemu-system-x86_64 "$@"\n' >"$folder/bin/qemu"
        chmod 755 "$folder/bin/qemu"
        return
    fi
    unpack_emulator trixie migrate
}

# A daemon and its client that are of one version, with the driver for QEMU and what that wants to know of processors.
fetch_libvirt() {
    local folder=$CACHE/libvirt program
    unpack_emulator unstable libvirt libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients
    for program in sbin/libvirtd bin/virsh; do
        cp "$folder/root/usr/$program" "$folder/bin/"
        patchelf --set-interpreter /run/guests/libvirt/lib/ld-linux-x86-64.so.2 --force-rpath --set-rpath /run/guests/libvirt/lib \
            "$folder/bin/${program#*/}"
    done
    cp -r "$folder/root/usr/lib/x86_64-linux-gnu/libvirt/connection-driver" "$folder/drivers"
    cp -r "$folder/root/usr/share/libvirt" "$folder/share/"
}

# unpack_emulator SUITE PART PACKAGE...: QEMU, and other packages, with all libraries that they want.
unpack_emulator() {
    local suite=$1 part=$2 folder=$CACHE/$2 packages
    shift 2
    use_suite "$suite"
    apt_logged update
    apt-get -qq "${OPTIONS[@]}" --no-install-recommends install --print-uris qemu-system-x86 "$@" >"$APT/uris"
    mapfile -t packages < <(awk '{ sub(/_.*/, "", $2); print $2 }' "$APT/uris" | grep -E '^(lib|zlib|qemu|seabios|openssl)')
    mkdir -p "$APT/packages/$part"
    (cd "$APT/packages/$part" && apt_logged download "${packages[@]}")
    unpack "$suite" "$part" "${packages[@]}"
    mkdir -p "$folder"/{bin,lib,share}
    cp -P "$folder"/root/usr/lib/x86_64-linux-gnu/*.so* "$folder/lib/"
    cp "$folder/root/usr/share/seabios/bios-256k.bin" "$folder"/root/usr/share/qemu/{linuxboot_dma,kvmvapic}.bin "$folder/share/"
    cp "$folder/root/usr/bin/qemu-system-x86_64" "$folder/bin/emulator"
    # What it starts uses the machine's libraries: the path to its own stands in it, not in the environment.
    patchelf --set-interpreter "/run/guests/$part/lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "/run/guests/$part/lib" \
        "$folder/bin/emulator"
    cat >"$folder/bin/qemu" <<END
#!/bin/sh
exec /run/guests/$part/bin/emulator -L /run/guests/$part/share "\$@"
END
    chmod 755 "$folder/bin/qemu"
}

# The firmware, and a stub that UEFI runs, which starts the kernel inside of it.
fetch_ovmf() {
    local folder=$CACHE/ovmf firmware=ovmf
    # Since 2026 that package has no files.
    ! packaged ovmf-generic || firmware=ovmf-generic
    unpack installed ovmf "$firmware" systemd-boot-efi
    cp "$folder"/root/usr/share/OVMF/OVMF_{CODE,VARS}_4M.fd "$folder/root/usr/lib/systemd/boot/efi/linuxx64.efi.stub" "$folder/"
}

# build_boot_file: what firmware loads from the network, kernel, initramfs and command line in one file.
build_boot_file() {
    local folder=$CACHE/ovmf section size end
    printf '%s' "$GUEST_COMMAND_LINE" >"$folder/cmdline"
    cp "$CACHE/qemu/linux" "$folder/kernel"
    cp "$CACHE/qemu/initramfs" "$folder/initrd"
    # Sections stand behind each other, on pages, and behind the stub's own.
    end=$(objdump -h "$folder/linuxx64.efi.stub" | awk '$2 ~ /^\./ { print $3, $4 }' |
        while read -r size section; do echo $((0x$size + 0x$section)); done | sort -n | tail -n 1)
    local options=()
    for section in cmdline:cmdline linux:kernel initrd:initrd; do
        end=$(((end + 4095) / 4096 * 4096))
        options+=(--add-section ".${section%:*}=$folder/${section#*:}" --change-section-vma ".${section%:*}=$end")
        end=$((end + $(stat -c %s "$folder/${section#*:}")))
    done
    objcopy "${options[@]}" "$folder/linuxx64.efi.stub" "$folder/boot.efi.new"
    mv "$folder/boot.efi.new" "$folder/boot.efi"
    rm "$folder"/{cmdline,kernel,initrd}
}

fetch_nfs() {
    fetch_cloud_kernel nfs virtio_pci virtio_net nfsv4
    unpack_programs nfs nfs-ganesha nfs-ganesha-mem
    cp "$CACHE/nfs/root/usr/bin/ganesha.nfsd" "$CACHE/nfs/bin/"
}

# moves_device_state PROGRAM: it does so for network devices since QEMU 10.
moves_device_state() {
    local version
    version=$("$1" --version 2>/dev/null | sed -nE '1s/.*version ([0-9]+)\..*/\1/p')
    [ "${version:-0}" -ge 10 ]
}

fetch_peer() {
    local folder=$CACHE/peer
    unpack unstable peer passt libc6
    cp "$folder"/root/usr/bin/{passt,passt.avx2,passt-repair,pesto} "$folder/"
    use_loader "$folder" "$folder"/{passt,passt.avx2,passt-repair,pesto}
}

fetch_dhclient() {
    local folder=$CACHE/dhclient
    unpack trixie dhclient isc-dhcp-client
    cp "$folder"/root/{,usr/}sbin/dhclient "$folder/" 2>/dev/null || [ -x "$folder/dhclient" ]
}

# Compilers of policies, which nobody needs for anything else.
fetch_policies() {
    local folder=$CACHE/policies
    unpack installed policies apparmor checkpolicy
    cp "$folder"/root/usr/bin/checkmodule "$folder/"
    cp "$folder"/root/{,usr/}sbin/apparmor_parser "$folder/" 2>/dev/null || [ -x "$folder/apparmor_parser" ]
    cp -r "$folder/root/etc/apparmor.d" "$folder/"
}

# unpack_programs PART PACKAGE...: packages, and the libraries that they need but the C library, in the part's folder
# `lib`. Programs are started from the cache with these, and no service of theirs is started on the machine.
unpack_programs() {
    local part=$1 folder=$CACHE/$1 names packages
    shift
    names=$(IFS='|' && echo "$*")
    use_suite installed
    apt_logged update
    apt-get -qq "${OPTIONS[@]}" --no-install-recommends install --print-uris "$@" >"$APT/uris"
    mapfile -t packages < <(awk '{ sub(/_.*/, "", $2); print $2 }' "$APT/uris" | grep -E "^(lib.*|zlib.*|$names)\$" |
        grep -vE '^lib(c6|perl.*|.*-perl|pam-.*|dbus.*-common|.*-common)$')
    mkdir -p "$APT/packages/$part"
    (cd "$APT/packages/$part" && apt_logged download "${packages[@]}")
    unpack installed "$part" "${packages[@]}"
    mkdir -p "$folder"/{bin,lib}
    find "$folder/root" -path '*/lib/*' \( -name '*.so' -o -name '*.so.*' \) ! -path '*/NetworkManager/*' ! -path '*/perl*' -exec cp -P {} "$folder/lib/" \;
}

fetch_clients() {
    local folder=$CACHE/clients
    unpack_programs clients systemd network-manager avahi-daemon avahi-utils dbus-daemon
    local program
    for program in systemd-networkd NetworkManager dbus-daemon avahi-daemon avahi-browse avahi-publish; do
        find "$folder/root" \( -path "*bin/$program" -o -path "*/systemd/$program" \) -type f -exec cp {} "$folder/bin/" \;
        [ -x "$folder/bin/$program" ] || { warn "the packages have no $program"; return 1; }
    done
    ln -s avahi-publish "$folder/bin/avahi-publish-service"
}

# fetch PART: does nothing if the part is complete. Packages are kept until it is.
fetch() {
    local folder=$CACHE/$1
    # What was fetched before may lack a program that tests want now.
    [ "$1" != peer ] || [ -e "$folder/pesto" ] || rm -f "$folder/complete"
    [ "$1" != uml ] || [ -e "$folder/hosts" ] || rm -f "$folder/complete"
    [ "$1" != clients ] || [ -e "$folder/bin/avahi-daemon" ] || rm -f "$folder/complete"
    [ -e "$folder/complete" ] && return 0
    say "fetching $1"
    rm -rf "$folder"
    mkdir -p "$folder/root"
    local status
    set +e
    (set -e && "fetch_$1")
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        warn "cannot make '$1': the reason is above; what was fetched is kept in $APT/packages"
        return 1
    fi
    rm -rf "$folder/root" "$APT/packages/$1"
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

# Sourced for its functions, by their tests.
[ "${BASH_SOURCE[0]}" = "$0" ] || return 0
need_folders
mkdir -p "$APT"
need patchelf=patchelf cpio=cpio depmod=kmod xz=xz-utils zstd=zstd
need_cargo
for part in "$@"; do
    case $part in
    uml | qemu | nfs)
        [ "$part" = uml ] || need qemu-system-x86_64=qemu-system-x86
        fetch busybox
        fetch "$part"
        build_nettool
        build_image "$part"
        ;;
    migrate) need qemu-system-x86_64=qemu-system-x86 && fetch migrate ;;
    libvirt) fetch libvirt ;;
    ovmf)
        need objcopy=binutils dnsmasq=dnsmasq-base
        fetch ovmf
        build_boot_file
        ;;
    busybox | peer | clients | dhclient | policies) fetch "$part" ;;
    *) die "unknown part '$part'" ;;
    esac
done
