complete -c passt -s P -l pid -d 'Write the process id to this file' -r -F
complete -c passt -l runas -d 'User to become when started as root, optionally with :GROUP, by name or number; default: nobody' -r -f -a "(__fish_complete_users)"
complete -c passt -s l -l log-file -d 'Log to this file instead of the system log' -r -F
complete -c passt -l log-size -d 'Largest size of the log file; default: 1048576' -r -f
complete -c passt -l stats -d 'Print event counters, at most once in SECONDS; needs --foreground' -r -f
complete -c passt -s p -l pcap -d 'Record the guest\'s frames in this file, in pcap format' -r -F
complete -c passt -s c -l conf-path -d 'Socket on which pesto changes forwarded ports while the program runs' -r -F
complete -c passt -l control -d 'Socket to ask what goes on and to change it, by pesto or with JSON; default mode: 600' -r -F
complete -c passt -l control-ro -d 'The same, to ask only' -r -F
complete -c passt -s s -l socket -l socket-path -d 'UNIX socket to listen on; default: the first free one of /tmp/passt_1.socket and on' -r -F
complete -c passt -s F -l fd -d 'Descriptor of a connected socket to use instead; implies --one-off' -r -f
complete -c passt -l repair-path -d 'Socket of the migration helper, or none; default: the name of --socket, and .repair' -r -F
complete -c passt -s i -l interface -d 'Interface to take addresses and routes from; default: that of the first default route' -r -f -a "(__fish_print_interfaces)"
complete -c passt -s a -l address -d 'Address of the guest, once for IPv4 and once for IPv6; default: as on the interface' -r -f
complete -c passt -s n -l netmask -d 'IPv4 mask of --address, dotted or as prefix length; default: by the address class' -r -f
complete -c passt -s g -l gateway -d 'Gateway of the guest, once for IPv4 and once for IPv6; default: as on the interface' -r -f
complete -c passt -s M -l mac-addr -d 'Our own MAC address, as the guest sees it; default: 9a:55:9a:55:9a:55' -r -f
complete -c passt -s m -l mtu -d 'MTU of the guest; 0: do not say; default: 65520' -r -f
complete -c passt -s H -l hostname -d 'Host name to hand out by DHCP; default: none' -r -f
complete -c passt -l fqdn -d 'Fully qualified name to hand out by DHCP; default: none' -r -f
complete -c passt -s D -l dns -d 'Name server of the guest, or none; up to three for IPv4 and for IPv6; default: those of /etc/resolv.conf' -r -f
complete -c passt -l dns-forward -d 'Address at which the guest reaches the name server of --dns-host; default: none, unless it is on the host itself' -r -f
complete -c passt -l dns-host -d 'Name server to forward such queries to, an address or a name, or none; default: the first of /etc/resolv.conf' -r -f
complete -c passt -s S -l search -d 'Search list of the guest, or none; default: that of /etc/resolv.conf' -r -f
complete -c passt -l multicast-ports -d 'UDP ports of all groups that the guest joins, besides those of mDNS, SSDP, WS-Discovery, LLMNR and those it sends to' -r -f
complete -c passt -l dhcp-boot -d 'File that the guest is told by DHCP to boot from, on SERVER or, without it, on this host' -r -f
complete -c passt -l dhcp-option -d 'Option to hand out by DHCP, besides or in place of the usual ones; may be repeated' -r -f
complete -c passt -l dhcpv6-option -d 'The same for DHCPv6' -r -f
complete -c passt -l ra-option -d 'The same for router advertisements' -r -f
complete -c passt -s o -l outbound -d 'Source address of outbound sockets, once for IPv4 and once for IPv6; default: by routing' -r -f
complete -c passt -l outbound-if4 -d 'Interface that outbound IPv4 sockets are bound to; default: none' -r -f -a "(__fish_print_interfaces)"
complete -c passt -l outbound-if6 -d 'Interface that outbound IPv6 sockets are bound to; default: none' -r -f -a "(__fish_print_interfaces)"
complete -c passt -l wait-for-network -d 'Start when the host has a default route, or after SECONDS without; default: start at once' -r -f
complete -c passt -l map-host-loopback -d 'Address at which the guest reaches the host\'s loopback address, or none; default: the gateway' -r -f
complete -c passt -l map-guest-addr -d 'Address at which the guest reaches the host\'s copy of its own address; default: none' -r -f
complete -c passt -l egress -d 'What the guest may reach: allow, reject or drop, [tcp, udp or icmp,] DESTINATION[:PORTS]; the first that matches counts, and none rejects; default: all' -r -f
complete -c passt -l egress-file -d 'Read such rules from a file, one a line' -r -F
complete -c passt -s t -l tcp-ports -d 'TCP ports that lead to the guest; can be given several times; default: none' -r -f
complete -c passt -s u -l udp-ports -d 'UDP ports that lead to the guest, likewise' -r -f
complete -c passt -s h -l help -d 'Print this help and exit'
complete -c passt -l version -d 'Print version and licence, exit'
complete -c passt -l print-capabilities -d 'Print what the vhost-user back-end is, as JSON, and exit'
complete -c passt -l check -d 'Print what this machine allows, and what it lacks'
complete -c passt -l json -d 'Print what --check finds as JSON'
complete -c passt -s f -l foreground -d 'Stay in the foreground; default: go to the background once everything is ready'
complete -c passt -l notify -d 'Tell the service manager in $NOTIFY_SOCKET when everything is ready'
complete -c passt -l chroot-fallback -d 'Isolate with chroot where pivot_root does not work, as on an initramfs'
complete -c passt -s q -l quiet -d 'Print warnings and errors only'
complete -c passt -s d -l debug -d 'Tell of each flow, on standard error'
complete -c passt -l trace -d 'Tell of each packet, too'
complete -c passt -s e -l stderr -d 'No effect: messages go to standard error as long as it is there (deprecated)'
complete -c passt -l vhost-user -d 'Share memory with the virtual machine by vhost-user, under whatever name'
complete -c passt -s 1 -l one-off -d 'End when the first client disconnects'
complete -c passt -l migrate-exit -d 'End when the guest has moved away (deprecated)'
complete -c passt -l migrate-no-linger -d 'Close sockets when the guest has moved away (deprecated)'
complete -c passt -s 4 -l ipv4-only -d 'No IPv6'
complete -c passt -s 6 -l ipv6-only -d 'No IPv4'
complete -c passt -l no-dhcp-dns -d 'Hand out no name servers by DHCP, DHCPv6 and NDP'
complete -c passt -l no-dhcp-search -d 'Hand out no search list by DHCP, DHCPv6 and NDP'
complete -c passt -l no-tcp -d 'Forward no TCP'
complete -c passt -l no-udp -d 'Forward no UDP'
complete -c passt -l no-icmp -d 'Forward no ICMP and ICMPv6; implies --no-ndp'
complete -c passt -l no-multicast -d 'Forward nothing that is for many: no multicast, no broadcasts, no IGMP, no MLD'
complete -c passt -l no-dhcp -d 'No DHCP server'
complete -c passt -l no-dhcpv6 -d 'No DHCPv6 server'
complete -c passt -l no-ndp -d 'No answers to neighbor and router solicitations'
complete -c passt -l no-ra -d 'No router advertisements'
complete -c passt -l no-follow-host -d 'What the host\'s network and resolv.conf are at start is what the guest is told for ever'
complete -c passt -l no-map-gw -d 'The gateway does not lead to the host\'s loopback address'
complete -c passt -l isolate -d 'The guest reaches the internet and its name servers, and nothing of this host and its networks'
complete -c passt -l freebind -d 'Listen on addresses that the host does not have (yet), too'
complete -c passt -l no-splice -d 'No effect: only pasta has something to splice'
