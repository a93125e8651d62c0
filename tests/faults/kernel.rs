//! A guest of pasta: the kernel's own stack, in a namespace.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use passt_support::namespace::Netns;

use crate::guest::{DATAGRAM, Heard};
use crate::host::{self, ECHO, FORWARDED, Talk};

/// Where pasta has its host's loopback.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A namespace in which somebody echoes what comes to the forwarded port.
pub fn namespace() -> Netns {
    let namespace = Netns::new("ip link set lo up");
    namespace.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, FORWARDED)).expect("a free port");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || host::echo(&mut stream.expect("a stream")));
            }
        });
    });
    namespace
}

/// Has `len` bytes echoed through the tap device, and a datagram, while a client outside asks for an echo. What came of it
/// within `patience`.
pub fn converse(namespace: &Netns, len: usize, patience: Duration) -> Heard {
    let asked = host::ask(patience);
    let (out, datagram) = namespace.run(move || {
        // Always the same: flows of datagrams live longer than a conversation.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5000)).expect("a free port");
        socket.set_read_timeout(Some(patience.min(DATAGRAM))).expect("a timeout");
        let sent = socket.send_to(b"echo", (GATEWAY, ECHO)).is_ok();
        let to = SocketAddr::from((GATEWAY, ECHO));
        let out = match TcpStream::connect_timeout(&to, patience) {
            Ok(stream) => host::talk(stream, len, patience),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Talk::Open,
            Err(_) => Talk::Reset,
        };
        let mut bytes = [0; 16];
        let came = socket.recv(&mut bytes).is_ok_and(|len| {
            assert_eq!(&bytes[..len], b"echo", "a wrong datagram");
            true
        });
        (out, sent && came)
    });
    Heard { out, inward: asked.recv().expect("it answers"), datagram, lost: false }
}
