//! The stream link at the end of a real socket: frames in pieces, many at once, clients that come, go,
//! do not read, or send what no frame can be.

mod rig;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use passt_frame::{FramePort, LinkChange, MAX_FRAME_BYTES, PortEvents};
use passt_legacy::AttachError;
use proptest::prelude::*;
use rig::{Rig, encoded, frame, receive};
use rustix::net::sockopt;

/// What the client can read now.
fn readable(client: &mut UnixStream) -> Vec<u8> {
    client.set_nonblocking(true).expect("fcntl");
    let (mut found, mut part) = (Vec::new(), [0; 65_536]);
    while let Ok(len @ 1..) = client.read(&mut part) {
        found.extend_from_slice(&part[..len]);
    }
    found
}

fn counter(rig: &Rig, wanted: &str) -> u64 {
    let mut found = None;
    rig.stream.counters(&mut |name, value| found = found.or((name == wanted).then_some(value)));
    found.expect("the counter exists")
}

#[test]
fn a_frame_cut_at_every_byte_arrives_whole() {
    let sent = frame(60, 1);
    let stream = encoded(std::slice::from_ref(&sent));
    let (mut rig, mut client) = Rig::connected();
    for cut in 1..stream.len() {
        client.write_all(&stream[..cut]).unwrap();
        assert!(receive(&mut rig).is_empty(), "cut at {cut}");
        client.write_all(&stream[cut..]).unwrap();
        assert_eq!(receive(&mut rig), std::slice::from_ref(&sent), "cut at {cut}");
    }
}

#[test]
fn many_frames_of_one_write_arrive_in_one_turn() {
    let (mut rig, mut client) = Rig::connected();
    let frames: Vec<_> = (0..500).map(|n| frame(60 + n, n as u8)).collect();
    client.write_all(&encoded(&frames)).unwrap();
    assert!(rig.turn().frames);
    let (mut whole, mut found) = (vec![0; 70_000], Vec::new());
    rig.take(&mut whole, &mut |frame| found.push(frame.to_vec()));
    assert_eq!(found, frames);
    assert_eq!(counter(&rig, "stream.from_guest.frames"), 500);
}

#[test]
fn an_impossible_length_ends_the_connection_after_the_frames_before_it() {
    for len in [0u32, 13, MAX_FRAME_BYTES + 1, u32::MAX] {
        let (mut rig, mut client) = Rig::connected();
        let good = frame(100, 7);
        client.write_all(&encoded(std::slice::from_ref(&good))).unwrap();
        client.write_all(&len.to_be_bytes()).unwrap();
        assert_eq!(receive(&mut rig), [good]);
        rig.turn();
        assert_eq!((rig.closed, rig.stream.is_attached()), (1, false));
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the client is told");
        assert_eq!(counter(&rig, "stream.from_guest.bad_length"), 1);
    }
}

#[test]
fn what_a_client_sent_before_it_left_is_taken_first() {
    let (mut rig, mut client) = Rig::connected();
    client.write_all(&encoded(&[frame(60, 1)])).unwrap();
    drop(client);
    assert_eq!((receive(&mut rig), rig.closed), (vec![frame(60, 1)], 0));
    assert_eq!(rig.turn().link, Some(LinkChange::Closed));
    assert_eq!(rig.turn(), PortEvents::default());
}

#[test]
fn a_new_client_starts_afresh() {
    let (mut rig, mut client) = Rig::connected();
    assert!(matches!(rig.stream.attach(UnixStream::pair().unwrap().0), Err(AttachError::Occupied)));
    // Half a frame in, and a frame out that is never read.
    client.write_all(&encoded(&[frame(60, 1)])[..30]).unwrap();
    assert!(receive(&mut rig).is_empty());
    assert!(rig.send(&frame(60, 2), &[]));
    drop(client);
    while rig.stream.is_attached() {
        receive(&mut rig);
    }
    assert!(!rig.send(&frame(60, 3), &[]), "no client, no room");
    let (ours, mut client) = UnixStream::pair().unwrap();
    rig.stream.attach(ours).unwrap();
    assert_eq!(rig.turn().link, Some(LinkChange::Up));
    client.write_all(&encoded(&[frame(61, 4)])).unwrap();
    assert_eq!(receive(&mut rig), [frame(61, 4)]);
    assert!(rig.send(&frame(62, 5), &[]));
    rig.stream.flush();
    assert_eq!(readable(&mut client), encoded(&[frame(62, 5)]));
}

