//! Large frames of the stream link, whose tail stays in the kernel: whatever is done with a frame, and
//! however the stream is cut, the bytes are those that the client sent, and the next frame is intact.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use passt_frame::{
    Errno, FramePort, FromGuestLease, HEAD_BYTES, LinkChange, MAX_FRAME_BYTES, Part, PortEvents,
};
use proptest::prelude::*;
use rig::{Rig, encoded, frame, receive};
use rustix::net::{Shutdown, shutdown, sockopt};

/// Where the payload of a frame begins, if nothing else is said.
const PAYLOAD: u32 = 66;

/// A socket that payload is sent to, and who reads it.
struct Sink {
    ours: OwnedFd,
    theirs: Box<dyn Read>,
}

impl Sink {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).unwrap();
        }
        sockopt::set_socket_send_buffer_size(&ours, 4 << 20).unwrap();
        Self { ours: ours.into(), theirs: Box::new(theirs) }
    }

    /// Over TCP, which takes a part of what it has no room for.
    fn over_tcp() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).unwrap();
        }
        Self { ours: ours.into(), theirs: Box::new(theirs) }
    }

    fn send(&self, lease: &mut FromGuestLease<'_>, parts: &[Part]) -> Result<u32, Errno> {
        lease.send_stream(self.ours.as_fd(), parts)
    }

    fn received(&mut self) -> Vec<u8> {
        let (mut found, mut part) = (Vec::new(), vec![0; 1 << 20]);
        while let Ok(len @ 1..) = self.theirs.read(&mut part) {
            found.extend_from_slice(&part[..len]);
        }
        found
    }
}

/// The payload of every frame of a lease.
fn payloads(lease: &FromGuestLease<'_>, offset: u32) -> Vec<Part> {
    let part = |(frame, len)| Part { frame, offset, len: len - offset };
    lease.frames().iter().map(|frame| frame.len).enumerate().map(part).collect()
}

/// Sends payloads on; returns the bytes of the heads that were looked at, for each batch.
fn forward(rig: &mut Rig, sink: &Sink, offset: u32) -> Vec<usize> {
    let mut heads = Vec::new();
    for _ in 0..1000 {
        rig.turn();
        let batches = rig.leases(&mut |lease| {
            let parts = payloads(lease, offset);
            let bytes: u32 = parts.iter().map(|part| part.len).sum();
            heads.push(lease.frames().last().unwrap().head().len());
            assert_eq!(sink.send(lease, &parts), Ok(bytes));
        });
        if batches == 0 {
            break;
        }
    }
    heads
}

/// A link that has got so used to large frames that it reads no more than their first `PAYLOAD` bytes.
fn accustomed() -> (Rig, UnixStream, Sink) {
    let (mut rig, mut client) = Rig::connected();
    let mut sink = Sink::new();
    client.set_nonblocking(true).unwrap();
    for n in 0..30 {
        client.write_all(&encoded(&[frame(60_000, n)])).unwrap();
        let heads = forward(&mut rig, &sink, PAYLOAD);
        let expected = if n < 20 { HEAD_BYTES } else { PAYLOAD as usize };
        assert!((heads[0] == expected) || (3..20).contains(&n), "frame {n}: {heads:?}");
        assert!(sink.received() == frame(60_000, n)[PAYLOAD as usize..]);
    }
    (rig, client, sink)
}

#[test]
fn only_the_head_of_a_large_frame_is_read_once_it_is_known() {
    let (mut rig, mut client, mut sink) = accustomed();
    // Small frames between large ones, and behind them.
    let frames: Vec<_> = [60_000, 80, 50_000, 66, 40_960, 14, 65_000, 70, 70]
        .into_iter()
        .zip(0..)
        .map(|(len, seed)| frame(len, seed))
        .collect();
    client.write_all(&encoded(&frames)).unwrap();
    let mut heads = Vec::new();
    rig.turn();
    rig.leases(&mut |lease| {
        for index in 0..lease.frames().len() {
            heads.push(lease.frames()[index].head().len());
            let len = lease.frames()[index].len;
            let part = Part { frame: index, offset: 14, len: len - 14 };
            if len == 14 {
                continue;
            }
            assert_eq!(sink.send(lease, &[part]), Ok(len - 14));
        }
    });
    assert_eq!(heads, [66, 80, 66, 66, 66, 14, 66, 70, 70]);
    let expected: Vec<u8> = frames.iter().flat_map(|frame| &frame[14..]).copied().collect();
    assert!(sink.received() == expected);
}

#[test]
fn a_longer_header_is_read_when_it_is_wanted() {
    let (mut rig, mut client, _sink) = accustomed();
    client.write_all(&encoded(&[frame(60_000, 1), frame(60_000, 2)])).unwrap();
    rig.turn();
    let mut heads = Vec::new();
    rig.leases(&mut |lease| {
        heads.push(lease.frames()[0].head().len());
        // The next frames are read whole.
        assert_eq!(lease.fetch(0), heads.len() == 1);
        assert!(!lease.fetch(0));
        let seed = heads.len() as u8;
        assert_eq!(lease.frames()[0].head(), &frame(60_000, seed)[..HEAD_BYTES]);
    });
    assert_eq!(heads, [PAYLOAD as usize, HEAD_BYTES]);
}

