//! What holes are punched with: a server that says how it sees whoever asks, and a third party that it tells of the
//! port, as STUN and the peers of a DHT do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::Outcome;

/// How often one asks, and how long one waits for both each time.
const TRIES: usize = 5;
const WAIT: Duration = Duration::from_secs(1);
const HELLO: &str = "hello";

/// Tells everybody how it sees him, and sends him a word from `third`, for ever.
pub fn introduce(at: SocketAddr, third: SocketAddr) -> Outcome {
    let (socket, third) = (UdpSocket::bind(at)?, UdpSocket::bind(third)?);
    println!("ready");
    let mut bytes = [0; 64];
    loop {
        let (_, from) = socket.recv_from(&mut bytes)?;
        socket.send_to(format!("you are {}", from.port()).as_bytes(), from)?;
        third.send_to(HELLO.as_bytes(), from)?;
    }
}

/// Asks from `port` who it is, and answers a third party that writes to it; says who that was.
pub fn punch(port: u16, to: SocketAddr) -> Outcome {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, port))?;
    socket.set_read_timeout(Some(WAIT))?;
    let (mut name, mut bytes) = (None, [0; 64]);
    for _ in 0..TRIES {
        socket.send_to(b"who am I?", to)?;
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let said = String::from_utf8_lossy(&bytes[..len]).into_owned();
            match (&name, from == to) {
                (_, true) => name = Some(said),
                (Some(name), false) if said == HELLO => {
                    return Ok(format!("{name}, {from} says {said}"));
                }
                _ => {}
            }
        }
    }
    Err("nobody else has written".into())
}