#[test]
fn frames_of_one_turn_are_published_with_the_flush() {
    let (mut rig, mut client) = Rig::connected();
    assert!(rig.send(&frame(54, 1), &frame(1460, 2)));
    assert!(rig.send(&frame(42, 3), &[]));
    assert!(readable(&mut client).is_empty());
    rig.stream.flush();
    let short = [frame(42, 3), vec![0; 18]].concat();
    let expected = [[frame(54, 1), frame(1460, 2)].concat(), short];
    assert_eq!(readable(&mut client), encoded(&expected), "padded to the smallest Ethernet frame");
}

#[test]
fn a_client_that_does_not_read_leaves_no_room_and_gets_every_frame_later() {
    let (mut rig, mut client) = Rig::connected();
    sockopt::set_socket_send_buffer_size(&client, 1).unwrap();
    let (mut sent, mut found) = (Vec::new(), Vec::new());
    while rig.send(&frame(54, 1), &frame(60_000, sent.len() as u8)) {
        sent.push([frame(54, 1), frame(60_000, sent.len() as u8)].concat());
        rig.stream.flush();
        assert!(sent.len() < 10_000, "there is always room");
    }
    assert!(!rig.turn().room);
    let mut room = false;
    for _ in 0..1000 {
        found.extend(readable(&mut client));
        room = rig.turn().room;
        if room {
            break;
        }
    }
    assert!(room, "room is reported when everything was written");
    assert!(!rig.turn().room, "and only once");
    found.extend(readable(&mut client));
    assert_eq!(found.len(), encoded(&sent).len());
    assert!(found == encoded(&sent));
    assert!(rig.send(&frame(60, 9), &[]));
    assert_eq!(counter(&rig, "stream.to_guest.no_room"), 1);
}

#[test]
fn an_idle_link_causes_no_events() {
    let (mut rig, mut client) = Rig::connected();
    assert_eq!(rig.turn(), PortEvents::default());
    client.write_all(&encoded(&[frame(60, 1)])[..10]).unwrap();
    assert!(receive(&mut rig).is_empty());
    assert_eq!(rig.turn(), PortEvents::default(), "half a frame is waited for");
    assert!(rig.send(&frame(60, 1), &[]));
    rig.stream.flush();
    assert_eq!(rig.turn(), PortEvents::default());
}

proptest! {
    #[test]
    fn frames_arrive_whole_however_the_stream_is_cut(
        lens in prop::collection::vec(prop_oneof![14..200usize, 60_000..=MAX_FRAME_BYTES as usize], 0..12),
        cuts in prop::collection::vec(prop_oneof![1..8usize, 1..100_000usize], 1..20),
    ) {
        let frames: Vec<_> = lens.iter().zip(0..).map(|(&len, n)| frame(len, n)).collect();
        let mut stream = &encoded(&frames)[..];
        let (mut rig, mut client) = Rig::connected();
        client.set_nonblocking(true).unwrap();
        let mut found = Vec::new();
        for cut in cuts.into_iter().chain(std::iter::repeat(50_000)) {
            let written = client.write(&stream[..stream.len().min(cut)]).unwrap_or(0);
            stream = &stream[written..];
            found.extend(receive(&mut rig));
            if stream.is_empty() {
                break;
            }
        }
        prop_assert!(found == frames);
    }

    #[test]
    fn no_stream_makes_the_link_panic(
        stream in prop::collection::vec(any::<u8>(), 0..2000),
        // What makes most lengths valid.
        mask in prop_oneof![Just(0xff_u8), Just(0)],
    ) {
        let masked = |(at, byte): (usize, &u8)| if at % 64 < 3 { byte & mask } else { *byte };
        let stream: Vec<u8> = stream.iter().enumerate().map(masked).collect();
        let (mut rig, mut client) = Rig::connected();
        for part in stream.chunks(97) {
            if client.write_all(part).is_err() {
                break;
            }
            receive(&mut rig);
        }
        drop(client);
        for _ in 0..3 {
            receive(&mut rig);
        }
        prop_assert!(!rig.stream.is_attached());
    }
}
