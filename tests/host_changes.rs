//! passt in front of a guest, on a host whose network comes, changes and goes while it runs. The guest's end is the
//! stream socket, whose frames are read as they are. Each test has a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv6Addr;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use passt_support::namespace::{has_own_users, isolated};
use passt_support::skipped::skipped;

/// When to give up on something that does not happen.
const PATIENCE: Duration = Duration::from_secs(30);

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

const LINKS: &str =
    "ip link set lo up; ip link add eth0 type veth peer name peer0; ip link set peer0 up";

fn ip(changes: &[&str]) {
    for change in changes {
        let done = Command::new("ip").args(change.split(' ')).status().unwrap();
        assert!(done.success(), "{change}");
    }
}

/// passt with a guest.
struct Passt {
    child: Child,
    guest: UnixStream,
    messages: Receiver<String>,
    _folder: tempfile::TempDir,
}

impl Passt {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let mut child = Command::new(env!("CARGO_BIN_EXE_passt"))
            .args(["-f", "-s"])
            .arg(&socket)
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, messages) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| drop(tell.send(line)));
        });
        let end = Instant::now() + PATIENCE;
        let guest = loop {
            match UnixStream::connect(&socket) {
                Ok(guest) => break guest,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("{error}: {:?}", messages.try_iter().collect::<Vec<_>>()),
            }
        };
        let mut passt = Self { child, guest, messages, _folder: folder };
        passt.guest.set_read_timeout(Some(PATIENCE)).unwrap();
        // The first frame says which protocol it is: a question that nobody answers.
        passt.send(&[[0xff; 6], GUEST_MAC, [0x08, 0x06, 0, 1, 8, 0]].concat());
        passt
    }

    fn send(&mut self, frame: &[u8]) {
        let length = (frame.len() as u32).to_be_bytes();
        self.guest.write_all(&[&length[..], frame].concat()).unwrap();
    }

    /// The next frame of which `wanted` makes something.
    fn await_frame<T>(&mut self, what: &str, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let mut length = [0; 4];
            self.guest.read_exact(&mut length).unwrap_or_else(|error| panic!("{what}: {error}"));
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            self.guest.read_exact(&mut frame).unwrap();
            if let Some(found) = wanted(&frame) {
                return found;
            }
        }
        panic!("{what}: not in time");
    }

    /// Waits for a message that holds `wanted`.
    fn await_message(&self, wanted: &str) -> String {
        self.messages_until(wanted).pop().unwrap()
    }

    /// All messages up to one that holds `wanted`, which is waited for.
    fn messages_until(&self, wanted: &str) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) =
            self.messages.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            let found = line.contains(wanted);
            seen.push(line);
            if found {
                return seen;
            }
        }
        panic!("{wanted} is not in {seen:#?}");
    }

    /// Waits for a router advertisement with the prefix `text`, valid for this long, by which we are a router for as
    /// long as `router` says. A change of several steps may be told of in several.
    fn await_prefix(&mut self, text: &str, valid: u32, router: impl Fn(u16) -> bool) {
        let prefix: Ipv6Addr = text.parse().unwrap();
        let option = [
            &[3, 4, 64, 0xc0][..],
            &valid.to_be_bytes(),
            &valid.to_be_bytes(),
            &[0; 4],
            &prefix.octets(),
        ];
        let option = option.concat();
        self.await_frame(text, |frame| {
            let holds = frame.windows(option.len()).any(|bytes| bytes == option);
            (is_advertisement(frame) && holds && router(lifetime(frame))).then_some(())
        });
    }

    /// Waits until the program has told that it is no router any more: it has seen then whatever changed before that.
    fn await_no_router(&mut self) {
        let gone = |frame: &[u8]| (is_advertisement(frame) && lifetime(frame) == 0).then_some(());
        self.await_frame("no router", gone);
    }

    /// Whether a process watches the host for the program.
    fn is_followed(&self) -> bool {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut stats = processes
            .filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
        let parent = self.child.id().to_string();
        stats.any(|stat| {
            let watches = stat.contains("(host-watch)");
            watches && stat.rsplit(") ").next().unwrap().split(' ').nth(1) == Some(&parent)
        })
    }

    /// The address that DHCP offers.
    fn dhcp_offer(&mut self) -> [u8; 4] {
        self.send(&discover());
        self.await_frame("an offer", |frame| {
            let is_reply = frame[12..14] == [8, 0] && frame[23] == 17 && frame[34..36] == [0, 67];
            is_reply.then(|| frame[58..62].try_into().unwrap())
        })
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn is_advertisement(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 134
}

fn lifetime(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[60], frame[61]])
}

