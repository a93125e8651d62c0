//! Many questions, each from a port of its own, as resolvers ask them.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::Outcome;

/// Silence after which a question counts as lost.
const PATIENCE: Duration = Duration::from_secs(3);

/// Questions that wait for their answers at most: as many small datagrams as a socket of the server holds by default
/// (212,992 bytes, some 770 for each), so that none is lost there when either end has not run for a while.
const WAITING: usize = 200;

/// Asks a server that echoes datagrams `rate` questions a second for `seconds`, and wants each answered.
pub fn storm(to: SocketAddr, rate: u32, seconds: u32) -> Outcome {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (start, all) = (Instant::now(), rate * seconds);
    let mut waiting: VecDeque<(UdpSocket, u32, Instant)> = VecDeque::new();
    let (mut asked, mut lost, mut late) = (0u32, 0u32, 0u32);
    while asked < all || !waiting.is_empty() {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        late = late.max(due.min(all).saturating_sub(asked));
        while asked < due.min(all) && waiting.len() < WAITING {
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            socket.send(&asked.to_be_bytes())?;
            waiting.push_back((socket, asked, Instant::now()));
            asked += 1;
        }
        let mut answer = [0; 16];
        waiting.retain(|(socket, number, since)| match socket.recv(&mut answer) {
            Ok(len) => {
                lost += u32::from(answer[..len] != number.to_be_bytes());
                false
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && since.elapsed() < PATIENCE => {
                true
            }
            Err(_) => {
                lost += 1;
                false
            }
        });
        std::thread::sleep(Duration::from_micros(500));
    }
    match lost {
        0 => Ok(format!("ok {asked} questions in {:.0} s", start.elapsed().as_secs_f64())),
        _ => {
            Err(format!("{lost} of {asked} questions were not answered, {late} were asked late")
                .into())
        }
    }
}
