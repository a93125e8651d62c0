//! A TFTP server for one file, a pattern (RFC 1350). Each transfer has a port of its own, as section 4 wants it: that is
//! what makes TFTP hard for whatever stands between client and server.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::Outcome;
use crate::pattern::Pattern;

const READ_REQUEST: u8 = 1;
const DATA: u8 = 3;
const ACKNOWLEDGEMENT: u8 = 4;
/// Bytes of a block; a shorter one is the last.
const BLOCK_BYTES: usize = 512;
/// How long to wait for an acknowledgement, and how often.
const WAIT: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

/// Sends the first `bytes` bytes of the stream of `seed` to whoever asks for a file, one after the other.
pub fn serve(at: SocketAddr, bytes: usize, seed: u64) -> Outcome {
    let socket = UdpSocket::bind(at)?;
    println!("ready");
    let mut request = [0; 512];
    loop {
        let (len, client) = socket.recv_from(&mut request)?;
        if request[..len].starts_with(&[0, READ_REQUEST]) {
            match transfer(at, client, bytes, seed) {
                Ok(()) => println!("sent to {client}"),
                Err(error) => println!("{client}: {error}"),
            }
        }
    }
}

fn transfer(at: SocketAddr, client: SocketAddr, bytes: usize, seed: u64) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(at.ip(), 0))?;
    socket.connect(client)?;
    socket.set_read_timeout(Some(WAIT))?;
    let mut file = vec![0; bytes];
    Pattern::new(seed).fill(&mut file);
    for number in 1..=bytes / BLOCK_BYTES + 1 {
        let start = (number - 1) * BLOCK_BYTES;
        let block = &file[start..bytes.min(start + BLOCK_BYTES)];
        let [high, low] = (number as u16).to_be_bytes();
        let packet = [&[0, DATA, high, low], block].concat();
        let acknowledged = (0..TRIES).any(|_| {
            let mut answer = [0; 4];
            socket.send(&packet).is_ok()
                && socket.recv(&mut answer).is_ok()
                && answer == [0, ACKNOWLEDGEMENT, high, low]
        });
        if !acknowledged {
            return Err(io::Error::new(ErrorKind::TimedOut, format!("no word of block {number}")));
        }
    }
    Ok(())
}
