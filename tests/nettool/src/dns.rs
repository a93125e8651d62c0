//! A DNS server that knows one name (RFC 1035, section 4; AAAA: RFC 3596).

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::Outcome;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const NO_SUCH_NAME: u8 = 3;

/// Serves until killed. Prints `ready` when the socket is bound.
pub fn serve(at: SocketAddr, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Outcome {
    let socket = UdpSocket::bind(at)?;
    println!("ready");
    io::stdout().flush()?;
    let mut question = [0; 512];
    loop {
        let (count, from) = socket.recv_from(&mut question)?;
        if let Some(reply) = answer(&question[..count], name, v4, v6) {
            socket.send_to(&reply, from)?;
        }
    }
}

/// The reply to a message with one question, or `None` if it is malformed.
fn answer(message: &[u8], known: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Option<Vec<u8>> {
    let (name, name_len) = read_name(message.get(HEADER..)?)?;
    let end = HEADER + name_len + 4;
    let kind = u16::from_be_bytes(message.get(end - 4..end - 2)?.try_into().ok()?);
    let data = match kind {
        TYPE_A => v4.octets().to_vec(),
        TYPE_AAAA => v6.octets().to_vec(),
        _ => Vec::new(),
    };
    let found = name.eq_ignore_ascii_case(known);
    let answers = u8::from(found && !data.is_empty());
    let code = if found { 0 } else { NO_SUCH_NAME };
    let mut reply = message.get(..end)?.to_vec();
    reply[2..HEADER].copy_from_slice(&[0x85, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
    if answers == 1 {
        reply.extend([0xc0, HEADER as u8]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        reply.extend(data);
    }
    Some(reply)
}

/// The dotted name at the start of `bytes`, and the length of its encoding.
fn read_name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 0;
    loop {
        let len = usize::from(*bytes.get(at)?);
        if len == 0 {
            return Some((labels.join("."), at + 1));
        }
        labels.push(String::from_utf8_lossy(bytes.get(at + 1..at + 1 + len)?).into_owned());
        at += 1 + len;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::answer;

    #[test]
    fn knows_its_name_and_no_other() {
        let ask = |name: &[u8]| {
            let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, 0, 1, 0, 1]].concat();
            answer(&question, "a.test", Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::LOCALHOST)
        };
        let known = ask(b"\x01A\x04test").expect("a reply");
        assert!(known.ends_with(&[0, 4, 192, 0, 2, 1]));
        let unknown = ask(b"\x01b\x04test").expect("a reply");
        assert_eq!((unknown[3] & 15, unknown[7]), (3, 0));
        assert_eq!(answer(&[0; 12], "a.test", Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST), None);
    }
}
