//! What a client says first on a TCP connection: 32 bytes, little endian.

use std::time::Duration;

/// Bytes of a request.
pub const REQUEST_BYTES: usize = 32;
/// Bytes of the verdict on what a sink received: bytes in the window, and in all.
pub const VERDICT_BYTES: usize = 16;
/// The count of a verdict that says the payload was not what was sent.
pub const CORRUPT: u64 = u64::MAX;

/// What the server is to do with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Receive until the window has ended, then say how much it was.
    Sink,
    /// Send until the client has enough.
    Source,
    /// Send back whatever comes.
    Echo,
    /// Say what has been received of datagrams with this id.
    Tally,
    /// Keep the connection and never read from it.
    Ignore,
}

const KINDS: [(u8, Kind); 5] = [
    (b'S', Kind::Sink),
    (b'G', Kind::Source),
    (b'E', Kind::Echo),
    (b'T', Kind::Tally),
    (b'I', Kind::Ignore),
];

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub kind: Kind,
    /// Whether a sink compares the payload with the pattern.
    pub verify: bool,
    /// Discarded time.
    pub warmup: Duration,
    /// Measured time.
    pub length: Duration,
    /// Names a run of datagrams.
    pub id: u64,
}

impl Request {
    /// A request without a window.
    pub fn of(kind: Kind) -> Self {
        Self { kind, verify: false, warmup: Duration::ZERO, length: Duration::ZERO, id: 0 }
    }

    /// As it is sent.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        let letter = KINDS.iter().find(|(_, kind)| *kind == self.kind);
        bytes[0] = letter.map_or(0, |(letter, _)| *letter);
        bytes[1] = u8::from(self.verify);
        bytes[8..16].copy_from_slice(&(self.warmup.as_nanos() as u64).to_le_bytes());
        bytes[16..24].copy_from_slice(&(self.length.as_nanos() as u64).to_le_bytes());
        bytes[24..].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// None if the first byte names no kind.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let (_, kind) = KINDS.iter().find(|(letter, _)| *letter == bytes[0])?;
        Some(Self {
            kind: *kind,
            verify: bytes[1] != 0,
            warmup: Duration::from_nanos(number(&bytes[8..])),
            length: Duration::from_nanos(number(&bytes[16..])),
            id: number(&bytes[24..]),
        })
    }
}

/// The first eight bytes as a number; missing ones are 0.
pub fn number(bytes: &[u8]) -> u64 {
    let mut array = [0; 8];
    let len = bytes.len().min(8);
    array[..len].copy_from_slice(&bytes[..len]);
    u64::from_le_bytes(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire() {
        for (_, kind) in KINDS {
            let request = Request {
                kind,
                verify: true,
                warmup: Duration::from_millis(1500),
                length: Duration::from_nanos(7),
                id: u64::MAX - 3,
            };
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        assert_eq!(Request::decode(&[0; REQUEST_BYTES]), None);
    }
}
