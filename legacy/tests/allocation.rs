//! Moving frames allocates nothing. One test alone in its process: it counts all allocations.

mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use passt_frame::FramePort;
use rig::{Rig, encoded, frame};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all calls are passed on to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_data_path_allocates_nothing() {
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
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            assert!(rig.turn().frames);
            rig.take(&mut whole, &mut |_| counted += 1);
            assert!(rig.send(&header, &payload) && rig.send(&header, &[]));
            rig.stream.flush();
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "round {round}");
        }
        assert!(client.read(&mut received).unwrap() > 0);
    }
    assert_eq!(counted, 4000);
}
