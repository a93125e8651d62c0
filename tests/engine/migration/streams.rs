//! Streams of state: those that are wrong, and the order in right ones.

use std::time::Instant;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::at_first_host;
use super::cluster::{Cluster, PATIENCE, enter};
use super::connection::ALL;
use crate::namespace::isolated;

/// Bytes of what is before the records, of a record, and of a socket without its queues.
const HEAD: usize = 16 + 42 + 4;
const RECORD: usize = 112;
const SOCKET: usize = 52;

/// States of a socket, by the kernel's numbers (tcp_states.h).
const TCP_FIN_WAIT2: u8 = 5;
const TCP_CLOSE_WAIT: u8 = 8;

#[test]
fn streams_that_are_wrong_are_refused_at_each_byte_and_the_guest_keeps_its_network() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts[0].start_helper();
        let mut stream = cluster.saved_stream();
        let records = HEAD + ALL.len() * 2 * RECORD;
        assert!(stream.len() > records + SOCKET);
        // Each length up to the second record, and around the first socket; in between and behind some.
        let every = (0..180).chain(records - 2..records + 60);
        let some = (180..records).step_by(41).chain((records + 60..stream.len()).step_by(99_991));
        let lengths = every.chain(some);
        cluster.hosts[1].start_helper();
        for len in lengths {
            assert_eq!(cluster.refuses(&stream[..len]), Errno::NODATA, "{len} bytes");
        }
        for (at, byte, errno) in [
            (0, 0, Errno::INVAL),
            (11, 0, Errno::INVAL),
            (11, 1, Errno::NOTSUP),
            (15, 3, Errno::NOTSUP),
            (58, 0xff, Errno::INVAL),
            (records + 8, 0xff, Errno::INVAL),
            (records + 15, 0xff, Errno::INVAL),
        ] {
            let mut wrong = stream.clone();
            wrong[at] = byte;
            assert_eq!(cluster.refuses(&wrong), errno, "{byte} at {at}");
        }
        stream.push(0);
        assert_eq!(cluster.refuses(&stream), Errno::INVAL);
        assert_eq!(cluster.outcomes_of(&[0]), [true]);
        cluster.goes_on_here();
    });
}

/// By a target that puts one after the other in place.
#[test]
fn connections_on_which_a_target_says_nothing_come_first_then_those_whose_peers_talk() {
    const STAGE: usize = 50;
    const SILENT: [u8; 2] = [TCP_FIN_WAIT2, TCP_CLOSE_WAIT];
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts[0].start_helper();
        let stream = cluster.saved_stream();
        let number = |at: usize| u32::from_be_bytes(stream[at..at + 4].try_into().expect("four"));
        let count = number(HEAD - 4) as usize;
        let (mut at, mut places) = (HEAD + count * RECORD, Vec::new());
        for _ in 0..count {
            let [to_peer, unsent, to_guest] = [8, 12, 16].map(|field| number(at + field));
            let speaks = !SILENT.contains(&stream[at + STAGE]) || unsent > 0;
            places.push((speaks, speaks && to_guest == 0));
            at += SOCKET + to_peer as usize + to_guest as usize;
        }
        assert_eq!(at, stream.len());
        assert!(places.is_sorted(), "{places:?}");
        for place in [(false, false), (true, false), (true, true)] {
            assert!(places.contains(&place), "{places:?}");
        }
        cluster.goes_on_here();
    });
}

impl Cluster {
    /// What the source says of its connections.
    fn saved_stream(&mut self) -> Vec<u8> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        self.stop_guest();
        enter(&self.hosts[0].netns);
        self.hosts[0].world.engine.save_state(writer);
        let mut stream = Vec::new();
        let end = Instant::now() + PATIENCE;
        let mut chunk = [0; 65536];
        loop {
            assert!(Instant::now() < end, "the stream does not end");
            self.hosts[0].turn();
            match rustix::io::read(&reader, &mut chunk) {
                Ok(0) => return stream,
                Ok(len) => stream.extend_from_slice(&chunk[..len]),
                Err(error) => assert_eq!(error, Errno::AGAIN),
            }
        }
    }

    /// The target says no to a stream, and why.
    fn refuses(&mut self, stream: &[u8]) -> Errno {
        let target = &mut self.hosts[1];
        enter(&target.netns);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        target.world.engine.load_state(reader);
        let mut rest = stream;
        let mut writer = Some(writer);
        target.world.engine.ask_for_state();
        let end = Instant::now() + PATIENCE;
        let outcome = loop {
            if let Some(open) = &writer {
                match rustix::io::write(open, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::AGAIN) => {}
                    // Refused already.
                    Err(_) => rest = &[],
                }
                if rest.is_empty() {
                    writer = None;
                }
            }
            assert!(Instant::now() < end, "a stream of {} bytes: no answer", stream.len());
            target.turn();
            if let Some(outcome) = target.world.engine.state_answer() {
                break outcome;
            }
        };
        assert_eq!(target.world.engine.flow_count(), 0);
        outcome.expect_err("it is wrong")
    }
}
