//! slirp4netns's protocol on a socket: when a request is answered, and in which words.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};

use passt::control::hostfwd::{HostForward, KIND};
use passt::control::server::Server;

use crate::namespace::isolated;
use crate::world::{Family, Setup, World};

const TURNS: usize = 256;

/// A world with such a socket.
struct Rig {
    world: World,
    folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("bound");
        let server = Server::new(listener.into(), KIND, [HostForward::default()]);
        let mut world = World::new(&Setup::default());
        world.add(Box::new(server.expect("it does not block")));
        Self { world, folder }
    }

    /// What is answered to these pieces, with `(end)` where the connection is over. The client's side stays open.
    fn ask(&mut self, pieces: &[&[u8]]) -> String {
        let mut client = UnixStream::connect(self.folder.path().join("s")).expect("it listens");
        client.set_nonblocking(true).expect("not blocking");
        for piece in pieces {
            client.write_all(piece).expect("sent");
            self.world.settle(TURNS);
        }
        let mut text = String::new();
        match client.read_to_string(&mut text) {
            Ok(_) => text.push_str("(end)"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        text
    }
}

/// As `echo -n ... | nc -U` sends it: nothing says that it is all.
#[test]
fn an_object_is_answered_when_it_is_whole() {
    isolated(|| {
        let mut rig = Rig::new();
        let empty = "{\"return\":{\"entries\":[]}}\n(end)";
        assert_eq!(rig.ask(&[br#"{"execute": "list_hostfwd"}"#]), empty);
        assert_eq!(rig.ask(&[b"\n {\"exe", b"cute\":\n", b"\"list_hostfwd\"", b" }"]), empty);
        for half in [&b"{"[..], b"", b"\n", b"{\"execute\": \"list_hostfwd\"\n", b"tru"] {
            assert_eq!(rig.ask(&[half]), "", "more may come");
        }
        for wrong in [&b"x"[..], b"{]", b"{\"execute\": list_hostfwd"] {
            let said = rig.ask(&[wrong]);
            assert!(said.contains("bad request: no JSON object: ") && said.ends_with("(end)"));
        }
        let said = rig.ask(&[br#"{"execute": "list_hostfwd"} x"#]);
        assert!(said.contains("trailing characters"), "{said}");
    });
}

#[test]
fn cures_are_those_of_this_name() {
    isolated(|| {
        let add = |addr: &str| {
            format!(
                "{{\"execute\":\"add_hostfwd\",\"arguments\":{{\"proto\":\"tcp\",\"host_addr\":\"{addr}\",\
                 \"host_port\":7001,\"guest_port\":80}}}}\n"
            )
        };
        let mut rig = Rig::new();
        let _taken = TcpListener::bind(Family::V4.host_at(7001)).expect("a free port");
        let said = rig.ask(&[add("198.51.100.1").as_bytes()]);
        assert!(said.contains("add_hostfwd: Listen failed for HOST TCP port 198.51.100.1/7001: "));
        assert!(
            said.ends_with(": choose another one, or stop the program that has it\"}}\n(end)"),
            "{said}"
        );
        let mut view = rig.world.engine.view();
        view.network.v6 = None;
        rig.world.engine.replace_net(view).expect("nothing listens");
        let said = rig.ask(&[add("::").as_bytes()]);
        assert!(said.ends_with(": leave it out, or start with --enable-ipv6\"}}\n(end)"), "{said}");
    });
}

/// Neither does slirp4netns get there.
#[test]
fn a_loopback_address_of_the_guests_is_refused() {
    isolated(|| {
        let mut rig = Rig::new();
        for guest in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            let said = rig.ask(&[format!(
                "{{\"execute\":\"add_hostfwd\",\"arguments\":{{\"proto\":\"tcp\",\"host_port\":7001,\
                 \"guest_addr\":\"{guest}\",\"guest_port\":80}}}}"
            )
            .as_bytes()]);
            let wanted =
                format!("add_hostfwd: nothing gets to 'guest_addr' {guest}, a loopback address");
            assert!(said.contains(&wanted) && said.contains(": leave it out"), "{guest}: {said}");
        }
        let list = rig.ask(&[br#"{"execute": "list_hostfwd"}"#]);
        assert_eq!(list, "{\"return\":{\"entries\":[]}}\n(end)");
    });
}
