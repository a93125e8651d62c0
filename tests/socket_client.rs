//! Clients of passt's socket: frames or vhost-user, one at a time, however their bytes arrive. The loop
//! runs in the test, turn by turn, where the turn matters; otherwise the program runs as its users run
//! it. Nothing leaves the machine.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use passt::conf::host::HostFacts;
use passt::conf::{Command as Parsed, parse, resolve};
use passt::engine::{
    Clients, Engine, Link, NetView, Protocols, Settings, SocketLink, Worker, monotonic_now,
};
use passt::flow::fwd::{Policy, RuleTable};
use passt::responder::dhcpv6::Duid;
use rustix::event::epoll;

/// What the guest is told, without a look at the host.
const NETWORK: [&str; 7] = ["-4", "-a", "192.0.2.2/24", "-g", "192.0.2.1", "-m", "1500"];

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// Builds for 32 bits have no vhost-user.
const HAS_VHOST_USER: bool = cfg!(target_pointer_width = "64");

/// How the program is started that ends with its client.
const ONE_OFF: &[&[&str]] = if HAS_VHOST_USER {
    &[&["-1", "-s", "socket"], &["--vhost-user", "-1", "-s", "socket"]]
} else {
    &[&["-1", "-s", "socket"]]
};

/// When to give up on an answer that does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A loop without any descriptor but those of its clients.
fn worker(protocols: Protocols, listener: Option<UnixListener>) -> Worker<SocketLink> {
    let words = ["passt"].iter().chain(&NETWORK).map(OsString::from);
    let Ok(Parsed::Run(options)) = parse(words) else { panic!("the options are right") };
    let conf = resolve(*options, &HostFacts::default(), "", (32768, 60999)).unwrap();
    let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
    let settings = Settings::default();
    let duid = Duid::new(conf.network.our_mac);
    let view = NetView {
        network: conf.network,
        map: conf.mapping,
        inbound: conf.rules,
        outbound: RuleTable::default(),
        egress: Policy::default(),
    };
    let engine = Engine::new(epoll.clone(), view, settings, [7; 16], duid, monotonic_now());
    let link = SocketLink::new(&epoll, 1500, protocols).unwrap();
    let listener = listener.map(OwnedFd::from);
    Worker::new(epoll, link, engine, Clients { listener, one_off: false }).unwrap()
}

/// Turns until no event is left; more than a few would be a loop that spins.
fn turns(worker: &mut Worker<SocketLink>) {
    for _ in 0..8 {
        worker.turn(Some(Duration::ZERO)).unwrap();
    }
}

fn with_length(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

/// A frame of the guest's to everyone, with `ethertype` and what follows.
fn broadcast(ethertype: [u8; 2], rest: &[&[u8]]) -> Vec<u8> {
    [&[0xff; 6][..], &GUEST_MAC, &ethertype, &rest.concat()].concat()
}

/// Who has 192.0.2.1?
fn arp_request() -> Vec<u8> {
    let ours = [&GUEST_MAC[..], &[192, 0, 2, 2]].concat();
    let asked = [0, 0, 0, 0, 0, 0, 192, 0, 2, 1];
    broadcast([0x08, 0x06], &[&[0, 1, 8, 0, 6, 4, 0, 1], &ours, &asked])
}

/// DHCPDISCOVER with Rapid Commit (RFC 4039); the checksums are left unfinished, as some clients do.
fn rapid_discover() -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 0xa1, 0xb2, 0xc3, 0xd4];
    message.resize(28, 0);
    message.extend(GUEST_MAC);
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 80, 0, 255]);
    let udp_bytes = 8 + message.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_bytes).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0xde, 0xad, 0, 0, 0, 0, 255, 255, 255, 255]);
    let udp = [68u16, 67, udp_bytes, 0xbeef].map(u16::to_be_bytes).concat();
    broadcast([0x08, 0x00], &[&ip, &udp, &message])
}

/// A TCP segment from port 40000 of the guest's to `port` of the gateway; both checksums are wrong.
fn segment(port: u16, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend((40 + payload.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 6, 0xde, 0xad, 192, 0, 2, 2, 192, 0, 2, 1]);
    let ports = [40_000, port].map(u16::to_be_bytes).concat();
    let numbers = [seq, ack].map(u32::to_be_bytes).concat();
    let rest = [0x50, flags, 0xff, 0xff, 0xbe, 0xef, 0, 0];
    broadcast([0x08, 0x00], &[&ip, &ports, &numbers, &rest, payload])
}

