# Prints the command's words up to the cursor; false if it does not begin before the word to complete.
function __fish_pasta_command
    set -l words (commandline -opc)[2..]
    while set -q words[1]
        switch $words[1]
            case --
                string join0 -- $words[2..] (commandline -ct)
                return 0
            case -P -l -p -c -F -I -i -a -n -g -M -m -H -D -S -o -t -u -T -U --pid --runas --log-file --log-size --stats --pcap --conf-path --control --control-ro --fd --netns --userns --ns-ifname --ns-mac-addr --interface --address --netmask --gateway --mac-addr --mtu --hostname --fqdn --dns --dns-forward --dns-host --search --multicast-ports --dhcp-boot --dhcp-option --dhcpv6-option --ra-option --outbound --outbound-if4 --outbound-if6 --wait-for-network --map-host-loopback --map-guest-addr --egress --egress-file --tcp-ports --udp-ports --tcp-ns --udp-ns
                set words $words[2..]
            case '-*'
            case '*'
                string join0 -- $words (commandline -ct)
                return 0
        end
        set words $words[2..]
    end
    string join0 -- (commandline -ct)
    return 1
end

function __fish_pasta_has_no_command
    not __fish_pasta_command >/dev/null
end

function __fish_pasta_complete_command
    set -l words (__fish_pasta_command | string split0)
    string match -q -- '-*' $words[1]
    or __fish_complete_subcommand --commandline $words
end

