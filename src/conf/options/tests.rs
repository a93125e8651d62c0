//! The command line, word by word.

use proptest::prelude::*;

use super::*;
use crate::conf::ConfError;

fn read(words: &[&str]) -> Result<Command, ConfError> {
    parse(words.iter().map(|word| (*word).into()))
}

fn options(arguments: &[&str]) -> Options {
    let words: Vec<_> = ["passt"].iter().chain(arguments).copied().collect();
    match read(&words) {
        Ok(Command::Run(options)) => *options,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn error(arguments: &[&str]) -> ConfError {
    let words: Vec<_> = ["passt"].iter().chain(arguments).copied().collect();
    match read(&words) {
        Err(error) => error,
        Ok(other) => panic!("{arguments:?}: {other:?}"),
    }
}

fn first_line(arguments: &[&str]) -> String {
    error(arguments).to_string().lines().next().unwrap().to_owned()
}

#[test]
fn gnu_habits() {
    for arguments in [
        &["--mtu", "1500"][..],
        &["--mtu=1500"],
        &["-m", "1500"],
        &["-m1500"],
        &["-fm1500"],
        &["--mt", "1500"],
        &["-m", "0x5dc"],
        &["-m", "02734"],
        &["-m", "1500", "--"],
    ] {
        assert_eq!(options(arguments).mtu, 1500, "{arguments:?}");
    }
    assert_eq!(options(&["-t22", "-t", "80:8080", "--tcp-ports=443"]).ports.len(), 3);
    assert_eq!(options(&["--mtu", "9000", "--mtu", "1500"]).mtu, 1500);
    assert_eq!(options(&["--socket-path", "/a"]).socket, Some("/a".into()));
    assert_eq!(options(&["--socket-p", "/a"]).socket, Some("/a".into()));
    assert_eq!(options(&["--sock", "/a"]).socket, Some("/a".into()));
    assert!(options(&["-qq", "--quiet"]).run.quiet);
}

#[test]
fn unknown_options_are_refused_in_getopts_words() {
    for (arguments, text) in [
        (&["--xyz"][..], "passt: unrecognized option '--xyz'"),
        (&["--xyz=1"], "passt: unrecognized option '--xyz=1'"),
        (&["-Z"], "passt: invalid option -- 'Z'"),
        (&["-fZ"], "passt: invalid option -- 'Z'"),
        (&["--mtu"], "passt: option '--mtu' requires an argument"),
        (&["-m"], "passt: option requires an argument -- 'm'"),
        (&["--quiet=1"], "passt: option '--quiet' doesn't allow an argument"),
        (
            &["--ipv"],
            "passt: option '--ipv' is ambiguous; possibilities: '--ipv4-only' '--ipv6-only'",
        ),
    ] {
        assert_eq!(first_line(arguments), text, "{arguments:?}");
    }
    let more = "passt: unrecognized option '--xyz'\nTry 'passt --help' for more information.";
    assert_eq!(error(&["--xyz"]).to_string(), more);
}

#[test]
fn what_stands_before_an_error_counts() {
    for line in [&["--version", "--xyz"][..], &["--version", "-Z"], &["--version", "-m"]] {
        let words: Vec<_> = ["passt"].iter().chain(line).copied().collect();
        assert!(matches!(read(&words), Ok(Command::Version(_))), "{line:?}");
    }
    assert_eq!(first_line(&["-m", "x", "--xyz"]), "Invalid MTU: x");
    assert_eq!(first_line(&["--xyz", "-m", "x"]), "passt: unrecognized option '--xyz'");
    assert_eq!(first_line(&["-m", "1500", "-q=1", "-m", "x"]), "passt: invalid option -- '='");
    assert_eq!(first_line(&["-I", "x", "--xyz"]), "-I is for pasta mode only");
    let unknown = read(&["other", "--xyz"]).unwrap_err().to_string();
    assert!(unknown.starts_with("Cannot determine mode"), "{unknown}");
}

/// A caller asks whether an option is known by `--OPTION --version`.
#[test]
fn known_options_can_be_probed_for() {
    for (words, known) in [
        (&["pasta", "--host-lo-to-ns-lo", "--version"][..], true),
        (&["pasta", "--splice-only", "--version"], true),
        (&["passt", "--freebind", "--version"], true),
        (&["pasta", "--no-such-option", "--version"], false),
        (&["passt", "--host-lo-to-ns-lo", "--version"], false),
    ] {
        assert_eq!(matches!(read(words), Ok(Command::Version(_))), known, "{words:?}");
    }
}

#[test]
fn options_of_another_mode_are_refused_by_name_with_a_cure() {
    for (words, text) in [
        (&["passt", "--migrate-no-linger"][..], "--migrate-no-linger is for vhost-user mode only"),
        (&["passt", "--migrate-exit"], "--migrate-exit is for vhost-user mode only"),
        (&["passt", "--repair-path", "/r"], "--repair-path is for vhost-user mode only"),
    ] {
        let error = read(words).unwrap_err();
        assert_eq!(error.to_string(), text);
        let cure = error.cure().unwrap();
        assert!(cure.starts_with("Leave it out"), "{text}");
        assert_eq!(cure.contains("--vhost-user"), HAS_VHOST_USER, "{text}");
    }
    for (words, cure) in [
        (&["passt", "--config-net"][..], "Leave it out, or start the program as pasta"),
        (&["pasta", "-s", "/s"], "Leave it out, or start the program as passt"),
        (&["pasta", "--one-off"], "Leave it out, or start the program as passt"),
    ] {
        assert_eq!(read(words).unwrap_err().cure().unwrap(), cure, "{words:?}");
    }
    for name in ["passt", "pasta"] {
        let read = read(&[name, "--repair-path", "none"]);
        assert!(matches!(read, Ok(Command::Run(_))), "{name}: {read:?}");
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn who_makes_pasta_passt_by_an_option_is_told_so() {
    let error = read(&["pasta", "--vhost-user", "true"]).unwrap_err();
    assert_eq!(error.to_string(), "Extra non-option argument: true");
    assert!(error.cure().unwrap().starts_with("With --vhost-user the program is passt"));
    let error = read(&["pasta", "--vhost-user", "--config-net"]).unwrap_err();
    assert!(error.cure().unwrap().ends_with("as pasta and without --vhost-user"), "{error}");
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_helper_of_migrations_is_found_beside_the_socket_or_elsewhere() {
    let repair = |words: &[&str]| {
        let words: Vec<_> = ["passt", "--vhost-user"].iter().chain(words).copied().collect();
        match read(&words) {
            Ok(Command::Run(options)) => {
                let migration = options.migration;
                (migration.repair, migration.exit, migration.no_linger)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(repair(&[]), (Repair::Beside, false, false));
    let all = repair(&["--repair-path", "/r", "--migrate-exit", "--migrate-no-linger"]);
    assert_eq!(all, (Repair::At("/r".into()), true, true));
    assert_eq!(repair(&["--repair-path", "none"]), (Repair::Nowhere, false, false));
    assert_eq!(repair(&["--repair-path", ""]), (Repair::Beside, false, false));
}

#[test]
fn options_end_at_the_first_word_that_is_none() {
    assert_eq!(error(&["extra", "--xyz"]).to_string(), "Extra non-option argument: extra");
    assert_eq!(error(&["-f", "--", "-q"]).to_string(), "Extra non-option argument: -q");
}

fn mode(words: &[&str]) -> Result<Mode, String> {
    match read(words) {
        Ok(Command::Run(options)) => Ok(options.mode),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

/// Without it the program does not start in another mode: the front-end would have nobody to talk to.
#[test]
fn vhost_user_is_a_mode_of_builds_that_have_it() {
    let refused = "vhost-user is not in builds for processors of 32 bits".to_owned();
    let expected = if HAS_VHOST_USER { Ok(Mode::VhostUser) } else { Err(refused.clone()) };
    for words in [
        &["passt", "--vhost-user"][..],
        &["anything", "--vhost-user"],
        &["anything", "--vhost"],
        &["passt", "-q", "--vhost-user", "-f"],
        &["pasta", "--vhost-user"],
    ] {
        assert_eq!(mode(words), expected, "{words:?}");
    }
    for words in
        [&["x", "--vhost-user", "--print-capabilities"][..], &["passt", "--print-capabilities"]]
    {
        match read(words) {
            Ok(Command::Capabilities(text)) if HAS_VHOST_USER => {
                assert_eq!(text, "{\n  \"type\": \"net\"\n}\n");
            }
            Err(error) if !HAS_VHOST_USER => assert_eq!(error.to_string(), refused),
            other => panic!("{words:?}: {other:?}"),
        }
    }
}

#[test]
fn mode_is_that_of_the_name() {
    assert_eq!(mode(&["/usr/bin/passt"]), Ok(Mode::Stream));
    assert_eq!(mode(&["passt.avx2"]), Ok(Mode::Stream));
    let unknown = "Cannot determine mode, invoke as \"passt\" or \"pasta\"";
    assert_eq!(mode(&["anything"]), Err(unknown.to_owned()));
    assert_eq!(mode(&[]), Err(unknown.to_owned()));
    assert_eq!(mode(&["/usr/bin/pasta"]), Ok(Mode::Pasta));
    assert_eq!(mode(&["pasta.avx2"]), Ok(Mode::Pasta));
    assert_eq!(mode(&["/proc/self/fd/7/passt.pasta"]), Ok(Mode::Pasta));
    assert_eq!(mode(&["pasta", "true", "--vhost-user"]), Ok(Mode::Pasta), "its word, not ours");
}

#[test]
fn options_of_another_mode_are_refused() {
    for (words, text) in [
        (&["passt", "--config-net"][..], "--config-net is for pasta mode only"),
        (&["passt", "-I", "x"], "-I is for pasta mode only"),
        (&["passt", "-T", "none"], "-T is for pasta mode only"),
        (&["passt", "--splice-only"], "--splice-only is for pasta mode only"),
        (&["pasta", "-s", "/x"], "-s is for passt / vhost-user mode only"),
        (&["pasta", "-1"], "--one-off is for passt mode only"),
        (&["pasta", "--no-dhcp-dns"], "--no-dhcp-dns is for passt mode only"),
    ] {
        assert_eq!(read(words).unwrap_err().to_string(), text);
    }
}

#[test]
fn pasta_leaves_the_words_of_the_command_alone() {
    let read = |words: &[&str]| match read(words) {
        Ok(Command::Run(options)) => options,
        other => panic!("{words:?}: {other:?}"),
    };
    let spawning = read(&["pasta", "-f", "ls", "-l", "--", "-q"]);
    assert_eq!(spawning.pasta.words, ["ls", "-l", "--", "-q"]);
    assert!(spawning.run.foreground && !spawning.run.quiet);
    assert!(read(&["pasta", "-q", "ls"]).run.quiet);
    let joining = read(&["pasta", "--netns", "blue", "--userns=/u", "--netns-only"]);
    assert!(!joining.run.foreground);
    assert_eq!(joining.pasta.netns, Some("/run/netns/blue".into()));
    assert_eq!((joining.pasta.userns.as_ref(), joining.pasta.netns_only), (None, true));
    let user = read(&["pasta", "--netns-only", "--userns", "/u", "--netns", "./n", "12"]);
    assert_eq!(user.pasta.userns, Some("/u".into()));
    assert_eq!((user.pasta.netns, user.pasta.netns_only), (Some("./n".into()), false));
}

#[test]
fn answers_come_in_the_order_of_the_command_line() {
    for (name, mode) in [("passt", Mode::Stream), ("pasta", Mode::Pasta)] {
        let Ok(Command::Help(help)) = read(&[name, "-h"]) else { panic!("no help") };
        for definition in table::all() {
            let listed = help
                .split(|c: char| c.is_whitespace() || c == ',')
                .any(|word| word.strip_prefix("--") == Some(definition.long));
            assert_eq!(listed, definition.listed(mode), "{name}: {}", definition.long);
        }
    }
    let Ok(Command::Version(version)) = read(&["passt", "--no-ra", "--version"]) else {
        panic!("no version")
    };
    assert!(version.starts_with("passt "));
    assert!(matches!(read(&["passt", "--version", "-m", "x"]), Ok(Command::Version(_))));
    assert!(matches!(read(&["passt", "--help", "--version"]), Ok(Command::Help(_))));
    assert!(matches!(read(&["passt", "-h", "--version", "-h"]), Ok(Command::Help(_))));
    assert!(read(&["passt", "-m", "x", "--version"]).is_err());
}

#[test]
fn verbosity_is_that_of_the_last_option() {
    let run = |arguments| options(arguments).run;
    assert!(run(&["-d", "-q"]).quiet && !run(&["-d", "-q"]).debug);
    assert!(!run(&["-q", "-d"]).quiet && run(&["-q", "-d"]).debug);
    let traced = run(&["-q", "--trace"]);
    assert!(traced.debug && traced.trace && !traced.quiet);
    assert!(!run(&["--trace", "-q"]).trace);
}

#[test]
fn socket_and_descriptor_cancel_each_other() {
    let o = options(&["-s", "/a", "-F", "3"]);
    assert_eq!((o.socket, o.fd, o.one_off), (None, Some(3), true));
    let o = options(&["--fd", "3", "-s", "/a"]);
    assert_eq!((o.socket, o.fd), (Some("/a".into()), None));
}

#[test]
fn addresses_of_the_guest() {
    let v4 = |arguments| options(arguments).address_v4.map(|(a, p)| (a.to_string(), p)).unwrap();
    assert_eq!(v4(&["-a", "192.0.2.5"]), ("192.0.2.5".to_owned(), None));
    assert_eq!(v4(&["-a", "[192.0.2.5]/25"]), ("192.0.2.5".to_owned(), Some(25)));
    assert_eq!(v4(&["-a", "::ffff:192.0.2.5/120"]), ("192.0.2.5".to_owned(), Some(24)));
    assert_eq!(v4(&["-a", "192.0.2.5", "-a", "2001:db8::5"]), ("192.0.2.5".to_owned(), None));
    assert_eq!(v4(&["-a", "240.0.0.5/16"]), ("240.0.0.5".to_owned(), Some(16)));
    let v6 = options(&["-a", "[2001:db8::5]/48"]).address_v6;
    assert_eq!(v6, Some("2001:db8::5".parse().unwrap()));
    assert_eq!(options(&["-n", "255.255.240.0"]).netmask, Some(20));
    assert_eq!(options(&["-n", "16"]).netmask, Some(16));
    assert_eq!(options(&["-n", "0.0.0.0"]).netmask, Some(0));
    for arguments in [["-n", "24", "-a", "192.0.2.5/24"], ["-a", "192.0.2.5/24", "-n", "24"]] {
        assert_eq!(first_line(&arguments), "Redundant prefix length specification");
    }
}

#[test]
fn dns_none_clears_what_came_before() {
    let o = options(&["-D", "192.0.2.53", "--dns-forward", "192.0.2.1", "-D", "none"]);
    assert!(o.no_dns && o.dns_v4.is_empty());
    assert_eq!(o.mapping.v4.dns_match, None);
    let o = options(&["-D", "none", "--dns-host", "127.0.0.53", "-D", "2001:db8::53"]);
    assert!(!o.no_dns);
    assert_eq!(o.dns_v6.len(), 1);
    assert_eq!(o.mapping.v4.dns_host, Some(Ipv4Addr::new(127, 0, 0, 53)));
    let o = options(&["--dns-host", "a.example.org", "--dns-host", "dns.example.org."]);
    assert_eq!(o.dns_host_name.unwrap().0, "dns.example.org.");
    for none in ["-D", "--dns-host"] {
        let o = options(&["--dns-host", "localhost", "--dns-host", "127.0.0.53", none, "none"]);
        assert_eq!((o.dns_host_name, o.mapping.v4.dns_host), (None, None), "{none}");
    }
    let many: Vec<_> = (1..=5).flat_map(|i| ["-D".to_owned(), format!("192.0.2.{i}")]).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(options(&many).dns_v4.len(), 3);
}

#[test]
fn search_lists_are_split_and_added_up() {
    let o = options(&["-S", "a.example b.example", "--search", "c.example"]);
    assert_eq!(o.search.as_slice(), ["a.example", "b.example", "c.example"]);
    assert!(options(&["-S", "a", "-S", "none"]).no_search);
    assert_eq!(options(&["-S", "none", "-S", "a"]).search.as_slice(), ["a"]);
}

#[test]
fn mappings_and_families() {
    let o = options(&["--map-host-loopback", "192.0.2.9", "--map-guest-addr", "2001:db8::9"]);
    assert_eq!(o.mapping.v4.host_loopback, Some(Ipv4Addr::new(192, 0, 2, 9)));
    assert_eq!(o.mapping.v6.guest_addr, Some("2001:db8::9".parse().unwrap()));
    let o = options(&["--map-host-loopback", "192.0.2.9", "--map-host-loopback", "none"]);
    assert!(o.no_map_gw && o.mapping.v4.host_loopback.is_none());
    assert_eq!(options(&["-4", "-6"]).interfaces.only, Some(Only::V6));
    assert_eq!(options(&["-6", "-4"]).interfaces.only, Some(Only::V4));
    let o = options(&["--no-icmp"]);
    assert!(!o.services.icmp && !o.services.ndp);
}

#[test]
fn what_is_for_many() {
    let o = options(&["--no-multicast"]);
    assert!(!o.services.multicast && o.services.udp);
    let o = options(&["--multicast-ports", "5405,7001", "--multicast-ports=7001,9"]);
    assert_eq!(o.mapping.group_ports.as_slice(), [5405, 7001, 9]);
    for (ports, message) in [
        ("", "Invalid port in --multicast-ports: "),
        ("7001,", "Invalid port in --multicast-ports: "),
        ("0", "Invalid port in --multicast-ports: 0"),
        ("65536", "Invalid port in --multicast-ports: 65536"),
        ("7-9", "Invalid port in --multicast-ports: 7-9"),
        (
            "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
            "Too many ports in --multicast-ports: 16 at most",
        ),
    ] {
        assert_eq!(first_line(&["--multicast-ports", ports]), message, "{ports}");
    }
}

#[test]
fn process_matters() {
    let run = options(&["-l", "/l", "--log-size=0xa000", "-f", "--stats", "2", "--notify"]).run;
    assert_eq!((run.log_file, run.log_size), (Some("/l".into()), 40960));
    assert_eq!((run.stats, run.notify), (Some(2), true));
    let run = options(&["-p", "/p", "--runas", "ann:staff", "--chroot-fallback"]).run;
    assert_eq!((run.pcap, run.run_as.as_deref()), (Some("/p".into()), Some("ann:staff")));
    assert!(run.chroot_fallback && run.log_file.is_none() && run.log_size == 1 << 20);
    let unseen = "Can't display statistics if not running in foreground";
    assert_eq!(first_line(&["--stats", "1"]), unseen);
    for words in [["--stats", "1", "-f"], ["-f", "--stats", "1"]] {
        assert_eq!(options(&words).run.stats, Some(1), "{words:?}");
    }
    for words in
        [&["-f", "--stats", "0"][..], &["-f", "--stats", "1", "--stats", "0"], &["--stats", "0"]]
    {
        assert_eq!(options(words).run.stats, None, "{words:?}");
    }
    // A command keeps pasta in the foreground; a namespace to join does not.
    assert!(read(&["pasta", "--stats", "1", "true"]).is_ok());
    let refused = read(&["pasta", "--stats", "1", "--netns", "x"]).unwrap_err();
    assert!(refused.to_string().starts_with(unseen) && refused.cure().unwrap().contains("-f"));
}

#[test]
fn each_bad_value_is_named_with_a_cure() {
    let long = "x".repeat(254);
    for (arguments, text) in [
        (&["-m", "65522"][..], "MTU 65522 too large (max 65521)"),
        (&["-m", "99999999"], "MTU 99999999 too large (max 65521)"),
        (&["-m", "99999999999999"], "MTU 99999999999999 too large (max 65521)"),
        (&["-m", "big"], "Invalid MTU: big"),
        (&["-m", ""], "Invalid MTU: "),
        (&["-m", "089"], "Invalid MTU: 089"),
        (&["-m", "0x"], "Invalid MTU: 0x"),
        (&["--log-size", "40959"], "Invalid --log-size: 40959"),
        (&["--log-size", "99999999999999999999"], "Invalid --log-size: 99999999999999999999"),
        (&["--log-size", "-1"], "Invalid --log-size: -1"),
        (&["-m", "0x10000000000000000"], "Invalid MTU: 0x10000000000000000"),
        (&["-f", "--stats", "x"], "Invalid --stats: x"),
        (&["--runas", ":staff"], "Invalid --runas option: :staff"),
        (&["--runas", "ann:"], "Invalid --runas option: ann:"),
        (&["-F", "x"], "Invalid --fd: x"),
        (&["-F", "-1"], "Invalid --fd: -1"),
        (&["-F", "2147483648"], "Invalid --fd: 2147483648"),
        (&["-a", "192.0.2.5/33"], "Invalid prefix length: 192.0.2.5/33"),
        (&["-a", "2001:db8::5/129"], "Invalid prefix length: 2001:db8::5/129"),
        (&["-a", "0.0.0.0"], "Invalid guest address: 0.0.0.0"),
        (&["-a", "255.255.255.255"], "Invalid guest address: 255.255.255.255"),
        (&["-a", "127.0.0.1"], "Invalid guest address: 127.0.0.1"),
        (&["-a", "::ffff:127.0.0.1"], "Invalid guest address: ::ffff:127.0.0.1"),
        (&["-a", "ff02::1"], "Invalid guest address: ff02::1"),
        (&["-a", "host"], "Invalid guest address: host"),
        (&["-n", "33"], "Invalid prefix length: 33"),
        (&["-n", "255.0.255.0"], "Invalid prefix length: 255.0.255.0"),
        (&["-M", "9a:55:9a:55:9a"], "Invalid MAC address: 9a:55:9a:55:9a"),
        (&["-M", "9a:55:9a:55:9a:5"], "Invalid MAC address: 9a:55:9a:55:9a:5"),
        (&["-M", "9a:55:9a:55:9a:+5"], "Invalid MAC address: 9a:55:9a:55:9a:+5"),
        (&["-M", "9a:55:9a:55:9a:55:00"], "Invalid MAC address: 9a:55:9a:55:9a:55:00"),
        (&["-M", "ff:ff:ff:ff:ff:ff"], "Invalid MAC address: ff:ff:ff:ff:ff:ff"),
        (&["-g", "127.0.0.1"], "Invalid gateway address: 127.0.0.1"),
        (&["-g", "::1"], "Invalid gateway address: ::1"),
        (&["-i", "sixteen-bytes-xx"], "Invalid interface name sixteen-bytes-xx: No such device"),
        (&["--outbound-if4", "a/b"], "Invalid interface name: a/b"),
        (&["--outbound-if6", ""], "Invalid interface name: "),
        (&["-o", "224.0.0.1"], "Invalid or redundant outbound address: 224.0.0.1"),
        (&["-o", "::ffff:192.0.2.1"], "Invalid or redundant outbound address: ::ffff:192.0.2.1"),
        (&["-D", "0.0.0.0"], "Cannot use DNS address 0.0.0.0"),
        (&["-D", "x"], "Cannot use DNS address x"),
        (&["--dns-forward", "127.0.0.1"], "Invalid DNS forwarding address: 127.0.0.1"),
        (&["--dns-host", "::"], "Invalid host nameserver address: ::"),
        (&["--dns-host", "192.0.2.300"], "Invalid host nameserver address: 192.0.2.300"),
        (&["--dns-host", "a..b"], "Invalid host nameserver address: a..b"),
        (&["--dns-host", "a b"], "Invalid host nameserver address: a b"),
        (&["-S", ""], "Cannot use DNS search domain "),
        (&["-S", "1 2 3 4 5 6 7"], "Cannot use DNS search domain 1 2 3 4 5 6 7"),
        (&["--map-host-loopback", "::1"], "Invalid address to remap to host: ::1"),
        (&["--map-guest-addr", "224.0.0.1"], "Invalid address to remap to host: 224.0.0.1"),
    ] {
        let error = error(arguments);
        assert_eq!(error.to_string(), text, "{arguments:?}");
        assert!(error.cure().unwrap().starts_with("--"), "{arguments:?}");
    }
    assert_eq!(first_line(&["-H", &long]), format!("Invalid hostname: {long}"));
    assert_eq!(first_line(&["--fqdn", &long]), format!("Invalid FQDN: {long}"));
    assert_eq!(options(&["-H", "ann", "-H", "", "--fqdn", ""]).hostname, None);
    assert_eq!(options(&["--fqdn", &long[1..]]).fqdn.unwrap().len(), 253);
}

#[test]
fn arguments_that_are_not_utf8_are_refused_and_paths_are_not() {
    use std::os::unix::ffi::OsStringExt;
    let odd = || std::ffi::OsString::from_vec(vec![b'/', 0xff]);
    let Ok(Command::Run(o)) = parse(["passt".into(), "-s".into(), odd()].into_iter()) else {
        panic!("a path may be anything")
    };
    assert_eq!(o.socket, Some(odd().into()));
    let error = parse(["passt".into(), "-H".into(), odd()].into_iter()).unwrap_err();
    assert_eq!(error.to_string(), "Argument of --hostname is not UTF-8");
}

#[test]
fn command_lines_of_known_callers() {
    for line in [
        "--vhost-user --one-off --socket /run/libvirt/qemu/passt/1-d-net0.socket \
         --pid /run/libvirt/qemu/passt/1-d-net0-passt.pid --mtu 1500 --interface eth0 \
         --hostname guest --fqdn guest.example --address 192.0.2.5 --netmask 24 \
         --address 2001:db8::5 --tcp-ports 31339:41339 \
         --tcp-ports 192.0.2.1/4025-4035:5025-5035,9000,~4030-4034 \
         --udp-ports 2001:db8::1/8002,4431:4432 --udp-ports %eth0/2025",
        "--vhost-user --quiet --mtu 1500 --address 192.0.2.5 --netmask 255.255.255.0 \
         --mac-addr 9a:55:9a:55:9a:56 --gateway 192.0.2.1 --interface eth0 --outbound 192.0.2.2 \
         --outbound-if4 eth0 --outbound-if6 eth0 --dns 192.0.2.53 --fqdn g.example --no-dhcp-dns \
         --no-dhcp-search --map-host-loopback 192.0.2.9 --map-guest-addr 192.0.2.10 \
         --dns-forward 192.0.2.11 --dns-host 127.0.0.53 --no-tcp --no-udp --no-icmp --no-dhcp \
         --no-ndp --no-dhcpv6 --no-ra --freebind --ipv4-only --search d1 --tcp-ports 22,80 \
         --udp-ports 53 --pid /tmp/passt-XXXXXX.pid --fd 3",
        "--one-off --socket S --pid P --address 169.254.2.15 --netmask 16 \
         --mac-addr 52:56:00:00:00:02 --gateway 169.254.2.2",
        "-q -f --fd 5 -t 192.0.2.1/80-80:80-80",
        "-t all -u all --no-dhcp-dns --no-map-gw --fd 5",
    ] {
        let mut words: Vec<_> = line.split_ascii_whitespace().collect();
        if words[0] == "--vhost-user" && !HAS_VHOST_USER {
            assert!(matches!(error(&words), ConfError::NoVhostUser), "{line}");
            words.remove(0);
        }
        options(&words);
    }
}

proptest! {
    #[test]
    fn no_command_line_makes_it_panic(words in proptest::collection::vec(".{0,12}", 0..6)) {
        let words = ["passt".to_owned()].into_iter().chain(words);
        let _any = parse(words.map(Into::into));
    }

    #[test]
    fn no_argument_makes_it_panic(
        index in 0..table::all().count(),
        value in "[0-9a-fx:./%\\[\\] -]{0,24}",
    ) {
        let option = table::all().nth(index).expect("below the count").long;
        let option = format!("--{option}={value}");
        let _any = parse(["passt".into(), option.into()].into_iter());
    }
}
