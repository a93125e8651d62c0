//! The state of a guest that moves: its records, and the whole stream into an engine.

use std::io::Write;
use std::time::Duration;

use passt::fuzzing;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::input::Input;
use crate::world::{Setup, World};

/// What was read is written as it was read.
pub fn records(data: &[u8]) {
    if let Some(bytes) = data.first_chunk()
        && let Some(written) = fuzzing::migration_record(bytes)
    {
        assert_eq!(fuzzing::migration_record(&written), Some(written));
    }
    if let Some(bytes) = data.first_chunk()
        && let Some((written, queues)) = fuzzing::socket_record(bytes)
    {
        assert_eq!(fuzzing::socket_record(&written), Some((written, queues)));
    }
}

/// The stream comes in pieces, and ends. There is an answer, and after it nothing is left of what did not arrive.
pub fn state(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new(&Setup { max_descriptors: 256, ..Setup::default() });
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (reader, writer) = pipe_with(flags).expect("a pipe");
    let mut writer = std::fs::File::from(writer);
    // Without these few inputs would get beyond the header.
    let header = [&0xB1BB_1D1B_0BB1_D1B0u64.to_be_bytes()[..], &[0, 0, 0, 2, 0, 0, 0, 2]].concat();
    if input.u8() & 1 == 0 {
        writer.write_all(&header).expect("room");
    }
    world.engine.load_state(reader);
    while !input.is_empty() {
        let piece = input.piece();
        // Who has refused the stream reads no more of it.
        let _ = writer.write_all(piece);
        world.settle(200);
    }
    drop(writer);
    // A helper that does not come is waited for.
    pass(&mut world);
    world.engine.ask_for_state();
    assert!(world.engine.state_answer().is_some(), "all has come, and there is no answer");
    let (_, out) = passt_frame::FramePort::halves(&mut world.port);
    world.engine.on_link_up(out);
    pass(&mut world);
}

/// Longer than anything is waited for.
fn pass(world: &mut World) {
    for _ in 0..4 {
        world.skip(Duration::from_secs(3));
        world.turn(Duration::ZERO);
        world.settle(1000);
        assert!(world.engine.all_flows_have_timers(), "a flow has no timer");
    }
}
