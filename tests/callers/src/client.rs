//! Just enough of a guest to hear whether somebody serves: one question of each protocol.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// When to give up on an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The guest's station address.
const GUEST: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
/// Ethernet's type of ARP.
const ARP: [u8; 2] = [8, 6];
/// ARP's operation that is an answer; announcements are requests.
const REPLY: [u8; 2] = [0, 2];

/// Asks by ARP who the gateway is, with the length in front as the stream protocol wants it.
pub fn send_question(stream: &mut UnixStream) -> std::io::Result<()> {
    let mut frame = [&[0xff; 6][..], &GUEST, &ARP].concat();
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST);
    frame.extend([192, 0, 2, 2]);
    frame.extend([0; 6]);
    frame.extend([192, 0, 2, 1]);
    frame.resize(60, 0);
    stream.write_all(&60u32.to_be_bytes())?;
    stream.write_all(&frame)
}

/// Waits for the answer to [`send_question`]; other frames may come before it.
pub fn await_answer(stream: &mut UnixStream) -> Result<(), String> {
    let is_answer =
        |frame: &[u8]| frame.get(12..14) == Some(&ARP) && frame.get(20..22) == Some(&REPLY);
    await_frame(stream, is_answer).map_err(|error| format!("no answer to ARP: {error}"))
}

/// Reads frames up to one of that kind.
fn await_frame(stream: &mut UnixStream, accepts: impl Fn(&[u8]) -> bool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length).min(65_535) as usize];
        stream.read_exact(&mut frame)?;
        if accepts(&frame) {
            return Ok(());
        }
    }
}

/// Takes a DHCP lease by Rapid Commit (RFC 4039): a discovery is answered by an acknowledgement.
pub fn take_lease(stream: &mut UnixStream) -> Result<(), String> {
    let mut discovery = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
    discovery.resize(28, 0);
    discovery.extend(GUEST);
    discovery.resize(236, 0);
    // Cookie; message type: discover; rapid commit; end.
    discovery.extend([99, 130, 83, 99, 53, 1, 1, 80, 0, 255]);
    discovery.resize(300, 0);
    let mut frame = [&[0xff; 6][..], &GUEST, &[8, 0]].concat();
    // IPv4 from nobody to everybody, 328 bytes of UDP; the checksum is that of these bytes.
    frame
        .extend([0x45, 0, 1, 0x48, 0, 0, 0, 0, 64, 17, 0x79, 0xa6, 0, 0, 0, 0, 255, 255, 255, 255]);
    // Ports 68 to 67, 308 bytes, without a checksum.
    frame.extend([0, 68, 0, 67, 1, 0x34, 0, 0]);
    frame.extend(discovery);
    let is_acknowledgement = |frame: &[u8]| {
        let options = frame.get(282..).unwrap_or_default();
        frame.get(34..38) == Some(&[0, 67, 0, 68]) && options.windows(3).any(|w| w == [53, 1, 5])
    };
    stream
        .write_all(&u32::to_be_bytes(342))
        .and_then(|()| stream.write_all(&frame))
        .and_then(|()| await_frame(stream, is_acknowledgement))
        .map_err(|error| format!("no lease: {error}"))
}

/// One question and its answer in the stream protocol.
pub fn ask_stream(stream: &mut UnixStream) -> Result<(), String> {
    send_question(stream).map_err(|error| format!("cannot ask: {error}"))?;
    await_answer(stream)
}

/// Asks a vhost-user back-end for its features, as every front-end does first.
pub fn ask_vhost_user(stream: &mut UnixStream) -> Result<(), String> {
    let mut ask = || -> std::io::Result<()> {
        let get_features = [1u32, 1, 0].map(u32::to_le_bytes).concat();
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&get_features)?;
        stream.read_exact(&mut [0; 20])
    };
    ask().map_err(|error| format!("no answer to GET_FEATURES: {error}"))
}
