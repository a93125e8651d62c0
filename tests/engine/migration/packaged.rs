//! A guest moves from here to the packaged passt: a process on the second host, with a front-end that is part of the test.

use std::fs::{self, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use passt::engine::monotonic_now;
use passt_frame::FrameMeta;
use passt_guest::{NetHeader, Options, RX, TX, bit, request};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use tempfile::TempDir;

use super::cluster::{Cluster, PATIENCE, enter, sh};
use super::connection::{Before, LITTLE, Way};
use crate::namespace::isolated;
use crate::world::{FAMILIES, GuestEnd};

/// What the test needs: the path of the program, and what is before it, as of a program that has a loader of its own.
const PROGRAM: &str = "PACKAGED_PASST";

/// How many connections of each sort there are.
const EACH: usize = 2;

/// Of SET_DEVICE_STATE_FD: the direction, when, and the answer that all is well (vhost-user's specification).
const LOAD: u32 = 1;
const STOPPED: u32 = 0;
const TAKEN: u64 = 0x100;

/// The packaged passt with the helper, and a guest in front of it.
struct Packaged {
    processes: [Child; 2],
    guest: passt_guest::Guest,
    _folder: TempDir,
}

/// Waits until `done`.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not yet");
        thread::yield_now();
    }
}

impl Packaged {
    /// In the network namespace of this thread.
    fn start(words: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // It becomes another user.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("ours");
        let socket = folder.path().join("socket");
        let script = format!(
            "exec {words} -f --vhost-user -i eth0 -t none -u none --no-map-gw -s {} \
            -a 192.0.2.2 -n 24 -g 192.0.2.1 -a 2001:db8::2 -g 2001:db8::1",
            socket.display()
        );
        let process = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).spawn();
        let mut stream = None;
        until("its socket", || {
            stream = UnixStream::connect(&socket).ok();
            stream.is_some()
        });
        let mut helper = Command::new(env!("CARGO_BIN_EXE_passt-repair"));
        let helper = helper.arg(folder.path().join("socket.repair")).spawn();
        let processes = [process.expect("sh runs"), helper.expect("passt-repair runs")];
        let guest = connect(stream.expect("connected"));
        Self { processes, guest, _folder: folder }
    }

    /// It is to take the state from `stream`, and says nothing before it has.
    fn begin_load(&self, stream: &OwnedFd) {
        let body = [LOAD, STOPPED].map(u32::to_ne_bytes).concat();
        self.guest.send(request::SET_DEVICE_STATE_FD, &body, &[stream.as_fd()]);
    }

    fn assert_loaded(&mut self) {
        assert_eq!(self.guest.client.reply_u64(), Some(TAKEN));
        assert_eq!(self.guest.ask(request::CHECK_DEVICE_STATE, &[], &mut || ()), 0);
    }
}

/// A front-end with a guest whose rings stand still.
fn connect(stream: UnixStream) -> passt_guest::Guest {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let features = bit::MRG_RXBUF | bit::VERSION_1 | bit::PROTOCOL_FEATURES;
    let mut guest = passt_guest::Guest::new(stream, Options { features, ..Options::default() });
    guest.negotiate(&mut || ());
    // As QEMU does. It ends when it has something for a guest of whose interrupts it has not heard.
    for ring in [RX, TX] {
        let number = (ring as u64).to_ne_bytes();
        guest.send(request::SET_VRING_CALL, &number, &[guest.call(ring)]);
    }
    guest
}

impl GuestEnd for Packaged {
    fn guest_sends(&mut self, frame: Vec<u8>, _: FrameMeta) {
        until("room in its ring", || {
            self.guest.reclaim();
            self.guest.can_send()
        });
        self.guest.send_frame(&frame, NetHeader::default());
    }

    fn guest_receives(&mut self) -> Option<(Vec<u8>, FrameMeta)> {
        Some((self.guest.recv_frame()?.0, FrameMeta::default()))
    }
}

impl Drop for Packaged {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The network learns by the first frame from there where the guest is. What peers send meanwhile on connections that are
/// half-closed meets nothing but a socket, though one after the other is put in place.
#[test]
#[ignore = "wants the packaged passt, whose path is in PACKAGED_PASST: tests/run qemu-upstream"]
fn half_closed_connections_whose_peers_talk_go_on_at_the_packaged_one() {
    isolated(|| {
        let words = std::env::var(PROGRAM).expect("the path of the packaged passt");
        let mut cluster = half_closed();
        cluster.hosts[0].start_helper();
        enter(&cluster.hosts[1].netns);
        let mut packaged = Packaged::start(&words);
        cluster.stop_guest();
        cluster.net.bridge.run(|| sh("ip link set dev port1 master br0"));
        for connection in &mut cluster.connections {
            if connection.before == Before::GuestEnded {
                connection.peer_sends(false);
            }
        }
        // Theirs blocks.
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        fcntl_setfl(&writer, OFlags::NONBLOCK).expect("a pipe");
        packaged.begin_load(&reader);
        drop(reader);
        enter(&cluster.hosts[0].netns);
        cluster.hosts[0].world.engine.save_state(writer);
        assert_eq!(cluster.outcomes_of(&[0]), [true]);
        packaged.assert_loaded();
        packaged.guest.start(&mut || ());
        cluster.net.bridge.run(|| sh("ip link set dev port0 nomaster"));
        enter(&cluster.hosts[0].netns);
        cluster.hosts[0].world.engine.on_link_closed();
        cluster.finish_at(&mut packaged);
    });
}

/// Connections of both families, made by either side: half of them idle, half of them half-closed.
fn half_closed() -> Cluster {
    let mut cluster = Cluster::new();
    for family in FAMILIES {
        for _ in 0..EACH {
            cluster.connect_out(family, &[Before::Idle, Before::GuestEnded, Before::PeerEnded]);
            cluster.connect_in(family, &[Before::Idle, Before::GuestEnded, Before::PeerEnded]);
        }
    }
    // No more than the guest's ring has room for.
    for (seed, connection) in cluster.connections.iter_mut().enumerate() {
        (connection.up, connection.down) = (Way::new(LITTLE, seed), Way::new(LITTLE, seed + 3));
    }
    cluster.until("the ends", |cluster| {
        let (mut all, guest) = (true, &mut cluster.guest);
        for connection in &mut cluster.connections {
            all &= match connection.before {
                Before::GuestEnded => {
                    if connection.guest_sends(guest) {
                        connection.guest_ends(guest);
                    }
                    connection.up.ended[1]
                }
                Before::PeerEnded => {
                    connection.peer_sends(true);
                    connection.guest_reads(guest);
                    connection.down.ended[1]
                }
                before => before == Before::Idle,
            };
        }
        all
    });
    cluster
}

impl Cluster {
    /// As [`finish`](Self::finish), one connection after the other: what ends while the guest has no buffers left, is
    /// reset there.
    fn finish_at(&mut self, packaged: &mut Packaged) {
        for index in 0..self.connections.len() {
            until(&self.connections[index].name.clone(), || {
                let now = smoltcp::time::Instant::from_micros(monotonic_now().as_micros() as i64);
                self.guest.poll_on(packaged, now);
                let connection = &mut self.connections[index];
                connection.work(&mut self.guest, true);
                thread::sleep(Duration::from_micros(200));
                connection.is_done()
            });
        }
    }
}
