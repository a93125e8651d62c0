//! Frames behind their lengths, in pieces of any size: what comes out is what a loop finds that was written for this, up
//! to the first length that no frame has. That one ends the connection.

use std::cell::RefCell;
use std::io::Write;
use std::os::unix::net::UnixStream;

#[path = "../../../legacy/tests/rig/mod.rs"]
mod rig;

use rig::Rig;

use crate::input::Input;

const LENGTHS: std::ops::RangeInclusive<u32> = 14..=passt_frame::MAX_FRAME_BYTES;

/// Frames of a stream, and whether it goes on.
fn expected(mut bytes: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut frames = Vec::new();
    while let [a, b, c, d, rest @ ..] = bytes {
        let len = u32::from_be_bytes([*a, *b, *c, *d]);
        if !LENGTHS.contains(&len) {
            return (frames, false);
        }
        let Some(frame) = rest.get(..len as usize) else { break };
        frames.push(frame);
        bytes = &rest[len as usize..];
    }
    (frames, true)
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut pieces = Vec::new();
    while !input.is_empty() {
        pieces.push(piece(&mut input));
    }
    LINK.with_borrow_mut(|rig| check(rig.get_or_insert_with(Rig::new), &pieces));
}

thread_local! {
    /// One for all inputs: a link lives as long as the program, and never gives back its memory.
    static LINK: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

fn check(rig: &mut Rig, pieces: &[Vec<u8>]) {
    let (ours, mut client) = UnixStream::pair().expect("a pair");
    rig.stream.attach(ours).expect("nobody is there");
    rig.closed = 0;
    let _ = rig.turn();
    let whole = pieces.concat();
    let (frames, goes_on) = expected(&whole);
    let mut taken: Vec<Vec<u8>> = Vec::new();
    let mut room = vec![0; passt_frame::MAX_FRAME_BYTES as usize];
    for piece in pieces {
        // A connection that has ended takes nothing.
        let _ = client.write_all(piece);
        let _ = rig.turn();
        rig.take(&mut room, &mut |frame| taken.push(frame.to_vec()));
    }
    for _ in 0..3 {
        let _ = rig.turn();
        rig.take(&mut room, &mut |frame| taken.push(frame.to_vec()));
    }
    assert_eq!(taken, frames);
    assert_eq!(rig.closed == 0, goes_on, "the end of the connection");
    drop(client);
    while rig.stream.is_attached() {
        let _ = rig.turn();
        rig.take(&mut room, &mut |_| ());
    }
}

/// Bytes as they stand there, a frame of a certain length, or a length without a frame.
fn piece(input: &mut Input<'_>) -> Vec<u8> {
    match input.u8() {
        0..128 => input.piece().to_vec(),
        128..200 => {
            let len = u32::from(input.u16()) % 20_000;
            let fill = input.u8();
            [&len.to_be_bytes()[..], &vec![fill; len as usize]].concat()
        }
        200..240 => input.u32().to_be_bytes().to_vec(),
        _ => {
            let len = usize::from(input.u16()) % 20_000;
            vec![input.u8(); len]
        }
    }
}
