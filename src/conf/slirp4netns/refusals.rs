//! What is said of a start that fails, with the options that there are under this name.

/// What pasta says, and what stands in place of it, in the order of being looked for. Nothing to the right has anything in
/// it that stands further down on the left.
const WORDS: [(&str, &str); 16] = [
    (", add --chroot-fallback", ", start pasta with --chroot-fallback"),
    (" with --userns, or start as root with --netns-only", " with --userns-path, or start as root"),
    (", or as root with --netns-only", ", or as root"),
    (", or add --netns-only as root", ", or start as root"),
    (", or a command", ""),
    (": give a path, or one of the names that `ip netns list` shows", ": give the path of one"),
    (
        ", as /proc/PID/ns/net, or one of the names that `ip netns list` shows",
        ", as /proc/PID/ns/net",
    ),
    ("Couldn't switch to pasta namespaces", "Couldn't enter the namespace"),
    ("choose another --ns-ifname", "choose another TAPNAME"),
    ("--interface and --outbound-if4/6 take", "--outbound-addr and --outbound-addr6 take"),
    (", or enable both families: see --ipv4-only and --ipv6-only", ", or start with --enable-ipv6"),
    (", or give --freebind; a link-local one may need its interface: ADDR%IF/PORT", ""),
    ("give the interface of the link-local address: ADDR%IF/PORT", "listen on another address"),
    ("name no interface, or listen on an address that it has", "listen on another address"),
    ("--outbound-if4 ", "--outbound-addr "),
    ("--outbound-if6 ", "--outbound-addr6 "),
];

/// The message in the words of slirp4netns.
pub(crate) fn in_these_words(message: &str) -> String {
    let mut text = message.to_owned();
    for (pasta, slirp4netns) in WORDS {
        text = text.replace(pasta, slirp4netns);
    }
    text
}