#[test]
fn half_a_frame_is_waited_for_and_disturbs_nobody() {
    for half in [4, 30, 70, 80, 20_000, 59_999] {
        let (mut rig, mut client, mut sink) = accustomed();
        let stream = encoded(&[frame(60_000, 1), frame(100, 2)]);
        client.write_all(&stream[..half]).unwrap();
        assert_eq!(receive(&mut rig), Vec::<Vec<u8>>::new(), "{half} bytes");
        assert_eq!(rig.turn(), PortEvents::default(), "nothing to do until more comes");
        client.write_all(&stream[half..]).unwrap();
        forward(&mut rig, &sink, PAYLOAD);
        let expected = [&frame(60_000, 1)[PAYLOAD as usize..], &frame(100, 2)[66..]].concat();
        assert!(sink.received() == expected, "{half} bytes");
        // And the client leaves in the middle of another.
        client.write_all(&stream[..half]).unwrap();
        drop(client);
        for _ in 0..3 {
            assert_eq!(receive(&mut rig), Vec::<Vec<u8>>::new());
        }
        assert_eq!((rig.closed, rig.stream.is_attached()), (1, false));
    }
}

#[test]
fn a_frame_in_more_pieces_than_the_pipe_holds_arrives_whole() {
    let (mut rig, mut client, mut sink) = accustomed();
    let sent = frame(60_000, 1);
    let stream = encoded(std::slice::from_ref(&sent));
    let (pieces, rest) = stream.split_at(3000);
    for piece in pieces.chunks(2) {
        while client.write(piece).is_err() {
            forward(&mut rig, &sink, PAYLOAD);
        }
        rig.turn();
        assert_eq!(rig.leases(&mut |_| ()), 0);
    }
    client.write_all(rest).unwrap();
    forward(&mut rig, &sink, PAYLOAD);
    assert!(sink.received() == sent[PAYLOAD as usize..]);
    // The same without the reader looking in between.
    for piece in pieces.chunks(20) {
        client.write_all(piece).unwrap();
    }
    client.write_all(rest).unwrap();
    forward(&mut rig, &sink, PAYLOAD);
    assert!(sink.received() == sent[PAYLOAD as usize..]);
}

#[test]
fn what_a_full_socket_does_not_take_is_skipped() {
    let (mut rig, mut client, _) = accustomed();
    let mut sink = Sink::over_tcp();
    let mut expected = Vec::new();
    let (mut full, mut part_taken) = (false, false);
    for n in 0..1000 {
        let sent = frame(60_000, n as u8);
        client.write_all(&encoded(std::slice::from_ref(&sent))).unwrap();
        rig.turn();
        let batches = rig.leases(&mut |lease| {
            let parts = payloads(lease, PAYLOAD);
            match sink.send(lease, &parts) {
                Ok(taken) => {
                    part_taken |= (1..60_000 - PAYLOAD).contains(&taken);
                    expected.extend_from_slice(&sent[PAYLOAD as usize..][..taken as usize]);
                }
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    full = true;
                }
            }
        });
        assert_eq!(batches, 1, "frame {n}");
        if full {
            break;
        }
    }
    assert!(full && part_taken);
    let mut found = Vec::new();
    while found.len() < expected.len() {
        found.extend(sink.received());
    }
    assert!(found == expected);
    client.write_all(&encoded(&[frame(60_000, 7)])).unwrap();
    assert_eq!(receive(&mut rig), [frame(60_000, 7)]);
}

#[test]
fn a_socket_that_is_closed_says_so_and_the_next_frame_is_intact() {
    let (mut rig, mut client, mut sink) = accustomed();
    let closed = Sink::new();
    shutdown(&closed.ours, Shutdown::Write).unwrap();
    client.write_all(&encoded(&[frame(60_000, 1), frame(50_000, 2)])).unwrap();
    rig.turn();
    let mut first = true;
    rig.leases(&mut |lease| {
        let parts = payloads(lease, PAYLOAD);
        if std::mem::take(&mut first) {
            assert_eq!(closed.send(lease, &parts), Err(Errno::PIPE));
            // The tail is still there.
            let mut whole = vec![0; 60_000];
            let part = Part { frame: 0, offset: 0, len: 60_000 };
            assert_eq!(lease.copy_out(part, &mut whole), 60_000);
            assert!(whole == frame(60_000, 1));
        } else {
            assert_eq!(sink.send(lease, &parts), Ok(50_000 - PAYLOAD));
        }
    });
    assert!(sink.received() == frame(50_000, 2)[PAYLOAD as usize..]);
}

#[test]
fn an_impossible_length_behind_large_frames_ends_the_connection_after_them() {
    let (mut rig, mut client, mut sink) = accustomed();
    let stream = [encoded(&[frame(60_000, 1)]), vec![0xff; 100]].concat();
    client.write_all(&stream).unwrap();
    forward(&mut rig, &sink, PAYLOAD);
    assert!(sink.received() == frame(60_000, 1)[PAYLOAD as usize..]);
    rig.turn();
    assert_eq!((rig.closed, rig.stream.is_attached()), (1, false));
}

