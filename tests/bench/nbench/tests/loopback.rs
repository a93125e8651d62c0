//! The load generator against itself, over loopback: every command gives its report, and a
//! payload that was changed on the way is noticed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use passt_nbench::report::{Datagrams, Held, Soak, Starts, Stream, Transactions};
use serde::de::DeserializeOwned;

const NBENCH: &str = env!("CARGO_BIN_EXE_nbench");
const SHORT: [&str; 2] = ["seconds=0.4", "warmup=0.1"];

/// Ports that are tried for a server.
const ATTEMPTS: u32 = 10;

/// A server that ends with the test.
struct Server {
    child: Child,
    at: SocketAddr,
}

impl Server {
    fn start(ip: impl Into<std::net::IpAddr>) -> Self {
        let ip = ip.into();
        (0..ATTEMPTS).find_map(|_| Self::try_start(ip)).expect("a port that stays free")
    }

    /// `None` if the port, which was free, was taken before the server had it: by a client of another test, or by a copy of
    /// our own socket in a process that another test has just begun.
    fn try_start(ip: std::net::IpAddr) -> Option<Self> {
        let at = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        let mut command = Command::new(NBENCH);
        command.args(["server", &at.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "ready\n" {
            assert!(!child.wait().unwrap().success(), "{line}");
            return None;
        }
        Some(Self { child, at })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn nbench(words: &[&str]) -> Output {
    Command::new(NBENCH).args(words).output().unwrap()
}

/// The report of a command against `at`; the words are the command and its arguments.
fn report<T: DeserializeOwned>(at: SocketAddr, words: &str) -> T {
    let mut words: Vec<&str> = words.split(' ').collect();
    let at = at.to_string();
    words.insert(1, &at);
    let output = nbench(&words);
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or_else(|| panic!("{words:?}: {errors}"));
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
}

fn short<T: DeserializeOwned>(at: SocketAddr, words: &str) -> T {
    report(at, &format!("{words} {}", SHORT.join(" ")))
}

#[test]
fn streams_arrive_as_they_were_sent() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    for way in ["put", "get", "both"] {
        let found: Stream =
            short(server.at, &format!("stream way={way} streams=2 stalled=1 verify=1"));
        assert!(found.total_bytes > 0, "{way}: {found:?}");
        assert_eq!(found.each_gbit_per_s.len(), if way == "both" { 4 } else { 2 });
    }
}

/// Carries bytes both ways and changes one of those that go to the server, far behind.
fn spoil(listener: &TcpListener, server: SocketAddr) {
    let (client, _) = listener.accept().unwrap();
    let server = TcpStream::connect(server).unwrap();
    let (mut from_server, mut to_client) =
        (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || {
        // Ends when either end is gone.
        let _ = std::io::copy(&mut from_server, &mut to_client);
    });
    let (mut from_client, mut to_server) = (client, server);
    let (mut buffer, mut passed) = (vec![0; 65536], 0);
    while let Ok(len @ 1..) = from_client.read(&mut buffer) {
        if (passed..passed + len).contains(&100_000) {
            buffer[100_000 - passed] ^= 1;
        }
        passed += len;
        if to_server.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    // The verdict goes the other way; who is gone already needs no end.
    let _ = to_server.shutdown(Shutdown::Write);
}

#[test]
fn one_changed_bit_is_noticed() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (between, at) = (listener.local_addr().unwrap().to_string(), server.at);
    let proxy = std::thread::spawn(move || spoil(&listener, at));
    let output = nbench(&["stream", &between, "way=put", "verify=1", SHORT[0], SHORT[1]]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("differs"), "{errors}");
    proxy.join().unwrap();
}

#[test]
fn transactions_are_counted() {
    let server = Server::start(Ipv6Addr::LOCALHOST);
    for words in ["rr flows=3 size=100 idle=5", "rr proto=udp flows=3", "crr concurrent=4"] {
        let found: Transactions = short(server.at, words);
        assert!(found.total > 0 && found.lost == 0, "{words}: {found:?}");
        assert!(found.latency.p50_us <= found.latency.max_us, "{words}: {found:?}");
    }
}

#[test]
fn datagrams_are_counted_by_the_receiver() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    for way in ["put", "get"] {
        for how in ["size=1400", "size=500 gso=8", "size=64 rate=1000"] {
            let found: Datagrams = short(server.at, &format!("udp way={way} {how}"));
            assert!(found.total_bytes > 0, "{way} {how}: {found:?}");
            assert!((0.0..=1.0).contains(&found.loss), "{way} {how}: {found:?}");
        }
    }
    let at = server.at.to_string();
    let impossible = nbench(&["udp", &at, "size=1400", "gso=1000"]);
    assert!(!impossible.status.success());
}

#[test]
fn held_connections_answer_at_the_end() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    let found: Held = report(server.at, "hold count=50 seconds=0.1");
    assert_eq!((found.connections, found.answered), (50, 50));
    assert!(found.ended.is_empty(), "{}", found.ended);
}

#[test]
fn as_many_connections_are_held_as_there_can_be() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    let line = format!("ulimit -n 100; exec {NBENCH} hold {} count=0 seconds=0.1", server.at);
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Held = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!((80..100).contains(&found.connections), "{found:?}");
    assert_eq!(found.answered, found.connections);
    assert!(!found.ended.is_empty() && text.starts_with("holding "), "{text}");
}

#[test]
fn a_soak_carries_bytes_both_ways_at_its_rate() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    let found: Soak = report(server.at, "soak streams=1 mbit=80 seconds=0.5");
    // 80 Mbit/s each way, for half a second: 10 MB, and a buffer each at most.
    assert!((1..11_000_000).contains(&found.total_bytes), "{found:?}");
    assert!(found.connections > 0, "{found:?}");
}

#[test]
fn a_soak_ends_when_nothing_moves() {
    // Connections are made by the kernel, and nobody accepts them.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let output = nbench(&["soak", &at, "streams=1", "seconds=30", "gap_ms=100", "mbit=100000"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("stalled"), "{errors}");
}

#[test]
fn starts_are_timed_to_the_end_or_to_a_file() {
    let folder = std::env::temp_dir().join(format!("nbench-start-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("pid").to_string_lossy().into_owned();
    let script = format!("echo 1 >{file}; exec sleep 100");
    let of = |words: &[&str]| -> Starts { serde_json::from_slice(&nbench(words).stdout).unwrap() };
    let pid = format!("pid={file}");
    assert!(of(&["start", "count=2", &pid, "--", "sh", "-c", &script]).latency.p50_us > 0.0);
    assert!(of(&["start", "count=2", "--", "true"]).latency.p50_us > 0.0);
    assert!(!nbench(&["start", "--", "false"]).status.success());
    std::fs::remove_dir_all(&folder).unwrap();
}