/// Sequence number, acknowledgment number and flags of a TCP segment to the guest.
fn tcp_fields(frame: &[u8]) -> Option<(u32, u32, u8)> {
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| frame[at + i]));
    let is_tcp = frame[12..14] == [8, 0] && frame[23] == 6;
    is_tcp.then(|| (number(38), number(42), frame[47]))
}

/// A vhost-user message without a body.
fn request(number: u32) -> Vec<u8> {
    [number, 1, 0].map(u32::to_ne_bytes).concat()
}

fn is_arp_reply(frame: &[u8]) -> bool {
    frame[..6] == GUEST_MAC && frame[12..14] == [8, 6] && frame[20..22] == [0, 2]
}

fn is_dhcp_ack(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame.len() > 282 && frame[278..].windows(3).any(|o| o == [53, 1, 5])
}

/// The next frame from the program.
fn frame(client: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    client.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    client.read_exact(&mut frame).unwrap();
    frame
}

/// The frames that are there.
fn waiting_frames(client: &mut UnixStream) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    while matches!(rustix::net::recv(client.as_fd(), &mut [0][..], flags), Ok((1.., _))) {
        found.push(frame(client));
    }
    found
}

/// Whether the program has closed the connection, without having sent anything. Waits a little: for
/// a moment, a process that another test starts has all sockets of this one.
fn is_closed(client: &mut UnixStream) -> bool {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    match client.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => panic!("something was sent"),
        // What we sent was not read.
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Closes the connection, whoever else has the socket.
fn leave(client: &UnixStream) {
    client.shutdown(std::net::Shutdown::Both).unwrap();
}

#[test]
fn arp_is_answered_wherever_its_frame_is_cut() {
    let bytes = with_length(&arp_request());
    for cut in 1..bytes.len() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let mut worker = worker(Protocols::Any, None);
        worker.link().attach(ours.into()).unwrap();
        client.write_all(&bytes[..cut]).unwrap();
        turns(&mut worker);
        assert!(!waiting_frames(&mut client).iter().any(|frame| is_arp_reply(frame)));
        client.write_all(&bytes[cut..]).unwrap();
        turns(&mut worker);
        assert!(waiting_frames(&mut client).iter().any(|frame| is_arp_reply(frame)), "at {cut}");
    }
}

#[test]
fn questions_that_waited_are_answered_in_the_first_turn() {
    let (mut client, ours) = UnixStream::pair().unwrap();
    client.write_all(&with_length(&rapid_discover())).unwrap();
    client.write_all(&with_length(&arp_request())).unwrap();
    let mut worker = worker(Protocols::Any, None);
    worker.link().attach(ours.into()).unwrap();
    worker.turn(Some(Duration::ZERO)).unwrap();
    let found = waiting_frames(&mut client);
    assert!(found.iter().any(|frame| is_dhcp_ack(frame)), "{found:x?}");
    assert!(found.iter().any(|frame| is_arp_reply(frame)), "{found:x?}");
}

/// Clients that offer their guests offloads but cannot pass them on (libkrun) send such frames.
#[test]
fn frames_larger_than_the_mtu_with_unfinished_checksums_are_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut client, ours) = UnixStream::pair().unwrap();
    let mut worker = worker(Protocols::Any, None);
    worker.link().attach(ours.into()).unwrap();
    let mut answers = |client: &mut UnixStream, frame: &[u8]| {
        client.write_all(&with_length(frame)).unwrap();
        turns(&mut worker);
        waiting_frames(client).iter().filter_map(|frame| tcp_fields(frame)).collect::<Vec<_>>()
    };
    let opened = answers(&mut client, &segment(port, 999, 0, 0x02, &[]));
    let &[(isn, 1000, 0x12)] = &opened[..] else { panic!("no SYN and ACK: {opened:x?}") };
    let payload: Vec<u8> = (0..30_000u32).map(|at| (at % 251) as u8).collect();
    let acked = answers(&mut client, &segment(port, 1000, isn.wrapping_add(1), 0x18, &payload));
    assert!(matches!(acked.last(), Some((_, 31_000, 0x10))), "{acked:x?}");
    let mut received = vec![0; payload.len()];
    listener.accept().unwrap().0.read_exact(&mut received).unwrap();
    assert!(received == payload);
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_first_byte_tells_front_ends_from_frames() {
    // GET_FEATURES, as most begin, and SET_OWNER, as User-Mode Linux does; each byte on its own.
    for first in [1, 3] {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let mut worker = worker(Protocols::Any, None);
        worker.link().attach(ours.into()).unwrap();
        assert!(worker.link().is_attached());
        for byte in [request(first), request(1)].concat() {
            client.write_all(&[byte]).unwrap();
            turns(&mut worker);
        }
        let mut reply = [0; 20];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..12], [1u32, 5, 8].map(u32::to_ne_bytes).concat());
    }
}

