# shellcheck shell=bash
# Guests that get their kernel from the network: what firmware is told by DHCP (--dhcp-boot), what it loads over the
# device, and that Linux finds a working device after it. Firmware speaks the interface from before virtio 1.0.
#
# Cases are as in cases.sh, where their list is. The server outside has TFTP (dnsmasq) and HTTP.

# shellcheck disable=SC2034 # used by the script that sources this file
BOOT_FILE=(--dhcp-boot "boot.efi,$SERVER4")

# Of the server that firmware boots from by HTTP.
BOOT_PORT=8080

# serve_boot_files: TFTP, HTTP for firmware, and what HTTP has is added to the file of start_servers.
serve_boot_files() {
    BOOT_S=180
    ln /run/guests/ovmf/boot.efi "$WORLD/www/" 2>/dev/null || cp /run/guests/ovmf/boot.efi "$WORLD/www/"
    cp /run/guests/qemu/{linux,initramfs} "$WORLD/www/"
    cat >"$WORLD/www/start.ipxe" <<END
#!ipxe
kernel http://$SERVER4/linux initrd=initramfs $GUEST_COMMAND_LINE
initrd http://$SERVER4/initramfs
boot
END
    # busybox's server sends a body after HEAD, too, and OVMF takes it for the image's begin now and then.
    in_net outside /run/bin/nettool http "$SERVER4:$BOOT_PORT" "$WORLD/www/boot.efi" >"$LOGS/boot.log" 2>&1 &
    # With --no-daemon it stays who it is: root of a user namespace may not change its groups.
    in_net outside dnsmasq --no-daemon --conf-file=/dev/null --pid-file= --port=0 \
        --listen-address="$SERVER4" --bind-interfaces --enable-tftp --tftp-root="$WORLD/www" --log-facility=- \
        >"$LOGS/tftp.log" 2>&1 &
    until_true 10 grep -q 'TFTP root is' "$LOGS/tftp.log" && until_true 10 grep -q ready "$LOGS/boot.log"
}

# boot_anew KIND OPTION...: another guest, and the program with these options.
boot_anew() {
    stop_guest
    kill -TERM "$(cat "$WORLD/$SIDE.pid")"
    until_true 10 test -s "$WORLD/$SIDE.status"
    mv "$LOGS/console.log" "$LOGS/console.log.before-$1"
    start_passt "${FORWARDS[@]}" --stats 1 "${@:2}"
    start_guest "$1"
}

# The kernel has come by way of the program, over the connection of a front-end that has not come back, and has the newer
# interface: feature bit 32.
was_booted() {
    local bits
    same "$(grep -c 'front-end connected' "$LOGS/passt.log")" "$1"
    bits=$(guest 5 'cat /sys/bus/virtio/devices/virtio0/features')
    same "${bits:32:1}" 1
}

case_uefi_booted_by_tftp() {
    was_booted 1
    grep -a 'Server IP address is' "$LOGS/console.log" | tail -n 1 | grep -F "$SERVER4"
    grep -aF 'NBP filename is boot.efi' "$LOGS/console.log"
    grep -aF 'NBP file downloaded successfully' "$LOGS/console.log"
    grep -F "sent $WORLD/www/boot.efi to $HOST4" "$LOGS/tftp.log"
}

case_uefi_boots_by_http() {
    # Firmware that cannot start what it has downloaded says no more than that: the capture tells what it was given.
    boot_anew qemu-ovmf --dhcp-boot "http://$SERVER4:$BOOT_PORT/boot.efi" --pcap "$WORLD/http.pcap" ||
        { cp "$WORLD/http.pcap" "$WORLD/www/boot.efi" "$LOGS/"; return 1; }
    was_booted 2
    grep -aF "URI: http://$SERVER4:$BOOT_PORT/boot.efi" "$LOGS/console.log"
    case_dhcp_lease
    case_http_v4
}

case_ipxe_boots_by_tftp_and_http() {
    boot_anew qemu-ipxe --dhcp-boot "start.ipxe,$SERVER4"
    was_booted 3
    grep -F "sent $WORLD/www/start.ipxe to $HOST4" "$LOGS/tftp.log"
    case_dhcp_lease
    case_http_v4
}
