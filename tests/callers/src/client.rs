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
    let mut answer = || -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut frame = vec![0; u32::from_be_bytes(length).min(65_535) as usize];
            stream.read_exact(&mut frame)?;
            if frame.get(12..14) == Some(&ARP) && frame.get(20..22) == Some(&REPLY) {
                return Ok(());
            }
        }
    };
    answer().map_err(|error| format!("no answer to ARP: {error}"))
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
