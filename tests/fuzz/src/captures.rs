//! Inputs from captures of real guests: what is in `tests/fuzz/captures` was written by this, from captures that passt and
//! pasta have made (`--pcap`) in front of the clients that the files are called after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use passt::fuzzing::{self, Head};

/// Bytes of the head of a capture, and of each of its records (the classic format, little endian).
const HEAD_BYTES: usize = 24;
const RECORD_BYTES: usize = 16;

/// Where passt speaks from.
const OURS: [u8; 6] = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];

/// Writes what a guest has sent as inputs `NAME-N` into folders of targets below `folder`.
pub fn write(capture: &Path, name: &str, folder: &Path) -> std::io::Result<()> {
    let bytes = fs::read(capture)?;
    let mut known = BTreeSet::new();
    for frame in frames(&bytes).filter(|frame| frame.len() > 14 && frame[6..12] != OURS) {
        for (target, input) in inputs(frame) {
            if !known.insert((target, input.clone())) {
                continue;
            }
            let place = folder.join(target);
            fs::create_dir_all(&place)?;
            let number = known.iter().filter(|(other, _)| *other == target).count();
            fs::write(place.join(format!("{name}-{number}")), input)?;
        }
    }
    Ok(())
}

fn frames(capture: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = capture.get(HEAD_BYTES..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = u32::from_le_bytes(*rest.get(8..)?.first_chunk()?) as usize;
        let frame = rest.get(RECORD_BYTES..RECORD_BYTES + len)?;
        rest = &rest[RECORD_BYTES + len..];
        Some(frame)
    })
}

/// What a frame is to each target that is about such frames.
fn inputs(frame: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let with = |kind: &[u8], bytes: &[u8]| [kind, bytes].concat();
    let mut inputs = vec![("head", with(&[255], frame))];
    if let Some(message) = question(frame) {
        inputs.push(("responders", message));
    }
    let kind =
        [0x0800_u16, 0x86dd, 0x0806].iter().position(|kind| kind.to_be_bytes() == frame[12..14]);
    if let (Some(kind), Ok(len)) = (kind, u8::try_from(frame.len() - 14)) {
        inputs.push(("engine", with(&[8, kind as u8, len], &frame[14..])));
    }
    inputs
}

/// A question to one of the responders, behind its number.
fn question(frame: &[u8]) -> Option<Vec<u8>> {
    let len = frame.len() as u32;
    match fuzzing::head(frame, len).ok()? {
        Head::Arp => Some([&[0], &frame[14..]].concat()),
        Head::Ip(ip, None) => {
            let above = frame.get(ip.l4_offset..)?.get(..ip.l4_len as usize)?;
            let number = match (ip.protocol, fuzzing::l4(frame, len).map(|l4| l4.destination)) {
                (17, Ok(67)) => 1,
                (17, Ok(547)) => 2,
                (58, _) if (133..137).contains(above.first()?) => {
                    return Some([&[3], above].concat());
                }
                _ => return None,
            };
            Some([&[number], above.get(8..)?].concat())
        }
        _ => None,
    }
}
