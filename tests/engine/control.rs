//! Clients of a control socket, by a protocol of lines: those that are well are served, several at a time; those
//! that are not are cut off, and none keeps anything from going on.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use passt::control::channel::Channel;
use passt::control::protocol::{Next, Protocol};
use passt::control::server::{Kind, Server};
use passt::engine::{Calls, Engine, Source};
use passt::limits::{CONTROL_GRACE, CONTROL_READS_WITHIN};
use passt_frame::ToGuest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::namespace::isolated;
use crate::sockets::copies;
use crate::world::{Setup, World};

const TURNS: usize = 256;
const PATIENCE: Duration = Duration::from_secs(30);
const KIND: Kind =
    Kind { name: "test", arrivals: log::Level::Info, input_bytes: 64, output_bytes: 64 };

/// Answers lines: `list N` by N lines, `watch` by a line for each turn with another number of flows, `bye` by the
/// end, and any other one by itself.
#[derive(Default)]
struct Lines {
    left: u32,
    flows: Option<usize>,
}

impl Lines {
    fn take_line(channel: &mut Channel) -> Option<String> {
        let end = channel.input().iter().position(|byte| *byte == b'\n')?;
        let line = String::from_utf8_lossy(&channel.input()[..end]).into_owned();
        channel.use_up(end + 1);
        Some(line)
    }
}

impl Protocol for Lines {
    fn begin(&mut self) {
        *self = Self::default();
    }

    fn go_on(
        &mut self,
        engine: &mut Engine,
        _out: &mut dyn ToGuest,
        channel: &mut Channel,
    ) -> Next {
        loop {
            while self.left > 0 {
                if !channel.write(format!("{}\n", self.left).as_bytes()) {
                    return Next::More;
                }
                self.left -= 1;
            }
            if let Some(told) = &mut self.flows
                && *told != engine.flow_count()
                && channel.write(format!("flows {}\n", engine.flow_count()).as_bytes())
            {
                *told = engine.flow_count();
            }
            if channel.room() < KIND.output_bytes / 2 {
                return Next::More;
            }
            let Some(line) = Self::take_line(channel) else { return Next::Wait };
            match line.split_once(' ') {
                Some(("list", count)) => self.left = count.parse().expect("a number"),
                _ if line == "watch" => self.flows = Some(engine.flow_count()),
                _ if line == "bye" => return Next::Close,
                _ => assert!(channel.write(format!("{line}\n").as_bytes())),
            }
        }
    }

    fn patience(&self) -> Option<Duration> {
        (!self.watches()).then_some(PATIENCE)
    }

    fn watches(&self) -> bool {
        self.flows.is_some()
    }
}

/// A world whose control socket has `places`, and where that is.
struct Rig {
    world: World,
    folder: tempfile::TempDir,
}

impl Rig {
    fn new(places: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("bound");
        let protocols = (0..places).map(|_| Lines::default());
        let server = Server::new(listener.into(), KIND, protocols).expect("it does not block");
        assert_eq!(server.calls(), Calls::default(), "nothing to do without clients");
        let mut world = World::new(&Setup::default());
        world.add(Box::new(server));
        Self { world, folder }
    }

    fn connect(&mut self) -> UnixStream {
        let client = UnixStream::connect(self.folder.path().join("s")).expect("it listens");
        client.set_nonblocking(true).expect("not blocking");
        self.world.settle(TURNS);
        client
    }

    fn ask(&mut self, client: &mut UnixStream, what: &str) -> String {
        client.write_all(what.as_bytes()).expect("sent");
        self.world.settle(TURNS);
        said(client)
    }

    fn skip(&mut self, time: Duration) {
        self.world.skip(time);
        self.world.turn(Duration::ZERO);
        self.world.settle(TURNS);
    }
}

