//! Moving frames allocates nothing, whether they are copied or stay in the kernel.

mod rig;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use passt_frame::{FramePort, Part};
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

#[test]
fn large_frames_allocate_nothing() {
    assert_counting();
    let (mut rig, mut client) = Rig::connected();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let burst = encoded(&[frame(60_000, 1), frame(60, 2), frame(60_000, 3)]);
    let mut received = vec![0; 1 << 20];
    for round in 0..200 {
        client.write_all(&burst).unwrap();
        let before = allocations();
        assert!(rig.turn().frames);
        rig.leases(&mut |lease| {
            let frame = lease.frames().len() - 1;
            let len = lease.frames()[frame].len;
            if len == 60_000 {
                // To begin with the frames have no tails; every now and then one is copied.
                let part = Part { frame, offset: 66, len: len - 66 };
                if round % 100 == 50 {
                    lease.copy_out(part, &mut received);
                }
                assert_eq!(lease.send_stream(ours.as_fd(), &[part]), Ok(len - 66));
            }
        });
        assert_eq!(allocations(), before, "round {round}");
        assert!(theirs.read(&mut received).unwrap() > 0);
    }
}