/// A DHCPDISCOVER; checksums of UDP over IPv4 are a choice.
fn discover() -> Vec<u8> {
    let mut dhcp = vec![0; 240];
    dhcp[..4].copy_from_slice(&[1, 1, 6, 0]);
    dhcp[28..34].copy_from_slice(&GUEST_MAC);
    dhcp[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    dhcp.extend([53, 1, 1, 255]);
    let udp_len = 8 + dhcp.len() as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    ip[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
    let sum: u32 =
        ip.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&[0xff; 6][..], &GUEST_MAC, &[8, 0], &ip].concat();
    frame.extend([0, 68, 0, 67]);
    frame.extend(udp_len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(dhcp);
    frame
}

const HOME: [&str; 5] = [
    "link set eth0 up",
    "addr add 192.0.2.66/24 dev eth0",
    "addr add 2001:db8:a::66/64 dev eth0 nodad",
    "route add default via 192.0.2.1",
    "-6 route add default via 2001:db8:a::1",
];

/// How long it takes from a route that appears to a guest that has been told.
fn taken_over() -> Duration {
    let mut passt = Passt::start(&[]);
    assert_eq!(passt.dhcp_offer(), [169, 254, 2, 1]);
    let begin = Instant::now();
    ip(&HOME);
    passt.await_prefix("2001:db8:a::", u32::MAX, |router| router == u16::MAX);
    let took = begin.elapsed();
    passt.await_message("192.0.2.66/24, router 192.0.2.1");
    assert_eq!(passt.dhcp_offer(), [192, 0, 2, 66]);
    ip(&["addr flush dev eth0", "link set eth0 down"]);
    took
}

/// A machine that is busy with others may take longer, but not each time.
#[test]
fn a_network_that_comes_later_is_taken_over_within_a_second() {
    isolated(LINKS, || {
        const TRIES: usize = 5;
        let mut took = (0..TRIES).map(|_| taken_over());
        assert!(took.any(|took| took < Duration::from_secs(1)), "{TRIES} times not");
    });
}

#[test]
fn prefixes_routers_and_addresses_follow() {
    isolated(LINKS, || {
        ip(&HOME);
        let mut passt = Passt::start(&[]);
        assert_eq!(passt.dhcp_offer(), [192, 0, 2, 66]);
        ip(&[
            "addr del 2001:db8:a::66/64 dev eth0",
            "addr add 2001:db8:b::66/64 dev eth0 nodad",
            "-6 route replace default via 2001:db8:b::1",
            "addr add 198.51.100.66/24 dev eth0",
            "addr del 192.0.2.66/24 dev eth0",
            "route replace default via 198.51.100.1",
        ]);
        passt.await_prefix("2001:db8:a::", 0, |_| true);
        passt.await_prefix("2001:db8:b::", u32::MAX, |router| router == u16::MAX);
        passt.await_message("198.51.100.66/24, router 198.51.100.1");
        assert_eq!(passt.dhcp_offer(), [198, 51, 100, 66]);
        ip(&["-6 route del default"]);
        passt.await_no_router();
        ip(&["-6 route add default via 2001:db8:b::1"]);
        let back = |frame: &[u8]| (is_advertisement(frame) && lifetime(frame) > 0).then_some(());
        passt.await_frame("a router", back);
    });
}

#[test]
fn what_options_say_stays() {
    isolated(LINKS, || {
        ip(&HOME);
        let given = ["-a", "192.0.2.130/26", "-g", "192.0.2.129", "-a", "2001:db8:7::7"];
        let mut passt = Passt::start(&given);
        assert_eq!(passt.dhcp_offer(), [192, 0, 2, 130]);
        ip(&["addr del 192.0.2.66/24 dev eth0", "addr add 198.51.100.66/24 dev eth0"]);
        ip(&["route add default via 198.51.100.1", "-6 route del default"]);
        passt.await_no_router();
        assert_eq!(passt.dhcp_offer(), [192, 0, 2, 130]);
    });
}

#[test]
fn the_host_of_the_start_is_the_host_for_ever_without_the_watch() {
    isolated(LINKS, || {
        // Who gets an answer looks at a program that is set up.
        let mut passt = Passt::start(&[]);
        assert_eq!(passt.dhcp_offer(), [169, 254, 2, 1]);
        assert!(passt.is_followed());
        let mut passt = Passt::start(&["--no-follow-host"]);
        ip(&HOME);
        assert_eq!(passt.dhcp_offer(), [169, 254, 2, 1]);
        assert!(!passt.is_followed(), "nobody is there who could tell");
    });
}

/// As when the router's lease has ended, while a way to some network elsewhere stays.
#[test]
fn who_loses_only_the_default_route_stays_the_template() {
    isolated(LINKS, || {
        ip(&HOME);
        ip(&[
            "link add eth1 type veth peer name peer1",
            "link set peer1 up",
            "link set eth1 up",
            "addr add 203.0.113.2/24 dev eth1",
        ]);
        ip(&["route add 198.51.100.0/24 via 203.0.113.1"]);
        let mut passt = Passt::start(&[]);
        assert_eq!(passt.dhcp_offer(), [192, 0, 2, 66]);
        ip(&["route del default", "-6 route del default"]);
        passt.await_no_router();
        assert_eq!(passt.dhcp_offer(), [192, 0, 2, 66]);
    });
}

#[test]
fn more_routes_than_rules_know_are_told_of_when_they_come() {
    isolated(LINKS, || {
        const MISSED: &str = "more networks by routes without a router than are looked at";
        ip(&HOME);
        let [ruled, free] = [&["--isolate"][..], &[]].map(Passt::start);
        let mut batch =
            Command::new("ip").args(["-6", "-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let lines = (0..1024).map(|n| format!("route add 2001:db8:c::{n:x} dev eth0\n"));
        let lines: String = lines.collect();
        batch.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(batch.wait().unwrap().success());
        let before = ruled.messages_until(MISSED);
        assert!(before.iter().any(|line| line.contains("router: 192.0.2.1")), "{before:#?}");
        // Whoever has told of the second change has done with whatever was before it.
        for (old, new) in [("192.0.2.66", "198.51.100.66"), ("198.51.100.66", "203.0.113.66")] {
            ip(&[&format!("addr del {old}/24 dev eth0"), &format!("addr add {new}/24 dev eth0")]);
            let said = free.messages_until(&format!("{new}/24"));
            assert!(!said.iter().any(|line| line.contains(MISSED)), "{said:#?}");
        }
    });
}

#[test]
fn without_inotify_the_network_is_followed_all_the_same() {
    isolated(LINKS, || {
        const MOST: &str = "/proc/sys/user/max_inotify_instances";
        if !has_own_users() || std::fs::write(MOST, "0").is_err() {
            return skipped(
                "the number of inotify instances cannot be limited for this test alone",
            );
        }
        let mut passt = Passt::start(&[]);
        passt.await_message("Cannot watch /etc/resolv.conf: Too many open files");
        ip(&HOME);
        passt.await_prefix("2001:db8:a::", u32::MAX, |router| router == u16::MAX);
        passt.await_message("192.0.2.66/24, router 192.0.2.1");
        assert_eq!(passt.dhcp_offer(), [192, 0, 2, 66]);
    });
}

#[test]
fn an_interface_that_goes_and_comes_back_is_the_template_again() {
    isolated(LINKS, || {
        ip(&HOME);
        let mut passt = Passt::start(&[]);
        ip(&["link del eth0"]);
        passt.await_no_router();
        assert_eq!(passt.dhcp_offer(), [192, 0, 2, 66], "nothing has taken its place");
        ip(&["link add eth0 type veth peer name peer0", "link set peer0 up", "link set eth0 up"]);
        ip(&["addr add 192.0.2.67/24 dev eth0", "route add default via 192.0.2.1"]);
        passt.await_message("192.0.2.67/24, router 192.0.2.1");
        assert_eq!(passt.dhcp_offer(), [192, 0, 2, 67]);
    });
}
