# shellcheck shell=bash
# A guest that libvirt moves between two hosts: on each a libvirtd of an ordinary user's, which starts this program and an
# emulator by itself. The switch and what is behind it are those of migrate.sh.
#
# Source it after migrate.sh, whose `hop` comes here.

# shellcheck disable=SC2153,SC2154 # world.sh has the names that are not set here

LIBVIRT=/run/guests/libvirt
DOMAIN=guest
QEMU_MODULES=/usr/lib/x86_64-linux-gnu/qemu

# What libvirt makes on a host, where it is reached, and where it has this program put its sockets.
libvirt_folder() { echo "$WORLD/libvirt-$1"; }
libvirt_uri() { echo "qemu+unix:///session?socket=$(libvirt_folder "$1")/libvirt/libvirt-sock"; }
passt_folder() { echo "$(libvirt_folder "$1")/libvirt/qemu/run/passt"; }

# virsh_at HOST COMMAND...
virsh_at() {
    local HOST=$1
    (become_user "$LIBVIRT/bin/virsh" -q -c "$(libvirt_uri "$1")" "${@:2}") 2>&1
}

# start_libvirtd HOST NUMBER: of two that move guests to each other, neither may have the other's name or id.
start_libvirtd() {
    local folder HOST=$1
    folder=$(libvirt_folder "$1")
    mkdir -p "$folder/config/libvirt" "$(passt_folder "$1")"
    printf 'host_uuid = "00000000-0000-4000-8000-00000000000%s"\n' "$2" >"$folder/config/libvirt/libvirtd.conf"
    # A sparse image needs no helper of libvirt's, whose path stands in it.
    printf '%s = "%s"\n' stdio_handler file security_driver none save_image_format sparse >"$folder/config/libvirt/qemu.conf"
    [ "$PASST_WORLD_UID" -ne 0 ] || chown -R "$ORDINARY:$ORDINARY" "$folder"
    (
        become_one
        # shellcheck disable=SC2016 # the new shell expands these
        exec unshare --uts sh -c 'hostname "$1" && shift && exec "$@"' - "$1.example.test" "${AS_USER[@]}" \
            env PATH="/run/bin:$PATH" XDG_RUNTIME_DIR="$folder" XDG_CONFIG_HOME="$folder/config" \
            XDG_CACHE_HOME="$folder/cache" LIBVIRT_DRIVER_DIR="$LIBVIRT/drivers" "$LIBVIRT/bin/libvirtd"
    ) >"$LOGS/libvirtd.$1.log" 2>&1 &
    until_true 20 test -S "$folder/libvirt/libvirt-sock"
    virsh_at "$1" uri >/dev/null
}

# domain: what libvirt is told of the guest.
domain() {
    cat <<END
<domain type='qemu'>
  <name>$DOMAIN</name>
  <uuid>11111111-1111-4111-8111-111111111111</uuid>
  <memory unit='MiB'>512</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/run/guests/qemu/linux</kernel>
    <initrd>/run/guests/qemu/initramfs</initrd>
    <cmdline>$GUEST_COMMAND_LINE</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>$LIBVIRT/bin/qemu</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='pipe'><source path='$WORLD/console'/></serial>
    <interface type='vhostuser'>
      <mac address='52:54:00:12:34:56'/>
      <backend type='passt'/>
      <model type='virtio'/>
      <rom enabled='no'/>
      <portForward proto='tcp'><range start='7001'/></portForward>
      <portForward proto='udp'><range start='7001'/></portForward>
    </interface>
  </devices>
</domain>
END
}

# start_domain: returns when the guest's agent answers.
start_domain() {
    # What libvirt has no other word for; and modules of another QEMU, of which the one from the cache dies.
    mount --bind "$CACHE/libvirt/share" /usr/share
    [ ! -d "$QEMU_MODULES" ] || mount -t tmpfs tmpfs "$QEMU_MODULES"
    start_libvirtd host 1 && start_libvirtd host2 2 || return 1
    at_host host
    disconnect host2
    # The emulator opens them by itself.
    [ "$PASST_WORLD_UID" -ne 0 ] || chown "$ORDINARY:$ORDINARY" "$WORLD"/console.{in,out}
    domain >"$WORLD/domain.xml"
    virsh_at host create "$WORLD/domain.xml" || return 1
    take_domain
    await_marker 90 ready >/dev/null
}

# take_domain: the guest is here now.
take_domain() {
    echo "$HOST" >"$WORLD/guest.host"
    cp "$(libvirt_folder "$HOST")/libvirt/qemu/run/$DOMAIN.pid" "$WORLD/guest.job"
}

# Nothing is left of the program where the guest has been.
gone_from() { [ -z "$(ls -A "$(passt_folder "$1")")" ]; }

# hop_domain: as migrate.sh's hop, by libvirt.
hop_domain() {
    local from=$HOST to
    to=$(other_host)
    [ -z "${HELPED:-}" ] || help_domain "$from" "$to"
    connect "$to"
    virsh_at "$from" migrate --live "$DOMAIN" "$(libvirt_uri "$to")" --migrateuri "unix://$WORLD/hop.sock"
    disconnect "$from"
    at_host "$to"
    take_domain
    DOWNTIME=$(virsh_at "$to" domjobinfo "$DOMAIN" --completed --keep-completed | awk '/^Total downtime:/ { print $3 }')
    echo "the guest stood still for $DOWNTIME ms"
    until_true 10 gone_from "$from"
}

# help_domain FROM TO: the helpers, as KubeVirt starts them: where the guest is, by the socket's name, and where it comes to,
# before there is one.
help_domain() {
    in_net "$1" "${HELPERS[$1]}" "$(passt_folder "$1")"/*.repair >>"$LOGS/repair.log" 2>&1 &
    in_net "$2" "${HELPERS[$2]}" "$(passt_folder "$2")" >>"$LOGS/repair.log" 2>&1 &
}

case_libvirt_moves() {
    network_works 161
    same_addresses_after hop
    network_works 162
}

# There and back.
case_libvirt_carries() {
    start_carrying
    carry_along 2
}

case_libvirt_saves() {
    same_addresses_after save_domain
    network_works 163
}
save_domain() {
    virsh_at "$HOST" save "$DOMAIN" "$WORLD/state"
    until_true 10 gone_from "$HOST"
    virsh_at "$HOST" restore "$WORLD/state"
    take_domain
    rm "$WORLD/state"
}
