//! A passt that waits for a guest. They are looked for where passt makes its sockets if nobody says where, in that order.
//! `/tmp` is everybody's: who made a socket is looked at, and nothing that is said there is taken out of it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use passt_frame::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

use super::failure::Failure;
use crate::conf::{DEFAULT_SOCKETS, default_socket};
use crate::sys::errno_text;

/// How long a passt may take to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whom passt is if root starts it.
const NOBODY: u32 = 65534;

/// A frame with its length in front, as QEMU sends it: who has an address that nobody asks for? passt, which answers
/// for all. The sender is what QEMU calls a guest's card if nobody says otherwise, and has no address yet (RFC 5227).
const QUESTION: [u8; 4 + 14 + 28] = [
    0, 0, 0, 42, // bytes that follow
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x08,
    0x06, // to all, ARP
    0, 1, 8, 0, 6, 4, 0, 1, // Ethernet and IPv4, a request
    0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0, 0, 0, // from
    0, 0, 0, 0, 0, 0, 192, 0, 0, 8, // for the dummy address of RFC 7600
];

/// The connection with the first passt that answers, and where it is. What it said is left for QEMU.
///
/// # Errors
/// There is none; what was wrong with those that are there.
pub(super) fn find() -> Result<(OwnedFd, PathBuf), Failure> {
    let mut refusals = Vec::new();
    for path in DEFAULT_SOCKETS.map(default_socket) {
        match ask(&path) {
            Ok(socket) => return Ok((socket, path)),
            Err(Refusal::Absent) => {}
            Err(Refusal::Said(text)) => refusals.push(format!("{}: {text}", path.display())),
        }
    }
    Err(Failure(nobody(&refusals)))
}

fn nobody(refusals: &[String]) -> String {
    let (first, last) = DEFAULT_SOCKETS.into_inner();
    let (first, last) = (default_socket(first), default_socket(last));
    let mut text = format!("There is no passt at {} to {}", first.display(), last.display());
    if !refusals.is_empty() {
        text.push_str(&format!(" that would take a guest: {}", refusals.join("; ")));
    }
    text + ": start one for this guest, with `passt`"
}

/// Why a socket is none to be used.
#[derive(Debug)]
enum Refusal {
    Absent,
    Said(String),
}

impl Refusal {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Absent,
            Errno::CONNREFUSED => Self::Said("nobody listens".to_owned()),
            Errno::CONNRESET | Errno::PIPE => Self::Said("serves another guest".to_owned()),
            Errno::AGAIN => Self::Said("does not answer".to_owned()),
            errno => Self::Said(errno_text(errno)),
        }
    }
}

fn ask(path: &Path) -> Result<OwnedFd, Refusal> {
    let address = SocketAddrUnix::new(path).map_err(Refusal::of)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(Refusal::of)?;
    set_patience(&socket, Some(PATIENCE)).map_err(Refusal::of)?;
    connect(&socket, &address).map_err(Refusal::of)?;
    let owner = sockopt::socket_peercred(&socket).map_err(Refusal::of)?.uid.as_raw();
    if !is_trusted(owner, rustix::process::geteuid().as_raw()) {
        return Err(Refusal::Said(format!("belongs to user {owner}")));
    }
    send(&socket, &QUESTION, SendFlags::NOSIGNAL).map_err(Refusal::of)?;
    let (said, _) = recv(&socket, &mut [0; 1][..], RecvFlags::PEEK).map_err(Refusal::of)?;
    if said == 0 {
        return Err(Refusal::of(Errno::CONNRESET));
    }
    set_patience(&socket, None).map_err(Refusal::of)?;
    Ok(socket)
}

fn set_patience(socket: &OwnedFd, time: Option<Duration>) -> Result<(), Errno> {
    sockopt::set_socket_timeout(socket, Timeout::Send, time)?;
    sockopt::set_socket_timeout(socket, Timeout::Recv, time)
}

/// Whether a guest of `user` may be entrusted to a program of `owner`.
fn is_trusted(owner: u32, user: u32) -> bool {
    owner == user || owner == 0 || (user == 0 && owner == NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use passt_support::wait::leave_socket;

    /// A socket at which `serve` gets the connection.
    fn at_a_socket(serve: fn(UnixStream)) -> Result<OwnedFd, Refusal> {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket can be made there");
        let server = std::thread::spawn(move || {
            serve(listener.accept().expect("somebody comes").0);
        });
        let asked = ask(&path);
        server.join().expect("the server is content");
        asked
    }

    fn refusal(asked: Result<OwnedFd, Refusal>) -> String {
        match asked {
            Err(Refusal::Said(text)) => text,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_left_where_it_is() {
        let found = at_a_socket(|mut stream| {
            let mut question = [0; QUESTION.len()];
            stream.read_exact(&mut question).expect("the question arrives");
            assert_eq!(question, QUESTION);
            stream.write_all(b"\0\0\0\x02ab").expect("the answer is sent");
        });
        let mut answer = Vec::new();
        let mut stream = UnixStream::from(found.expect("it has answered"));
        assert_eq!(stream.read_timeout().expect("it can be asked"), None);
        stream.read_to_end(&mut answer).expect("the answer arrives");
        assert_eq!(answer, b"\0\0\0\x02ab");
    }

    #[test]
    fn a_passt_that_has_a_guest_is_another_ones() {
        assert_eq!(refusal(at_a_socket(drop)), "serves another guest");
    }

    #[test]
    fn who_says_nothing_is_no_passt() {
        let silent = at_a_socket(|mut stream| {
            // Until qrap gives up.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(refusal(silent), "does not answer");
    }

    #[test]
    fn where_nobody_listens_is_told_from_where_nothing_is() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let path = folder.path().join("socket");
        assert!(matches!(ask(&path), Err(Refusal::Absent)));
        leave_socket(&path);
        assert_eq!(refusal(ask(&path)), "nobody listens");
    }

    #[test]
    fn strangers_get_no_guest() {
        for (owner, user, trusted) in [
            (1000, 1000, true),
            (0, 1000, true),
            (0, 0, true),
            (NOBODY, 0, true),
            (NOBODY, 1000, false),
            (1001, 1000, false),
            (1000, 0, false),
        ] {
            assert_eq!(is_trusted(owner, user), trusted, "{owner} for {user}");
        }
    }

    #[test]
    fn who_finds_none_is_told_what_there_is() {
        assert_eq!(
            nobody(&[]),
            "There is no passt at /tmp/passt_1.socket to /tmp/passt_99.socket: start one for this guest, with `passt`"
        );
        let text = nobody(&["/tmp/passt_1.socket: serves another guest".to_owned()]);
        assert!(
            text.contains(
                "that would take a guest: /tmp/passt_1.socket: serves another guest: start one"
            ),
            "{text}"
        );
    }
}
