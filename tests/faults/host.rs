//! The host's ends of all conversations: echoes that the guest asks, and a client that asks the guest. What they see that
//! nobody may see is a complaint, which fails the test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, Once};
use std::time::Duration;

/// Where the echoes are.
pub const ECHO: u16 = 9000;
/// The port that is forwarded to the guest.
pub const FORWARDED: u16 = 7000;
/// Bytes of a stream from outside, there and back.
const FROM_OUTSIDE: usize = 20_000;

/// Connections of the guest that the echo has not seen end.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// Bytes of each of their streams.
static EXPECTED: AtomicUsize = AtomicUsize::new(0);
static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What has become of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Talk {
    /// It goes on, or nobody knows.
    #[default]
    Open,
    /// Everything came back, in order and right, and then its end.
    Whole,
    /// It was reset, or refused.
    Reset,
}

/// The byte at a place of every stream.
pub fn byte(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8
}

/// Bytes of a stream from a place on.
pub fn bytes(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(byte).collect()
}

/// Whether these are the bytes of a stream from a place on.
pub fn are_right(from: usize, bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, got)| *got == byte(from + at))
}

fn complain(what: String) {
    COMPLAINTS.lock().expect("nobody panics").push(what);
}

/// What was seen since the last time that it was asked for.
pub fn complaints() -> Vec<String> {
    std::mem::take(&mut *COMPLAINTS.lock().expect("nobody panics"))
}

/// Connections of the guest whose end the host has not seen.
pub fn open() -> usize {
    OPEN.load(Ordering::Relaxed)
}

/// Echoes on the loopback device. From now on streams of the guest have `len` bytes, if they are not reset.
pub fn serve(len: usize) {
    EXPECTED.store(len, Ordering::Relaxed);
    static SERVES: Once = Once::new();
    SERVES.call_once(begin);
}

fn begin() {
    let listener = TcpListener::bind(("127.0.0.1", ECHO)).expect("a free port");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            OPEN.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                match echo(&mut stream.expect("a stream")) {
                    Ok(came) if came != EXPECTED.load(Ordering::Relaxed) => {
                        complain(format!("the echo hears {came} and the end"));
                    }
                    _ => {}
                }
                OPEN.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    let socket = UdpSocket::bind(("127.0.0.1", ECHO)).expect("a free port");
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..len], from);
        }
    });
}

/// Sends back what comes. How much that was, when the other end has closed it.
pub fn echo(stream: &mut TcpStream) -> std::io::Result<usize> {
    let (mut bytes, mut came) = ([0; 16_384], 0);
    loop {
        let len = match stream.read(&mut bytes)? {
            0 => return Ok(came),
            len => len,
        };
        if !are_right(came, &bytes[..len]) {
            complain(format!("a wrong byte for the echo behind {came}"));
        }
        came += len;
        stream.write_all(&bytes[..len])?;
    }
}

/// Connects to the forwarded port and says something, which is to come back within `patience`.
pub fn ask(patience: Duration) -> Receiver<Talk> {
    let (to, from) = channel();
    std::thread::spawn(move || {
        let stream = TcpStream::connect(("127.0.0.1", FORWARDED));
        let talk = stream.map_or(Talk::Reset, |stream| talk(stream, FROM_OUTSIDE, patience));
        let _ = to.send(talk);
    });
    from
}

/// Has `len` bytes sent back by whoever is at the other end.
pub fn talk(mut stream: TcpStream, len: usize, patience: Duration) -> Talk {
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    stream.set_write_timeout(Some(patience)).expect("a timeout");
    let mut writer = stream.try_clone().expect("a duplicate");
    // Nobody reads what is not written: who writes and reads by turns may wait for itself.
    let writing = std::thread::spawn(move || {
        writer.write_all(&bytes(0, len)).and_then(|()| writer.shutdown(std::net::Shutdown::Write))
    });
    let ended = listen(&mut stream, len);
    drop(stream);
    let wrote = writing.join().is_ok_and(|wrote| wrote.is_ok());
    match ended {
        // A reset is told once: to who reads, or to who writes.
        Ok(came) if came < len && wrote => {
            complain(format!("the end behind {came} of {len} bytes"));
            Talk::Reset
        }
        Ok(came) if came < len => Talk::Reset,
        Ok(_) => Talk::Whole,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Talk::Open,
        Err(_) => Talk::Reset,
    }
}

/// Reads until the end. How much it was.
fn listen(stream: &mut TcpStream, len: usize) -> std::io::Result<usize> {
    let (mut buffer, mut came) = ([0; 16_384], 0);
    loop {
        let some = match stream.read(&mut buffer)? {
            0 => return Ok(came),
            some => some,
        };
        if came + some > len || !are_right(came, &buffer[..some]) {
            complain(format!("a wrong byte behind {came}"));
        }
        came += some;
    }
}
