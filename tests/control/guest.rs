//! A guest by hand, on passt's stream socket: frames as bytes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use passt_support::wait::PATIENCE;

use crate::rig::Program;

/// Its Ethernet address.
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// Flags of TCP.
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
pub const PUSH_ACK: u8 = 0x18;
pub const FIN_ACK: u8 = 0x11;

/// The guest.
pub struct Guest(UnixStream);

/// A connection of the guest's: what it has sent, and what it has got.
pub struct Connection {
    pub port: u16,
    to: u16,
    seq: u32,
    ack: u32,
}

impl Guest {
    /// Connects, and says what it is.
    pub fn of(program: &Program) -> Self {
        let stream = UnixStream::connect(program.path("guest")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut guest = Self(stream);
        guest.asks_for_gateway();
        guest
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.0.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        self.0.write_all(frame).unwrap();
    }

    /// The next frame that `wanted` makes something of.
    pub fn next<T>(&mut self, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
        loop {
            let mut length = [0; 4];
            self.0.read_exact(&mut length).unwrap();
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            self.0.read_exact(&mut frame).unwrap();
            if let Some(found) = wanted(&frame) {
                return found;
            }
        }
    }

    /// Asks for the gateway's Ethernet address, and gets it.
    pub fn asks_for_gateway(&mut self) {
        let ours = [&MAC[..], &[192, 0, 2, 2]].concat();
        let asked = [0, 0, 0, 0, 0, 0, 192, 0, 2, 1];
        self.send(&frame([8, 6], &[&[0, 1, 8, 0, 6, 4, 0, 1], &ours, &asked]));
        self.next(|frame| (frame[12..14] == [8, 6] && frame[20..22] == [0, 2]).then_some(()));
    }

    /// DHCPDISCOVER with Rapid Commit (RFC 4039), and its ACK.
    pub fn gets_a_lease(&mut self) {
        let mut message = vec![1, 1, 6, 0, 0xa1, 0xb2, 0xc3, 0xd4];
        message.resize(28, 0);
        message.extend(MAC);
        message.resize(236, 0);
        message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 80, 0, 255]);
        self.send(&udp([0; 4], [255; 4], (68, 67), &message));
        self.next(|frame| (frame.len() > 282 && frame[34..36] == [0, 67]).then_some(()));
    }

    /// Sends a datagram from a port to a port of the gateway's.
    pub fn datagram(&mut self, from: u16, to: u16, payload: &[u8]) {
        self.send(&udp([192, 0, 2, 2], [192, 0, 2, 1], (from, to), payload));
    }

    /// The same over IPv6, from the address with this end to that one.
    pub fn datagram_v6(&mut self, ends: (u8, u8), ports: (u16, u16), payload: &[u8]) {
        self.send(&udp_v6((address_v6(ends.0), address_v6(ends.1)), ports, payload));
    }

    /// DHCPv6: asks whoever is there to go on with an address, as a client does that its server does not answer.
    pub fn rebinds(&mut self, end: u8) {
        let mut message = vec![6, 0xa1, 0xb2, 0xc3];
        message.extend([&[0, 1, 0, 10, 0, 3, 0, 1][..], &MAC].concat());
        message.extend([0, 3, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        message.extend([&[0, 5, 0, 24][..], &address_v6(end), &[0; 8]].concat());
        let all_servers = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
        let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        self.send(&udp_v6((link_local, all_servers), (546, 547), &message));
        self.next(|frame| {
            let ours = frame.len() > 62 && frame[12..14] == [0x86, 0xdd] && frame[20] == 17;
            (ours && frame[54..58] == [2, 35, 2, 34] && frame[62] == 7).then_some(())
        });
    }

    fn segment(&mut self, connection: &Connection, flags: u8, payload: &[u8]) {
        self.segment_to([192, 0, 2, 1], connection, flags, payload);
    }

    fn segment_to(&mut self, host: [u8; 4], connection: &Connection, flags: u8, payload: &[u8]) {
        let Connection { port, to, seq, ack } = *connection;
        let ports = [port, to].map(u16::to_be_bytes).concat();
        let numbers = [seq, ack].map(u32::to_be_bytes).concat();
        let rest = [0x50, flags, 0xff, 0xff, 0xbe, 0xef, 0, 0];
        let tcp = [&ports, &numbers, &rest[..], payload].concat();
        self.send(&frame([8, 0], &[&ip_header(6, tcp.len(), [192, 0, 2, 2], host), &tcp]));
    }

    /// Sends a SYN from `port` to port `to` of the gateway's.
    pub fn syn(&mut self, port: u16, to: u16) -> Connection {
        let connection = Connection { port, to, seq: 999, ack: 0 };
        self.segment(&connection, SYN, &[]);
        connection
    }

    /// The same; returns the flags of the answer.
    pub fn tries(&mut self, port: u16, to: u16) -> (Connection, u8) {
        let mut connection = self.syn(port, to);
        let (seq, flags, _) = self.answer(&connection);
        (connection.seq, connection.ack) = (1000, seq.wrapping_add(1));
        (connection, flags)
    }

    /// Sends a SYN from `port` to port `to` of the gateway's, and waits for nothing.
    pub fn knocks(&mut self, port: u16, to: u16) {
        self.segment(&Connection { port, to, seq: 999, ack: 0 }, SYN, &[]);
    }

    /// The same to a host elsewhere.
    pub fn knocks_at(&mut self, host: [u8; 4], (port, to): (u16, u16)) {
        self.segment_to(host, &Connection { port, to, seq: 999, ack: 0 }, SYN, &[]);
    }

    /// Opens a connection.
    pub fn connects(&mut self, port: u16, to: u16) -> Connection {
        let (connection, flags) = self.tries(port, to);
        assert_eq!(flags, SYN | ACK, "no connection to port {to}");
        self.segment(&connection, ACK, &[]);
        connection
    }

    /// Sends payload on a connection.
    pub fn writes(&mut self, connection: &mut Connection, payload: &[u8]) {
        self.segment(connection, PUSH_ACK, payload);
        connection.seq += payload.len() as u32;
    }

    /// Ends its stream.
    pub fn shuts(&mut self, connection: &mut Connection) {
        self.segment(connection, FIN_ACK, &[]);
        connection.seq += 1;
    }

    /// Takes so many bytes.
    pub fn reads(&mut self, connection: &mut Connection, bytes: u32) {
        let end = connection.ack + bytes;
        while connection.ack != end {
            let (seq, _, len) = self.answer(connection);
            if seq == connection.ack {
                connection.ack += len;
            }
        }
        self.segment(connection, ACK, &[]);
    }

    /// Waits for a reset.
    pub fn is_reset(&mut self, connection: &Connection) {
        while self.answer(connection).1 & RST == 0 {}
    }

    /// Sequence number, flags and length of the next segment of a connection.
    fn answer(&mut self, connection: &Connection) -> (u32, u8, u32) {
        let (port, to) = (connection.port.to_be_bytes(), connection.to.to_be_bytes());
        self.next(|frame| {
            let ours = frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6;
            if !ours || frame[34..36] != to || frame[36..38] != port {
                return None;
            }
            let seq = u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
            let ip_len = u32::from(u16::from_be_bytes([frame[16], frame[17]]));
            let headers = 20 + u32::from(frame[46] >> 4) * 4;
            Some((seq, frame[47], ip_len - headers))
        })
    }
}

fn frame(ethertype: [u8; 2], rest: &[&[u8]]) -> Vec<u8> {
    [&[0xff; 6][..], &MAC, &ethertype, &rest.concat()].concat()
}

/// The checksum is left unfinished, as some clients do.
fn ip_header(protocol: u8, len: usize, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend((20 + len as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, protocol, 0xde, 0xad]);
    ip.extend(from);
    ip.extend(to);
    ip
}

fn udp(from: [u8; 4], to: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let bytes = 8 + payload.len() as u16;
    let header = [ports.0, ports.1, bytes, 0xbeef].map(u16::to_be_bytes).concat();
    let ip = ip_header(17, usize::from(bytes), from, to);
    frame([8, 0], &[&ip, &header, payload])
}

/// An address of the guest's network.
fn address_v6(end: u8) -> [u8; 16] {
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]
}

fn udp_v6((from, to): ([u8; 16], [u8; 16]), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let bytes = 8 + payload.len() as u16;
    let header = [ports.0, ports.1, bytes, 0xbeef].map(u16::to_be_bytes).concat();
    let ip = [&[0x60, 0, 0, 0][..], &bytes.to_be_bytes(), &[17, 64], &from, &to].concat();
    frame([0x86, 0xdd], &[&ip, &header, payload])
}