#[test]
fn nothing_is_said_before_the_client_has_said_what_it_is() {
    let (mut client, ours) = UnixStream::pair().unwrap();
    let mut worker = worker(Protocols::Any, None);
    worker.link().attach(ours.into()).unwrap();
    turns(&mut worker);
    assert!(waiting_frames(&mut client).is_empty());
    // Where both protocols begin with zeros, all of the length tells.
    let enough = if cfg!(target_endian = "big") { 4 } else { 1 };
    client.write_all(&with_length(&arp_request())[..enough]).unwrap();
    turns(&mut worker);
    let greeting = waiting_frames(&mut client);
    assert!(greeting.iter().any(|frame| frame[12..14] == [8, 6]), "its address is asked for");
}

#[test]
fn who_is_silent_for_long_takes_frames() {
    let (mut client, ours) = UnixStream::pair().unwrap();
    let mut worker = worker(Protocols::Any, None);
    worker.link().attach(ours.into()).unwrap();
    let mut greeting = Vec::new();
    let end = Instant::now() + Duration::from_secs(60);
    while greeting.is_empty() {
        assert!(Instant::now() < end, "no frame has come");
        // Nothing else ends the wait.
        worker.turn(Some(Duration::from_secs(30))).unwrap();
        greeting = waiting_frames(&mut client);
    }
    assert!(greeting.iter().any(|frame| frame[12..14] == [8, 6]), "its address is asked for");
    // And what it says is taken as before.
    client.write_all(&with_length(&arp_request())).unwrap();
    turns(&mut worker);
    assert!(!waiting_frames(&mut client).is_empty(), "an answer");
    assert!(worker.link().is_attached());
}

#[test]
fn a_silent_front_end_stays_one() {
    let (mut client, ours) = UnixStream::pair().unwrap();
    let mut worker = worker(Protocols::VhostUser, None);
    worker.link().attach(ours.into()).unwrap();
    let end = Instant::now() + Duration::from_millis(2500);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        worker.turn(Some(left)).unwrap();
    }
    assert!(waiting_frames(&mut client).is_empty());
    assert!(worker.link().is_attached());
}

#[test]
fn what_is_neither_is_refused() {
    let neither: [&[u8]; 4] = [&[0xff; 4], &[0x40, 0, 0, 0], &[0, 0, 0, 13], b"GET / HTTP/1.1\r\n"];
    for bytes in neither {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let mut worker = worker(Protocols::Any, None);
        worker.link().attach(ours.into()).unwrap();
        client.write_all(bytes).unwrap();
        turns(&mut worker);
        waiting_frames(&mut client);
        assert!(is_closed(&mut client), "{bytes:x?}");
        assert!(!worker.link().is_attached());
    }
}

#[test]
fn a_client_that_leaves_without_a_word_makes_room_for_the_next() {
    let (client, ours) = UnixStream::pair().unwrap();
    let mut worker = worker(Protocols::Any, None);
    worker.link().attach(ours.into()).unwrap();
    leave(&client);
    turns(&mut worker);
    assert!(!worker.link().is_attached());
}

#[test]
fn frames_are_refused_where_only_vhost_user_is_spoken() {
    let (mut client, ours) = UnixStream::pair().unwrap();
    let mut worker = worker(Protocols::VhostUser, None);
    worker.link().attach(ours.into()).unwrap();
    client.write_all(&with_length(&arp_request())).unwrap();
    turns(&mut worker);
    assert!(is_closed(&mut client));
}

