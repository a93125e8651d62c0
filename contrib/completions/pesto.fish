# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_pesto_global_optspecs
    string join \n A/add D/delete C/clear= t/tcp-ports= u/udp-ports= T/tcp-ns= U/udp-ns= s/show d/debug h/help version
end

function __fish_pesto_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_pesto_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_pesto_using_subcommand
    set -l cmd (__fish_pesto_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c pesto -n "__fish_pesto_needs_command" -s C -l clear -d 'Forward no ports of a table: HOST or SPLICE' -r -f
complete -c pesto -n "__fish_pesto_needs_command" -s t -l tcp-ports -d 'TCP ports of the host that lead to the guest' -r -f
complete -c pesto -n "__fish_pesto_needs_command" -s u -l udp-ports -d 'UDP ports of the host that lead to the guest' -r -f
complete -c pesto -n "__fish_pesto_needs_command" -s T -l tcp-ns -d 'TCP ports of the namespace that lead to the host' -r -f
complete -c pesto -n "__fish_pesto_needs_command" -s U -l udp-ns -d 'UDP ports of the namespace that lead to the host' -r -f
complete -c pesto -n "__fish_pesto_needs_command" -s A -l add -d 'Add the ports of the options behind this one'
complete -c pesto -n "__fish_pesto_needs_command" -s D -l delete -d 'Delete the ports of the options behind this one; each must be as it was given'
complete -c pesto -n "__fish_pesto_needs_command" -s s -l show -d 'Show the rules before and after the change'
complete -c pesto -n "__fish_pesto_needs_command" -s d -l debug -d 'Tell what happens, on standard error'
complete -c pesto -n "__fish_pesto_needs_command" -s h -l help -d 'Print this text'
complete -c pesto -n "__fish_pesto_needs_command" -l version -d 'Print the version'
complete -c pesto -n "__fish_pesto_needs_command" -a "status" -d 'Show the program, and what its guest is told'
complete -c pesto -n "__fish_pesto_needs_command" -a "stats" -d 'Show all counters that are not 0'
complete -c pesto -n "__fish_pesto_needs_command" -a "metrics" -d 'Print all counters as OpenMetrics text'
complete -c pesto -n "__fish_pesto_needs_command" -a "flows" -d 'List flows'
complete -c pesto -n "__fish_pesto_needs_command" -a "flow-reset" -d 'End a flow'
complete -c pesto -n "__fish_pesto_needs_command" -a "rules" -d 'List forwarding rules'
complete -c pesto -n "__fish_pesto_needs_command" -a "rules-add" -d 'Add forwarding rules'
complete -c pesto -n "__fish_pesto_needs_command" -a "rules-delete" -d 'Remove forwarding rules'
complete -c pesto -n "__fish_pesto_needs_command" -a "rules-replace" -d 'Put other forwarding rules in place of all'
complete -c pesto -n "__fish_pesto_needs_command" -a "egress" -d 'List what the guest may reach, and how often each rule has decided'
complete -c pesto -n "__fish_pesto_needs_command" -a "egress-replace" -d 'Put another egress policy in force'
complete -c pesto -n "__fish_pesto_needs_command" -a "watch" -d 'Print what happens, one line of JSON an event'
complete -c pesto -n "__fish_pesto_needs_command" -a "log" -d 'Show or set the level of the log'
complete -c pesto -n "__fish_pesto_needs_command" -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pesto -n "__fish_pesto_using_subcommand status" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand stats" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand stats" -l all -d 'Show counters that are 0, too'
complete -c pesto -n "__fish_pesto_using_subcommand metrics" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand flows" -l proto -d 'Only tcp, udp or icmp' -r
complete -c pesto -n "__fish_pesto_using_subcommand flows" -l address -d 'Only where some address is in this network' -r
complete -c pesto -n "__fish_pesto_using_subcommand flows" -l port -d 'Only where some port is this one' -r
complete -c pesto -n "__fish_pesto_using_subcommand flows" -l state -d 'Only in this state' -r
complete -c pesto -n "__fish_pesto_using_subcommand flows" -l min-age -d 'Only those that are older' -r
complete -c pesto -n "__fish_pesto_using_subcommand flows" -l min-idle -d 'Only those that were silent for longer' -r
complete -c pesto -n "__fish_pesto_using_subcommand flows" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand flow-reset" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand rules" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand rules-add" -s t -l tcp-ports -d 'TCP ports that lead to the guest' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-add" -s u -l udp-ports -d 'UDP ports that lead to the guest' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-add" -s T -l tcp-ns -d 'TCP ports that lead to the host' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-add" -s U -l udp-ns -d 'UDP ports that lead to the host' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-add" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand rules-delete" -s t -l tcp-ports -d 'TCP ports that lead to the guest' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-delete" -s u -l udp-ports -d 'UDP ports that lead to the guest' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-delete" -s T -l tcp-ns -d 'TCP ports that lead to the host' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-delete" -s U -l udp-ns -d 'UDP ports that lead to the host' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-delete" -l rule -d 'The rule with this number' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-delete" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand rules-delete" -l to-host -d 'One of those that lead to the host'
complete -c pesto -n "__fish_pesto_using_subcommand rules-replace" -s t -l tcp-ports -d 'TCP ports that lead to the guest' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-replace" -s u -l udp-ports -d 'UDP ports that lead to the guest' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-replace" -s T -l tcp-ns -d 'TCP ports that lead to the host' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-replace" -s U -l udp-ns -d 'UDP ports that lead to the host' -r
complete -c pesto -n "__fish_pesto_using_subcommand rules-replace" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand egress" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand egress-replace" -l file -d 'More rules, one a line' -r -F
complete -c pesto -n "__fish_pesto_using_subcommand egress-replace" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand egress-replace" -l isolate -d 'Behind them those of --isolate'
complete -c pesto -n "__fish_pesto_using_subcommand watch" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand log" -l json -d 'Print the answer as it was said'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "status" -d 'Show the program, and what its guest is told'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "stats" -d 'Show all counters that are not 0'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "metrics" -d 'Print all counters as OpenMetrics text'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "flows" -d 'List flows'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "flow-reset" -d 'End a flow'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "rules" -d 'List forwarding rules'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "rules-add" -d 'Add forwarding rules'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "rules-delete" -d 'Remove forwarding rules'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "rules-replace" -d 'Put other forwarding rules in place of all'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "egress" -d 'List what the guest may reach, and how often each rule has decided'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "egress-replace" -d 'Put another egress policy in force'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "watch" -d 'Print what happens, one line of JSON an event'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "log" -d 'Show or set the level of the log'
complete -c pesto -n "__fish_pesto_using_subcommand help; and not __fish_seen_subcommand_from status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