complete -c pasta -n __fish_pasta_has_no_command -s P -l pid -d 'Write the process id to this file' -r -F
complete -c pasta -n __fish_pasta_has_no_command -l runas -d 'User to become when started as root, optionally with :GROUP, by name or number; default: nobody' -r -f -a "(__fish_complete_users)"
complete -c pasta -n __fish_pasta_has_no_command -s l -l log-file -d 'Log to this file instead of the system log' -r -F
complete -c pasta -n __fish_pasta_has_no_command -l log-size -d 'Largest size of the log file; default: 1048576' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l stats -d 'Print event counters, at most once in SECONDS; needs --foreground' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s p -l pcap -d 'Record the guest\'s frames in this file, in pcap format' -r -F
complete -c pasta -n __fish_pasta_has_no_command -s c -l conf-path -d 'Socket on which pesto changes forwarded ports while the program runs' -r -F
complete -c pasta -n __fish_pasta_has_no_command -l control -d 'Socket to ask what goes on and to change it, by pesto or with JSON; default mode: 600' -r -F
complete -c pasta -n __fish_pasta_has_no_command -l control-ro -d 'The same, to ask only' -r -F
complete -c pasta -n __fish_pasta_has_no_command -s F -l fd -d 'Descriptor of an open tap device to use instead of a new one' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l netns -d 'Network namespace to join: a path, or a name in /run/netns' -r -f -a "(if string match -q '*/*' -- (commandline -ct); __fish_complete_path (commandline -ct); else; command ls /run/netns 2>/dev/null; end)"
complete -c pasta -n __fish_pasta_has_no_command -l userns -d 'User namespace to join; default: that of PID, or a new one for COMMAND' -r -F
complete -c pasta -n __fish_pasta_has_no_command -s I -l ns-ifname -d 'Name of the tap device; default: that of the template interface, or tap0' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l ns-mac-addr -d 'MAC address of the tap device; default: the kernel\'s choice' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s i -l interface -d 'Interface to take addresses and routes from; default: that of the first default route' -r -f -a "(__fish_print_interfaces)"
complete -c pasta -n __fish_pasta_has_no_command -s a -l address -d 'Address of the guest, once for IPv4 and once for IPv6; default: as on the interface' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s n -l netmask -d 'IPv4 mask of --address, dotted or as prefix length; default: by the address class' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s g -l gateway -d 'Gateway of the guest, once for IPv4 and once for IPv6; default: as on the interface' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s M -l mac-addr -d 'Our own MAC address, as the guest sees it; default: 9a:55:9a:55:9a:55' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s m -l mtu -d 'MTU of the guest; 0: do not say; default: 65520' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s H -l hostname -d 'Host name of COMMAND, by default pasta- and the host\'s, and to hand out by DHCP' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l fqdn -d 'Fully qualified name to hand out by DHCP; default: none' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s D -l dns -d 'Name server of the guest, or none; up to three for IPv4 and for IPv6; default: those of /etc/resolv.conf' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l dns-forward -d 'Address at which the guest reaches the name server of --dns-host; default: none, unless it is on the host itself' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l dns-host -d 'Name server to forward such queries to, an address or a name, or none; default: the first of /etc/resolv.conf' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s S -l search -d 'Search list of the guest, or none; default: that of /etc/resolv.conf' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l multicast-ports -d 'UDP ports of all groups that the guest joins, besides those of mDNS, SSDP, WS-Discovery, LLMNR and those it sends to' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l dhcp-boot -d 'File that the guest is told by DHCP to boot from, on SERVER or, without it, on this host' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l dhcp-option -d 'Option to hand out by DHCP, besides or in place of the usual ones; may be repeated' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l dhcpv6-option -d 'The same for DHCPv6' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l ra-option -d 'The same for router advertisements' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s o -l outbound -d 'Source address of outbound sockets, once for IPv4 and once for IPv6; default: by routing' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l outbound-if4 -d 'Interface that outbound IPv4 sockets are bound to; default: none' -r -f -a "(__fish_print_interfaces)"
complete -c pasta -n __fish_pasta_has_no_command -l outbound-if6 -d 'Interface that outbound IPv6 sockets are bound to; default: none' -r -f -a "(__fish_print_interfaces)"
complete -c pasta -n __fish_pasta_has_no_command -l wait-for-network -d 'Start when the host has a default route, or after SECONDS without; default: start at once' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l map-host-loopback -d 'Address at which the guest reaches the host\'s loopback address, or none; default: the gateway' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l map-guest-addr -d 'Address at which the guest reaches the host\'s copy of its own address; default: none' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l egress -d 'What the guest may reach: allow, reject or drop, [tcp, udp or icmp,] DESTINATION[:PORTS]; the first that matches counts, and none rejects; default: all' -r -f
complete -c pasta -n __fish_pasta_has_no_command -l egress-file -d 'Read such rules from a file, one a line' -r -F
complete -c pasta -n __fish_pasta_has_no_command -s t -l tcp-ports -d 'TCP ports that lead into the namespace; can be given several times; default: auto' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s u -l udp-ports -d 'UDP ports that lead into the namespace, likewise' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s T -l tcp-ns -d 'TCP ports of the namespace\'s loopback interface that lead to the host\'s; SPEC without addresses; default: auto' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s U -l udp-ns -d 'UDP ports of the namespace\'s loopback interface, likewise' -r -f
complete -c pasta -n __fish_pasta_has_no_command -s h -l help -d 'Print this help and exit'
complete -c pasta -n __fish_pasta_has_no_command -l version -d 'Print version and licence, exit'
complete -c pasta -n __fish_pasta_has_no_command -l print-capabilities -d 'Print what the vhost-user back-end is, as JSON, and exit'
complete -c pasta -n __fish_pasta_has_no_command -l check -d 'Print what this machine allows, and what it lacks'
complete -c pasta -n __fish_pasta_has_no_command -l json -d 'Print what --check finds as JSON'
complete -c pasta -n __fish_pasta_has_no_command -s f -l foreground -d 'Stay in the foreground; default: go to the background once everything is ready'
complete -c pasta -n __fish_pasta_has_no_command -l notify -d 'Tell the service manager in $NOTIFY_SOCKET when everything is ready'
complete -c pasta -n __fish_pasta_has_no_command -l chroot-fallback -d 'Isolate with chroot where pivot_root does not work, as on an initramfs'
complete -c pasta -n __fish_pasta_has_no_command -s q -l quiet -d 'Print warnings and errors only'
complete -c pasta -n __fish_pasta_has_no_command -s d -l debug -d 'Tell of each flow, on standard error'
complete -c pasta -n __fish_pasta_has_no_command -l trace -d 'Tell of each packet, too'
complete -c pasta -n __fish_pasta_has_no_command -s e -l stderr -d 'No effect: messages go to standard error as long as it is there (deprecated)'
complete -c pasta -n __fish_pasta_has_no_command -l netns-only -d 'Neither join nor create a user namespace'
complete -c pasta -n __fish_pasta_has_no_command -l no-netns-quit -d 'Go on when the network namespace is gone'
complete -c pasta -n __fish_pasta_has_no_command -l no-pidns -d 'Leave COMMAND in the current PID namespace'
complete -c pasta -n __fish_pasta_has_no_command -l config-net -d 'Set the tap device up, with addresses and routes; implies --no-ra'
complete -c pasta -n __fish_pasta_has_no_command -l no-copy-routes -d 'With --config-net, set just a default route (deprecated: use --gateway)'
complete -c pasta -n __fish_pasta_has_no_command -l no-copy-addrs -d 'With --config-net, set just one address (deprecated: use --address)'
complete -c pasta -n __fish_pasta_has_no_command -s 4 -l ipv4-only -d 'No IPv6'
complete -c pasta -n __fish_pasta_has_no_command -s 6 -l ipv6-only -d 'No IPv4'
complete -c pasta -n __fish_pasta_has_no_command -l dhcp-dns -d 'Hand out name servers by DHCP, DHCPv6 and NDP'
complete -c pasta -n __fish_pasta_has_no_command -l dhcp-search -d 'Hand out a search list by DHCP, DHCPv6 and NDP'
complete -c pasta -n __fish_pasta_has_no_command -l no-tcp -d 'Forward no TCP'
complete -c pasta -n __fish_pasta_has_no_command -l no-udp -d 'Forward no UDP'
complete -c pasta -n __fish_pasta_has_no_command -l no-icmp -d 'Forward no ICMP and ICMPv6; implies --no-ndp'
complete -c pasta -n __fish_pasta_has_no_command -l no-multicast -d 'Forward nothing that is for many: no multicast, no broadcasts, no IGMP, no MLD'
complete -c pasta -n __fish_pasta_has_no_command -l no-dhcp -d 'No DHCP server'
complete -c pasta -n __fish_pasta_has_no_command -l no-dhcpv6 -d 'No DHCPv6 server'
complete -c pasta -n __fish_pasta_has_no_command -l no-ndp -d 'No answers to neighbor and router solicitations'
complete -c pasta -n __fish_pasta_has_no_command -l no-ra -d 'No router advertisements'
complete -c pasta -n __fish_pasta_has_no_command -l no-follow-host -d 'What the host\'s network and resolv.conf are at start is what the guest is told for ever'
complete -c pasta -n __fish_pasta_has_no_command -l no-map-gw -d 'The gateway does not lead to the host\'s loopback address'
complete -c pasta -n __fish_pasta_has_no_command -l isolate -d 'The guest reaches the internet and its name servers, and nothing of this host and its networks'
complete -c pasta -n __fish_pasta_has_no_command -l freebind -d 'Listen on addresses that the host does not have (yet), too'
complete -c pasta -n __fish_pasta_has_no_command -l host-lo-to-ns-lo -d 'Connections to the host\'s loopback address reach the namespace\'s, not its tap device'
complete -c pasta -n __fish_pasta_has_no_command -l no-splice -d 'Connections from the host\'s loopback interface take the tap device, too'
complete -c pasta -n __fish_pasta_has_no_command -l splice-only -d 'No tap device: forward between the loopback interfaces only'
complete -c pasta -f -a "(__fish_pasta_complete_command)"
