//! Clients of control sockets, with what they send in pieces: whatever comes, there is one answer for each request, in
//! words that can be read, and what was refused has changed nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Once;
use std::time::Duration;

use passt::conf::ports::Kernel;
use passt::control::configuration::{self, Abilities, Configuration};
use passt::control::json::{self, About, Access, Json, Pace};
use passt::control::protocol::Protocol;
use passt::control::server::{Kind, Server};
use passt::flow::fwd::Proto;
use passt::fuzzing;
use rustix::net::SocketAddrUnix;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::input::Input;
use crate::world::{Family, Setup, World, forward};

/// What is open at most, and so how many ports there are: opening 60,000 tells no more.
const DESCRIPTORS: u64 = 400;

/// Enough for the longest change and the longest answer.
const TURNS: usize = 20_000;

const KERNEL: Kernel = Kernel { ephemeral: (32768, 60999), device_binding: true };

/// A world with one forwarded port that is controlled.
struct Rig {
    world: World,
    door: SocketAddrUnix,
}

impl Rig {
    fn new<P: Protocol + 'static>(kind: Kind, protocols: impl IntoIterator<Item = P>) -> Self {
        static LIMIT: Once = Once::new();
        LIMIT.call_once(|| {
            let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
            let limit = Rlimit { current: Some(DESCRIPTORS), maximum };
            setrlimit(Resource::Nofile, limit).expect("a lower limit");
        });
        let rules = vec![forward(Proto::Tcp, Family::V4, 7001)];
        let setup = Setup { rules, max_descriptors: DESCRIPTORS, ..Setup::default() };
        let mut world = World::new(&setup);
        // An abstract name, which is gone with the socket.
        let door = SocketAddrUnix::new_abstract_name(b"passt-fuzz").expect("a name");
        let kind_of_socket = rustix::net::SocketType::STREAM;
        let family = rustix::net::AddressFamily::UNIX;
        let socket = rustix::net::socket(family, kind_of_socket, None).expect("a socket");
        rustix::net::bind(&socket, &door).expect("a free name");
        rustix::net::listen(&socket, 8).expect("it listens");
        let listener = UnixListener::from(socket);
        let server = Server::new(listener.into(), kind, protocols).expect("it does not block");
        world.add(Box::new(server));
        Self { world, door }
    }

    fn connect(&mut self) -> Client {
        let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
        let socket = rustix::net::socket(family, kind, None).expect("a socket");
        rustix::net::connect(&socket, &self.door).expect("it listens");
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(true).expect("not blocking");
        let mut client = Client { socket, said: Vec::new(), ended: false };
        client.listen(&mut self.world);
        client
    }

    /// The forwarding rules, in words.
    fn rules(&self) -> Vec<String> {
        let view = self.world.engine.view();
        fuzzing::rules(&view.inbound).iter().map(ToString::to_string).collect()
    }

    /// Nobody is left, and what is left of them: a world without anything to do.
    fn settle(&mut self) {
        self.world.skip(Duration::from_secs(60));
        self.world.settle(TURNS);
        assert!(!self.world.engine.is_changing());
    }
}

struct Client {
    socket: UnixStream,
    said: Vec<u8>,
    ended: bool,
}

impl Client {
    /// Reads all that it is told.
    fn listen(&mut self, world: &mut World) {
        loop {
            world.settle(TURNS);
            let before = self.said.len();
            match self.socket.read_to_end(&mut self.said) {
                Ok(_) => self.ended = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.ended = true,
            }
            if self.said.len() == before {
                return;
            }
        }
    }

    /// Sends `bytes` and listens. Who was cut off sends no more.
    fn send(&mut self, world: &mut World, bytes: &[u8]) {
        let _cut_off = self.socket.write_all(bytes);
        self.listen(world);
    }
}

/// The configuration protocol: after the first byte, the rules of a request, in pieces.
pub fn configuration(data: &[u8]) {
    let mut input = Input(data);
    let abilities = Abilities { namespace: false, interfaces: input.u8() & 1 == 0 };
    let protocols = (0..2).map(|_| Configuration::new(abilities));
    let mut rig = Rig::new(configuration::KIND, protocols);
    let before = rig.rules();
    let mut client = rig.connect();
    assert!(fuzzing::configuration_told(&client.said), "a client that has come is told the rules");
    let told = client.said.len();
    while !input.is_empty() {
        client.send(&mut rig.world, input.piece());
    }
    let _ended_already = client.socket.shutdown(Shutdown::Write);
    client.listen(&mut rig.world);
    match client.said[told..] {
        [] => assert_eq!(rig.rules(), before, "without an answer nothing has changed"),
        [0] => {}
        [1, ref reason @ ..] => {
            assert_eq!(rig.rules(), before, "what was refused has changed nothing");
            let reason = std::str::from_utf8(reason).expect("words");
            assert!(!reason.trim().is_empty(), "a refusal without a reason");
        }
        ref other => panic!("no verdict: {other:?}"),
    }
    assert!(client.ended, "an answer, or the client's end, is the end");
    rig.settle();
    let again = rig.connect();
    assert!(fuzzing::configuration_told(&again.said), "the next client is told the rules");
}

/// What a server of others says: an end, or what can be said again.
pub fn server(data: &[u8]) {
    fuzzing::configuration_told(data);
}

/// The JSON protocol: lines, in pieces; the first byte says whether by the socket that changes nothing.
pub fn lines(data: &[u8]) {
    let mut input = Input(data);
    let access = if input.u8() & 1 == 0 { Access::Changes } else { Access::Reads };
    let about = About { program: "passt", mode: "stream", has_namespace: false, kernel: KERNEL };
    let pace = Pace::default();
    let protocols = (0..2).map(|_| Json::new(about, access, pace.clone()));
    let mut rig = Rig::new(json::KIND, protocols);
    let before = rig.rules();
    let mut client = rig.connect();
    let mut sent = Vec::new();
    while !input.is_empty() {
        let piece = input.piece();
        sent.extend_from_slice(piece);
        client.send(&mut rig.world, piece);
    }
    let _ended_already = client.socket.shutdown(Shutdown::Write);
    client.listen(&mut rig.world);
    let requests = sent.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let text = String::from_utf8(client.said).expect("text");
    let mut replies = 0;
    for line in text.lines() {
        let reply: serde_json::Value = serde_json::from_str(line).expect("one object a line");
        let Some(ok) = reply.get("ok") else {
            assert!(reply.get("event").is_some(), "neither a reply nor an event: {line}");
            continue;
        };
        replies += 1;
        let result = if ok == true { "result" } else { "error" };
        assert!(reply.get(result).is_some_and(|value| value.is_object()), "{line}");
    }
    assert_eq!(replies, requests.count(), "one reply for each request: {text}");
    if access == Access::Reads {
        assert_eq!(rig.rules(), before, "this socket changes nothing");
    }
    rig.settle();
}