/// What has come, up to now.
fn said(client: &mut UnixStream) -> String {
    let mut text = String::new();
    match client.read_to_string(&mut text) {
        Ok(_) => text.push_str("(end)"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => text.push_str("(reset)"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
    }
    text
}

#[test]
fn several_clients_are_served_each_for_itself() {
    let mut rig = Rig::new(2);
    let (mut first, mut second) = (rig.connect(), rig.connect());
    assert_eq!(rig.ask(&mut first, "hel"), "");
    assert_eq!(rig.ask(&mut second, "one\ntwo\n"), "one\ntwo\n");
    assert_eq!(rig.ask(&mut first, "lo\n"), "hello\n");
    assert_eq!(rig.ask(&mut first, "bye\n"), "(end)");
    let mut third = rig.connect();
    assert_eq!(rig.ask(&mut third, "three\n"), "three\n", "the place is free again");
    drop(third);
    rig.world.settle(TURNS);
    assert_eq!(rig.ask(&mut second, "still here\n"), "still here\n");
}

#[test]
fn who_sends_no_more_gets_its_answers() {
    let mut rig = Rig::new(1);
    let mut client = rig.connect();
    client.write_all(b"list 100\nlast\nhalf of a li").expect("sent");
    client.shutdown(std::net::Shutdown::Write).expect("half closed");
    rig.world.settle(TURNS);
    let lines: Vec<_> = (1..=100).rev().map(|number| number.to_string()).collect();
    assert_eq!(said(&mut client), format!("{}\nlast\n(end)", lines.join("\n")));
}

#[test]
fn a_list_is_longer_than_any_buffer() {
    let mut rig = Rig::new(1);
    let mut client = rig.connect();
    client.write_all(b"list 200000\n").expect("sent");
    let mut text = String::new();
    while !text.ends_with("\n1\n") {
        rig.world.turn(Duration::ZERO);
        text.push_str(&said(&mut client));
    }
    assert_eq!(text.lines().count(), 200_000);
    rig.world.settle(TURNS);
}

#[test]
fn who_says_nothing_or_only_half_goes_in_time() {
    let mut rig = Rig::new(3);
    let (mut silent, mut half, mut fine) = (rig.connect(), rig.connect(), rig.connect());
    rig.skip(PATIENCE - Duration::from_secs(1));
    assert_eq!(rig.ask(&mut half, "hal"), "");
    assert_eq!(rig.ask(&mut fine, "fine\n"), "fine\n");
    assert_eq!(said(&mut silent), "");
    rig.skip(Duration::from_secs(2));
    assert_eq!(said(&mut silent), "(end)");
    assert_eq!(said(&mut half), "(end)", "bytes are no request");
    assert_eq!(rig.ask(&mut fine, "still\n"), "still\n");
    rig.skip(PATIENCE);
    assert_eq!(said(&mut fine), "(end)");
}

/// The program was stopped, or the clients had to rest.
#[test]
fn who_has_asked_while_nobody_looked_is_answered() {
    let mut rig = Rig::new(3);
    let mut clients = [(); 3].map(|()| rig.connect());
    clients.iter_mut().for_each(|client| client.write_all(b"hello\n").expect("sent"));
    rig.skip(2 * PATIENCE);
    clients.iter_mut().for_each(|client| assert_eq!(said(client), "hello\n"));
}

#[test]
fn who_does_not_read_goes_and_keeps_nobody_waiting() {
    let mut rig = Rig::new(2);
    let (mut deaf, mut fine) = (rig.connect(), rig.connect());
    deaf.write_all(b"list 200000\n").expect("sent");
    rig.world.settle(TURNS * TURNS);
    assert_eq!(rig.ask(&mut fine, "hello\n"), "hello\n");
    rig.skip(CONTROL_READS_WITHIN);
    let text = said(&mut deaf);
    assert!(text.ends_with("(end)") && text.len() > 64, "{} bytes", text.len());
    assert_eq!(rig.ask(&mut fine, "hello\n"), "hello\n");
}

#[test]
fn a_request_has_an_end() {
    let mut rig = Rig::new(1);
    let mut client = rig.connect();
    client.write_all(&[b'x'; 65]).expect("sent");
    rig.world.settle(TURNS);
    assert_eq!(said(&mut client), "(reset)", "it has sent more than was read");
    let mut next = rig.connect();
    assert_eq!(rig.ask(&mut next, "hello\n"), "hello\n", "nothing is left of it");
}

#[test]
fn who_listens_is_told_and_may_be_silent() {
    let mut rig = Rig::new(1);
    let mut client = rig.connect();
    assert_eq!(rig.ask(&mut client, "watch\n"), "");
    rig.skip(10 * PATIENCE);
    assert_eq!(said(&mut client), "");
    let guest = crate::datagrams::guest_at(crate::world::Family::V4);
    let to = std::net::SocketAddr::from(([192, 0, 2, 1], 9));
    rig.world.send(crate::packet::udp(guest, to, b"hello"));
    rig.world.settle(TURNS);
    assert_eq!(said(&mut client), "flows 1\n");
    assert_eq!(rig.ask(&mut client, "bye\n"), "(end)");
}

#[test]
fn who_has_no_place_waits_and_the_others_have_to_be_quick() {
    let mut rig = Rig::new(2);
    let (mut silent, mut listens) = (rig.connect(), rig.connect());
    assert_eq!(rig.ask(&mut listens, "watch\n"), "");
    let (mut third, mut fourth) = (rig.connect(), rig.connect());
    assert_eq!(rig.ask(&mut third, "third\n"), "");
    assert_eq!(said(&mut silent), "");
    rig.skip(CONTROL_GRACE);
    assert_eq!(said(&mut silent), "(end)");
    assert_eq!(said(&mut third), "third\n");
    assert_eq!(rig.ask(&mut fourth, "fourth\n"), "");
    rig.skip(CONTROL_GRACE);
    assert_eq!(said(&mut third), "(end)");
    assert_eq!(said(&mut fourth), "fourth\n");
    rig.skip(PATIENCE - Duration::from_secs(1));
    assert_eq!(rig.ask(&mut fourth, "nobody waits\n"), "nobody waits\n");
    assert_eq!(rig.ask(&mut listens, "bye\n"), "(end)", "who listens stays");
}

#[test]
fn where_all_only_listen_the_first_makes_room() {
    let mut rig = Rig::new(2);
    let (mut first, mut second) = (rig.connect(), rig.connect());
    assert_eq!(rig.ask(&mut first, "watch\n"), "");
    assert_eq!(rig.ask(&mut second, "watch\n"), "");
    rig.skip(2 * CONTROL_GRACE);
    assert_eq!(said(&mut first), "", "nobody waits");
    let mut third = rig.connect();
    assert_eq!(rig.ask(&mut third, "third\n"), "third\n");
    assert_eq!(said(&mut first), "(end)");
    assert_eq!(rig.ask(&mut second, "bye\n"), "(end)", "one place is enough");
}

#[test]
fn who_finds_no_descriptor_waits() {
    isolated(|| {
        let mut rig = Rig::new(2);
        let mut first = rig.connect();
        let mut second = UnixStream::connect(rig.folder.path().join("s")).expect("it listens");
        second.set_nonblocking(true).expect("not blocking");
        let limit = getrlimit(Resource::Nofile);
        let none = Rlimit { current: Some(3), ..limit };
        setrlimit(Resource::Nofile, none).expect("lowered");
        rig.world.settle(TURNS);
        assert_eq!(rig.ask(&mut second, "second\n"), "");
        assert_eq!(rig.ask(&mut first, "first\n"), "first\n");
        setrlimit(Resource::Nofile, limit).expect("raised");
        rig.skip(passt::limits::ACCEPT_RETRY);
        assert_eq!(said(&mut second), "second\n");
    });
}

#[test]
fn copies_of_a_client_s_socket_keep_nobody_busy() {
    isolated(|| {
        let mut rig = Rig::new(1);
        let client = rig.connect();
        // As a process has them that was begun now and has not run its program yet.
        let mut copies = copies();
        copies.retain(|(number, _)| *number != client.as_raw_fd());
        drop(client);
        rig.world.settle(TURNS);
        let mut next = rig.connect();
        assert_eq!(rig.ask(&mut next, "hello\n"), "hello\n");
    });
}

#[test]
fn a_crowd_of_the_unwell_leaves_nothing_behind() {
    let mut rig = Rig::new(4);
    for number in 0..1000 {
        let mut client = rig.connect();
        match number % 4 {
            0 => client.write_all(b"half of a li").expect("sent"),
            1 => client.write_all(&[b'x'; 200]).expect("sent"),
            2 => client.write_all(b"list 100000\n").expect("sent"),
            _ => {}
        }
        rig.world.settle(TURNS * TURNS);
        if number % 7 == 0 {
            rig.skip(CONTROL_READS_WITHIN);
        }
    }
    rig.skip(PATIENCE);
    let mut fine = rig.connect();
    assert_eq!(rig.ask(&mut fine, "hello\n"), "hello\n");
}
