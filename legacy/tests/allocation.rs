//! Moving frames allocates nothing.

mod rig;

use std::io::{Read, Write};

use passt_frame::FramePort;
use passt_support::heap::{Counting, allocations, assert_counting};
use rig::{Rig, encoded, frame};

#[global_allocator]
static HEAP: Counting = Counting;

#[test]
fn the_data_path_allocates_nothing() {
    assert_counting();
    let (mut rig, mut client) = Rig::connected();
    client.set_nonblocking(true).unwrap();
    let burst = encoded(&(0..20).map(|n| frame(1000 + n, n as u8)).collect::<Vec<_>>());
    let (header, payload) = (frame(54, 1), frame(1460, 2));
    let (mut whole, mut received) = (vec![0; 70_000], vec![0; 1 << 20]);
    let mut counted = 0;
    for round in 0..200 {
        // Rounds end in the middle of frames.
        let mut sent = 0;
        while sent < burst.len() {
            sent += client.write(&burst[sent..burst.len().min(sent + 7777)]).unwrap();
            let before = allocations();
            assert!(rig.turn().frames);
            rig.take(&mut whole, &mut |_| counted += 1);
            assert!(rig.send(&header, &payload) && rig.send(&header, &[]));
            rig.stream.flush();
            assert_eq!(allocations(), before, "round {round}");
        }
        assert!(client.read(&mut received).unwrap() > 0);
    }
    assert_eq!(counted, 4000);
}