#[test]
fn one_client_at_a_time_of_whichever_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut worker = worker(Protocols::Any, Some(UnixListener::bind(&path).unwrap()));
    for front_end in [false, HAS_VHOST_USER, false] {
        let mut client = UnixStream::connect(&path).unwrap();
        turns(&mut worker);
        let mut early = UnixStream::connect(&path).unwrap();
        turns(&mut worker);
        assert!(is_closed(&mut early), "the first has not even said what it is");
        let first = if front_end { request(1) } else { with_length(&arp_request()) };
        client.write_all(&first).unwrap();
        turns(&mut worker);
        let mut second = UnixStream::connect(&path).unwrap();
        turns(&mut worker);
        assert!(is_closed(&mut second));
        let mut reply = [0; 12];
        client.read_exact(&mut reply).unwrap();
        // The next one connects before the loop has seen this one leave.
        leave(&client);
    }
    turns(&mut worker);
    assert!(!worker.link().is_attached());
}

#[test]
fn who_connects_when_another_has_left_is_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut worker = worker(Protocols::Any, Some(UnixListener::bind(&path).unwrap()));
    // What the first one leaves behind: nothing, and more than the loop takes in one turn.
    let question = with_length(&arp_request());
    let left = [Vec::new(), question.clone(), question.repeat(600), request(1).repeat(100)];
    for round in 0..100 {
        let (left, seen) = (&left[round % 4], round / 4 % 3);
        let mut client = UnixStream::connect(&path).unwrap();
        turns(&mut worker);
        client.write_all(left).unwrap();
        for _ in 0..seen {
            worker.turn(Some(Duration::ZERO)).unwrap();
        }
        leave(&client);
        let mut next = UnixStream::connect(&path).unwrap();
        next.write_all(&question).unwrap();
        turns(&mut worker);
        let answers = waiting_frames(&mut next);
        assert!(answers.iter().any(|frame| is_arp_reply(frame)), "{} bytes, {seen}", left.len());
        leave(&next);
        turns(&mut worker);
    }
}

#[test]
fn who_reads_no_more_but_stays_makes_room_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut worker = worker(Protocols::Any, Some(UnixListener::bind(&path).unwrap()));
    let question = with_length(&arp_request());
    for said in [&[][..], &question, &request(1)] {
        let mut deaf = UnixStream::connect(&path).unwrap();
        deaf.write_all(said).unwrap();
        turns(&mut worker);
        deaf.shutdown(std::net::Shutdown::Read).unwrap();
        let mut next = UnixStream::connect(&path).unwrap();
        next.write_all(&question).unwrap();
        turns(&mut worker);
        assert!(waiting_frames(&mut next).iter().any(|frame| is_arp_reply(frame)), "{said:?}");
        assert!(deaf.write_all(&question).is_err(), "the one before is gone");
        leave(&next);
        turns(&mut worker);
    }
}

/// The program as a child; killed when a test fails.
struct Program {
    child: Child,
    messages: BufReader<ChildStderr>,
}

impl Program {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_passt"))
            .args(["-f", "-4", "-a", "192.0.2.2/24", "-g", "192.0.2.1"])
            .args(arguments)
            .current_dir(folder)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let messages = BufReader::new(child.stderr.take().unwrap());
        Self { child, messages }
    }

    /// Reads messages up to one that holds `wanted`.
    fn await_message(&mut self, wanted: &str) {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert!(self.messages.read_line(&mut line).unwrap() > 0, "no message '{wanted}'");
        }
    }

    /// What it ends with; it has to end.
    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it runs on");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads frames up to one that `wanted` accepts.
fn await_frame(client: &mut UnixStream, wanted: fn(&[u8]) -> bool) {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    while !wanted(&frame(client)) {}
}

#[test]
fn a_handed_over_socket_is_served_until_its_client_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let (mut client, theirs) = UnixStream::pair().unwrap();
    client.write_all(&with_length(&rapid_discover())).unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let fd = theirs.as_raw_fd().to_string();
    let mut program = Program::start(folder.path(), &["--fd", &fd]);
    drop(theirs);
    await_frame(&mut client, is_dhcp_ack);
    client.write_all(&with_length(&arp_request())).unwrap();
    await_frame(&mut client, is_arp_reply);
    leave(&client);
    program.await_message("Client connection closed, exiting");
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

