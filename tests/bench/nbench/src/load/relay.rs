//! `nbench relay`: a tap device at one end, a qemu stream socket at the other.
//!
//! What QEMU is to passt, without the emulated machine: the network namespace's TCP stack is
//! the guest's. The device offers no offloads, as QEMU's does not over a stream socket.
//! Frames are preceded by their length, 4 bytes in network order.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::{Outcome, device};

const PREFIX_BYTES: usize = 4;
/// A frame at most: 64 KiB and an Ethernet header, with room.
const FRAME_BYTES: usize = 65536 + 64;
const STREAM_BYTES: usize = 1 << 20;

/// Runs until one end is gone. Says `ready` when frames may flow.
///
/// # Errors
/// When the device or the connection cannot be had, or ends.
pub fn run(socket: &str, tap: &str) -> Outcome {
    let device = device::open(tap, device::TAP)?;
    let stream = UnixStream::connect(socket)?;
    println!("ready");
    io::stdout().flush()?;
    let (mut to_device, mut from_stream) = (device.try_clone()?, stream.try_clone()?);
    std::thread::spawn(move || {
        let result = to_namespace(&mut from_stream, &mut to_device);
        eprintln!("nbench: from the socket: {result:?}");
        std::process::exit(1);
    });
    to_daemon(device, stream)
}

/// One frame, one write: as QEMU does.
fn to_daemon(mut device: File, mut stream: UnixStream) -> Outcome {
    let mut buffer = vec![0; PREFIX_BYTES + FRAME_BYTES];
    loop {
        let len = device.read(&mut buffer[PREFIX_BYTES..])?;
        buffer[..PREFIX_BYTES].copy_from_slice(&(len as u32).to_be_bytes());
        stream.write_all(&buffer[..PREFIX_BYTES + len])?;
    }
}

fn to_namespace(stream: &mut UnixStream, device: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; STREAM_BYTES];
    let mut held = 0;
    loop {
        let len = stream.read(&mut buffer[held..])?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        held += len;
        let mut at = 0;
        while let Some(frame) = next_frame(&buffer[at..held])? {
            // A frame that the kernel refuses is lost, like on any wire.
            let _ = device.write(frame);
            at += PREFIX_BYTES + frame.len();
        }
        buffer.copy_within(at..held, 0);
        held -= at;
    }
}

/// The frame at the beginning, if it is there as a whole.
fn next_frame(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let len = u32::from_be_bytes(*prefix) as usize;
    if len > FRAME_BYTES {
        return Err(io::Error::other(format!("a frame of {len} bytes")));
    }
    Ok(bytes.get(PREFIX_BYTES..PREFIX_BYTES + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_apart_at_every_place() {
        let bytes = [0, 0, 0, 2, 7, 8, 0, 0, 0, 1, 9];
        assert_eq!(next_frame(&bytes).unwrap(), Some(&[7, 8][..]));
        assert_eq!(next_frame(&bytes[6..]).unwrap(), Some(&[9][..]));
        for cut in 0..6 {
            assert_eq!(next_frame(&bytes[..cut]).unwrap(), None);
        }
        assert!(next_frame(&[1, 0, 0, 0, 0]).is_err());
    }
}
