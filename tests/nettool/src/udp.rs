//! The client's half of datagrams.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::Outcome;
use crate::pattern::Pattern;
use crate::tcp::describe;

/// How long to wait for an echo before the datagram counts as lost.
const ECHO_WAIT: Duration = Duration::from_secs(3);

/// Sends one datagram of every interesting size and wants each back unchanged.
pub fn edges(to: SocketAddr, max: usize) -> Outcome {
    let socket = open(to)?;
    let sizes = sizes(max);
    for &size in &sizes {
        echo(&socket, size).map_err(|error| format!("{size} bytes: {error}"))?;
    }
    Ok(format!("ok {} sizes from 1 to {max} bytes", sizes.len()))
}

/// Sends one byte and says which error comes back.
pub fn error(to: SocketAddr) -> Outcome {
    let socket = open(to)?;
    socket.send(&[0])?;
    match socket.recv(&mut [0; 16]) {
        Ok(_) => Ok("answered".to_owned()),
        Err(error) => Ok(describe(&error)),
    }
}

/// Powers of two and their neighbours, the edges of common MTUs, and `max`.
fn sizes(max: usize) -> Vec<usize> {
    let powers = (0..16).flat_map(|bit| [(1_usize << bit) - 1, 1 << bit, (1 << bit) + 1]);
    let edges = [1232, 1280, 1452, 1453, 1471, 1472, 1473, 1500, 8972, 8973, 9000];
    let mut sizes: Vec<usize> = powers.chain(edges).chain([max - 1, max]).collect();
    sizes.retain(|&size| (1..=max).contains(&size));
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn echo(socket: &UdpSocket, size: usize) -> io::Result<()> {
    let (mut sent, mut found) = (vec![0; size], vec![0; 65536]);
    Pattern::new(size as u64).fill(&mut sent);
    socket.send(&sent)?;
    let count = socket.recv(&mut found)?;
    if found[..count] == sent {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::InvalidData, format!("{count} other bytes came back")))
}

fn open(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(ECHO_WAIT))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::sizes;

    #[test]
    fn sizes_stay_in_range_and_hold_the_edges() {
        let sizes = sizes(65507);
        assert_eq!((sizes.first(), sizes.last()), (Some(&1), Some(&65507)));
        for edge in [2, 3, 255, 256, 257, 1472, 1473, 32767, 32768, 32769, 65506] {
            assert!(sizes.contains(&edge), "{edge}");
        }
    }
}