#[test]
fn clients_come_and_go_and_the_program_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path(), &["-s", "socket"]);
    program.await_message("UNIX domain socket bound at socket");
    program.await_message("You can now start qemu");
    program.await_message("-netdev stream,id=s,server=off,addr.type=unix,addr.path=socket");
    let path = folder.path().join("socket");
    let ours = std::process::id();
    for _ in 0..2 {
        let mut client = UnixStream::connect(&path).unwrap();
        program.await_message(&format!("accepted connection from PID {ours}"));
        client.write_all(&with_length(&arp_request())).unwrap();
        await_frame(&mut client, is_arp_reply);
        let mut second = UnixStream::connect(&path).unwrap();
        program.await_message(&format!("discarding connection from PID {ours}"));
        assert_eq!(second.read(&mut [0]).unwrap(), 0);
        leave(&client);
        program.await_message("Client connection closed");
    }
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&[0, 0, 0, 5]).unwrap();
    program.await_message("Bad frame size from guest, resetting connection");
    assert_eq!(program.child.try_wait().unwrap(), None, "it goes on");
}

#[test]
fn each_of_many_clients_is_served_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path(), &["-q", "-s", "socket", "-l", "log"]);
    let path = folder.path().join("socket");
    // The path exists a moment before anybody listens.
    while UnixStream::connect(&path).is_err() {
        assert_eq!(program.child.try_wait().unwrap(), None, "it runs");
        std::thread::yield_now();
    }
    for _ in 0..300 {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(&with_length(&arp_request()).repeat(20)).unwrap();
        await_frame(&mut client, is_arp_reply);
        leave(&client);
    }
}

#[test]
fn one_off_ends_with_its_only_client() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path(), &["-1", "-s", "socket"]);
    program.await_message("You can now start qemu");
    let mut client = UnixStream::connect(folder.path().join("socket")).unwrap();
    client.write_all(&with_length(&arp_request())).unwrap();
    await_frame(&mut client, is_arp_reply);
    leave(&client);
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

#[test]
fn one_off_ends_with_a_client_that_leaves_without_a_word() {
    for &mode in ONE_OFF {
        let folder = tempfile::tempdir().unwrap();
        let mut program = Program::start(folder.path(), mode);
        program.await_message("start qemu");
        leave(&UnixStream::connect(folder.path().join("socket")).unwrap());
        assert_eq!(program.exit_code(), Some(0));
        program.await_message("Client connection closed, exiting");
    }
}

#[test]
fn another_start_with_the_same_path_is_no_client() {
    for &mode in ONE_OFF {
        let folder = tempfile::tempdir().unwrap();
        let mut program = Program::start(folder.path(), mode);
        program.await_message("start qemu");
        for _ in 0..3 {
            let mut second = Program::start(folder.path(), &["-s", "socket"]);
            second.await_message("Socket path socket already in use");
            assert_eq!(second.child.wait().unwrap().code(), Some(1));
        }
        // Served after them, and so proof that the program still runs.
        let mut client = UnixStream::connect(folder.path().join("socket")).unwrap();
        let question = if mode[0] == "-1" { with_length(&arp_request()) } else { get_features() };
        client.write_all(&question).unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
    }
}

/// A vhost-user request: GET_FEATURES, version 1, no payload.
fn get_features() -> Vec<u8> {
    [1u32, 1, 0].map(u32::to_ne_bytes).concat()
}

#[test]
fn a_default_path_is_found_next_to_one_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let default_path = |program: &mut Program| {
        let mut line = String::new();
        while !line.starts_with("UNIX domain socket bound at ") {
            line.clear();
            assert!(program.messages.read_line(&mut line).unwrap() > 0, "no socket was bound");
        }
        program.await_message("You can now start qemu");
        line.rsplit(' ').next().unwrap().trim().to_owned()
    };
    let mut programs = [None, None];
    let paths = programs
        .each_mut()
        .map(|program| default_path(program.insert(Program::start(folder.path(), &[]))));
    assert_ne!(paths[0], paths[1]);
    for path in &paths {
        assert!(path.starts_with("/tmp/passt_") && path.ends_with(".socket"), "{path}");
        let mut client = UnixStream::connect(path).unwrap();
        client.write_all(&with_length(&arp_request())).unwrap();
        await_frame(&mut client, is_arp_reply);
    }
    drop(programs);
    for path in paths {
        std::fs::remove_file(path).unwrap();
    }
}