#[test]
fn what_a_client_sent_before_it_left_is_taken_and_the_next_client_starts_afresh() {
    let (mut rig, mut client, mut sink) = accustomed();
    client.write_all(&encoded(&[frame(60_000, 1), frame(60_000, 2)])).unwrap();
    // Unread data makes it a reset.
    assert!(rig.send(&frame(60, 2), &[]));
    rig.stream.flush();
    drop(client);
    forward(&mut rig, &sink, PAYLOAD);
    let received = sink.received();
    assert!(
        received.is_empty()
            || received == [&frame(60_000, 1)[66..], &frame(60_000, 2)[66..]].concat()
    );
    while rig.stream.is_attached() {
        assert!(receive(&mut rig).is_empty());
    }
    let (ours, mut client) = UnixStream::pair().unwrap();
    rig.stream.attach(ours).unwrap();
    assert_eq!(rig.turn().link, Some(LinkChange::Up));
    client.write_all(&encoded(&[frame(30_000, 4)])).unwrap();
    assert_eq!(receive(&mut rig), [frame(30_000, 4)]);
}

/// What is done with a frame.
#[derive(Clone, Copy, Debug)]
enum Use {
    /// Copied to memory.
    Copy,
    /// Sent, from this offset, without so many bytes at its end.
    Send(u32, u32),
    /// Its parts are sent in another order.
    Turn,
    Skip,
}

fn any_use() -> impl Strategy<Value = Use> {
    let offset = prop_oneof![60 => Just(66_u32), 1 => 14..200u32, 1 => 14..60_000u32];
    let padding = prop_oneof![5 => Just(0u32), 1 => 0..100u32, 1 => 0..60_000u32];
    prop_oneof![
        1 => Just(Use::Copy),
        60 => (offset, padding).prop_map(|(offset, padding)| Use::Send(offset, padding)),
        1 => Just(Use::Turn),
        10 => Just(Use::Skip),
    ]
}

/// The part of a frame of `len` bytes that a use sends, in frame `index`.
fn part_of(frame: usize, len: u32, offset: u32, padding: u32) -> Part {
    let offset = offset.min(len);
    Part { frame, offset, len: (len - offset).saturating_sub(padding) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_is_done_with_frames_their_bytes_are_what_was_sent(
        frames in prop::collection::vec((
            prop_oneof![1 => 14..200usize, 1 => 1000..45_000usize, 6 => 40_000..=MAX_FRAME_BYTES as usize],
            any_use(),
        ), 1..60),
        cuts in prop::collection::vec(prop_oneof![1 => 1..8usize, 2 => 1..200_000usize], 1..20),
    ) {
        let bytes: Vec<_> = frames.iter().zip(0..).map(|(&(len, _), n)| frame(len, n)).collect();
        let mut stream = &encoded(&bytes)[..];
        let (mut rig, mut client) = Rig::connected();
        client.set_nonblocking(true).unwrap();
        let mut sink = Sink::new();
        let (mut at, mut expected, mut whole) = (0, Vec::new(), vec![0; 70_000]);
        for cut in cuts.into_iter().chain(std::iter::repeat(300_000)) {
            let written = client.write(&stream[..stream.len().min(cut)]).unwrap_or(0);
            stream = &stream[written..];
            loop {
                rig.turn();
                let batches = rig.leases(&mut |lease| for index in 0..lease.frames().len() {
                    let (len, how) = (frames[at].0 as u32, frames[at].1);
                    assert_eq!(lease.frames()[index].len, len, "frame {at}");
                    match how {
                        Use::Copy => {
                            let part = Part { frame: index, offset: 0, len };
                            assert_eq!(lease.copy_out(part, &mut whole), len as usize);
                            assert!(whole[..len as usize] == bytes[at], "frame {at}");
                        }
                        Use::Send(offset, padding) => {
                            let part = part_of(index, len, offset, padding);
                            assert_eq!(sink.send(lease, &[part]), Ok(part.len), "frame {at}");
                            let start = part.offset as usize;
                            expected.extend_from_slice(&bytes[at][start..][..part.len as usize]);
                        }
                        Use::Turn => {
                            let parts = [part_of(index, len, len / 2, 0), part_of(index, len, 0, len / 2)];
                            let sent = sink.send(lease, &parts);
                            assert_eq!(sent, Ok(parts[0].len + parts[1].len), "frame {at}");
                            for part in parts {
                                let start = part.offset as usize;
                                expected.extend_from_slice(&bytes[at][start..][..part.len as usize]);
                            }
                        }
                        Use::Skip => {}
                    }
                    at += 1;
                    if expected.len() > 300_000 {
                        assert!(sink.received() == expected);
                        expected.clear();
                    }
                });
                if batches == 0 {
                    break;
                }
            }
            if stream.is_empty() {
                break;
            }
        }
        prop_assert_eq!(at, frames.len());
        prop_assert!(sink.received() == expected);
    }
}
