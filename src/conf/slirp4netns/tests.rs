//! Command lines of slirp4netns, and what they are in pasta's words.

use super::command::{self, Asked};
use super::*;
use crate::conf::Mode;

/// The same words to pasta, in one line.
fn line(words: &str) -> String {
    let words = words_of(words);
    let Ok(Asked::Request(request)) = command::read(&words) else {
        unreachable!("{words:?} is read")
    };
    let words = super::words::of_pasta(&request);
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

fn words_of(line: &str) -> Vec<OsString> {
    std::iter::once("slirp4netns").chain(line.split_whitespace()).map(OsString::from).collect()
}

fn refused(line: &str) -> String {
    let error = parse(&words_of(line)).expect_err("it is refused");
    let cure = error.cure().unwrap_or_default();
    format!("{error}: {cure}")
}

fn options(line: &str) -> Box<crate::conf::Options> {
    match parse(&words_of(line)) {
        Ok(Command::Run(options)) => options,
        other => unreachable!("{line}: {other:?}"),
    }
}

#[test]
fn the_shortest_line_has_the_addresses_of_slirp4netns() {
    let line = line("-c 4711 tap0");
    for part in [
        "pasta --foreground --ns-ifname tap0 --mtu 1500 --config-net",
        "--tcp-ports none --udp-ports none --tcp-ns none --udp-ns none",
        "--address 10.0.2.100 --netmask 24 --gateway 10.0.2.2 --ipv4-only",
        "--dhcp-dns --dns 10.0.2.3 --dns-forward 10.0.2.3",
        "--egress allow @dns --egress allow @loopback --egress reject 10.0.2.0/24 --egress allow any",
        "--netns /proc/4711/ns/net",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    for part in ["--no-map-gw", "--no-netns-quit", "--outbound", "--ns-mac-addr"] {
        assert!(!line.contains(part), "{part}: {line}");
    }
}

#[test]
fn what_is_closed_is_closed_by_rules_too() {
    let line = line(
        "--disable-host-loopback --disable-dns --cidr 10.64.0.0/16 --netns-type=path /run/netns/x tap1",
    );
    assert!(line.contains("--no-map-gw --dns none"), "{line}");
    assert!(line.contains("--egress reject 10.64.0.0/16 --egress allow any"), "{line}");
    assert!(line.contains("--address 10.64.0.100 --netmask 16 --gateway 10.64.0.2"), "{line}");
    for part in ["@dns", "@loopback", "--dns-forward", "--config-net", "10.0.2"] {
        assert!(!line.contains(part), "{part}: {line}");
    }
    assert!(line.ends_with("--netns /run/netns/x"), "{line}");
}

#[test]
fn all_options_are_understood() {
    let line = line(
        "--configure --exit-fd=4 -r 3 -m 65520 -6 -a /tmp/api --netns-type=path --userns-path /tmp/user \
         --enable-sandbox --enable-seccomp --macaddress 02:00:00:12:34:56 --outbound-addr 192.0.2.2 \
         --outbound-addr6=uplink --target-type=netns net tap0",
    );
    for part in [
        "--mtu 65520",
        "--address fd00::100 --gateway fd00::2",
        "--dns fd00::3 --dns-forward fd00::3",
        "--egress reject fd00::/64",
        "--ns-mac-addr 02:00:00:12:34:56",
        "--outbound 192.0.2.2 --outbound-if6 uplink",
        "--no-netns-quit",
        "--netns ./net",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("--ipv4-only"), "{line}");
}

#[test]
fn pasta_understands_what_it_is_told() {
    let line = "-c -e 4 --ready-fd 3 -6 --api-socket=/tmp/api --outbound-addr uplink 4711 tap0";
    let options = options(line);
    assert_eq!(options.mode, Mode::Pasta);
    assert_eq!(
        options.run.slirp4netns,
        Some(SlirpConf { ready: Some(3), exit: Some(4), api: Some("/tmp/api".into()) })
    );
    assert!(options.run.foreground && options.run.may_change_rules());
    assert_eq!(options.run.descriptors().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(options.run.program(options.mode), "slirp4netns");
    assert!(!self::options("4711 tap0").run.may_change_rules());
}

#[test]
fn options_may_stand_behind_the_words() {
    assert_eq!(line("4711 tap0 -c -m 9000"), line("-c -m 9000 4711 tap0"));
}

#[test]
fn callers_find_the_options_that_they_look_for_in_the_help() {
    let Ok(Command::Help(help)) = parse(&words_of("--help")) else { unreachable!("it helps") };
    for option in [
        "--disable-host-loopback",
        "--mtu",
        "--enable-ipv6",
        "--enable-sandbox",
        "--enable-seccomp",
        "--cidr",
        "--netns-type",
        "--outbound-addr",
        "--outbound-addr6",
        "--userns-path",
        "--api-socket",
    ] {
        assert!(help.contains(option), "{option}: {help}");
    }
    let mut options = help.lines().filter(|line| line.trim_start().starts_with('-'));
    assert!(options.all(|line| !line.contains("...")), "{help}");
    let Ok(Command::Version(version)) = parse(&words_of("-v")) else { unreachable!("it tells") };
    assert!(version.starts_with("slirp4netns version 1."), "{version}");
}

#[test]
fn what_is_wrong_is_named() {
    for (line, wanted) in [
        ("", "2 arguments, not 0"),
        ("4711", "2 arguments, not 1"),
        ("4711 tap0 more", "2 arguments, not 3"),
        ("x tap0", "'x' is no PID"),
        ("0 tap0", "'0' is no PID"),
        ("4294967295 tap0", "is no PID"),
        ("4711 name-that-is-too-long", "is no name of an interface"),
        ("-m 65522 4711 tap0", "Invalid --mtu: 65522: --mtu takes 68 to 65521"),
        ("-m 0 4711 tap0", "Invalid --mtu: 0"),
        ("-6 -m 1279 4711 tap0", "--mtu takes 1280 to 65521"),
        ("--cidr 10.0.2.0/26 4711 tap0", "Invalid --cidr: 10.0.2.0/26"),
        ("--cidr 10.0.2.1/24 4711 tap0", "Invalid --cidr: 10.0.2.1/24"),
        ("--cidr 10.0.2.0 4711 tap0", "Invalid --cidr: 10.0.2.0"),
        ("--cidr 224.0.0.0/24 4711 tap0", "Invalid --cidr"),
        ("--cidr 0.0.0.0/24 4711 tap0", "Invalid --cidr"),
        (
            "--netns-type=name 4711 tap0",
            "Invalid --netns-type: name: --netns-type takes path or pid",
        ),
        ("--target-type=bess /tmp/s tap0", "Invalid --target-type: bess"),
        ("-r x 4711 tap0", "Invalid --ready-fd: x"),
        ("-e -1 4711 tap0", "Invalid --exit-fd: -1"),
        ("--macaddress 01:00:00:00:00:01 4711 tap0", "Invalid --macaddress"),
        ("--outbound-addr 2001:db8::1 4711 tap0", "Invalid --outbound-addr"),
        ("--outbound-addr 0.0.0.0 4711 tap0", "Invalid --outbound-addr"),
        ("--cidr 0.0.2.0/24 4711 tap0", "Invalid --cidr"),
        ("--cidr 127.0.2.0/24 4711 tap0", "Invalid --cidr"),
        ("--outbound-addr6 192.0.2.1 4711 tap0", "Invalid --outbound-addr6"),
        ("--no-such-thing 4711 tap0", "unrecognized option '--no-such-thing'"),
        ("--disable-dns=no 4711 tap0", "option '--disable-dns' doesn't allow an argument"),
        ("--conf=1 4711 tap0", "option '--configure' doesn't allow an argument"),
        ("4711 tap0 --mtu", "option '--mtu' requires an argument"),
    ] {
        let said = refused(line);
        assert!(said.contains(wanted), "{line}: {said}");
    }
}
