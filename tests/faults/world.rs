//! A program that is to be traced, on each of its links, and the guest behind it.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use passt_guest::{Client, Guest, Options, bit};
use passt_support::namespace::Netns;

use crate::guest::{self, Heard};
use crate::wire::Wire;
use crate::{host, kernel};

/// How the guest is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// passt's stream socket.
    Stream,
    /// The same with frames that are not copied.
    LargeFrames,
    /// passt's vhost-user device.
    VhostUser,
    /// pasta's tap device, and connections that pass it by.
    Tap,
}

/// The guest, which outlives the program.
pub struct World {
    kind: Kind,
    namespace: Option<Netns>,
    /// The guest's last port.
    port: u16,
}

impl World {
    /// With servers on the host's loopback device.
    pub fn new(kind: Kind) -> Self {
        let world =
            Self { kind, namespace: (kind == Kind::Tap).then(kernel::namespace), port: 40_000 };
        host::serve(world.stream_bytes());
        world
    }

    /// The program in the foreground. What it says goes to the file `stderr` of `folder`, its id to `pid`.
    pub fn program(&self, folder: &Path) -> Command {
        let (passt, pasta) = (env!("CARGO_BIN_EXE_passt"), env!("CARGO_BIN_EXE_pasta"));
        let mut command = Command::new(if self.kind == Kind::Tap { pasta } else { passt });
        command.args(["--foreground", "-4", "-a", "192.0.2.2/24", "-g", "192.0.2.1"]);
        command.args(["-t", "127.0.0.1/7000", "-u", "127.0.0.1/7001", "--runas=0:0"]);
        command.arg("--pid").arg(folder.join("pid"));
        match &self.namespace {
            Some(namespace) => {
                let own =
                    format!("/proc/{}/fd/{}", std::process::id(), namespace.file().as_raw_fd());
                command.args(["-T", "none", "-U", "none", "-I", "tap0", "--config-net"]);
                command.args(["--netns", &own]);
            }
            None => {
                command.arg("--socket").arg(folder.join("socket"));
            }
        }
        match self.kind {
            Kind::Stream => drop(command.args(["-m", "1500"])),
            Kind::VhostUser => drop(command.args(["-m", "1500", "--vhost-user"])),
            Kind::LargeFrames | Kind::Tap => {}
        }
        if std::env::var_os("FAULTS_TRACE").is_some() {
            command.arg("--trace");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(folder.join("stderr")).expect("a file"));
        command
    }

    fn stream_bytes(&self) -> usize {
        match self.kind {
            Kind::Stream | Kind::VhostUser => 40_000,
            Kind::LargeFrames | Kind::Tap => 400_000,
        }
    }

    /// The guest comes, has its conversation, and leaves.
    pub fn converse(&mut self, folder: &Path, patience: Duration) -> Heard {
        self.port = if self.port == 60_000 { 40_000 } else { self.port + 1 };
        let what = (self.port, self.stream_bytes());
        if let Some(namespace) = &self.namespace {
            return kernel::converse(namespace, what.1, patience);
        }
        let Ok(socket) = UnixStream::connect(folder.join("socket")) else { return Heard::lost() };
        if self.kind != Kind::VhostUser {
            let mtu = if self.kind == Kind::LargeFrames { 65_520 } else { 1500 };
            return guest::converse(&mut Wire::new(socket, mtu), what, patience);
        }
        let Some(mut guest) = connect(socket) else { return Heard::lost() };
        guest::converse(&mut guest, what, patience)
    }
}

/// Several datagrams in one frame (`VIRTIO_NET_F_GUEST_USO4` and `6`), which smoltcp would take for one.
const BURSTS: u64 = 1 << 54 | 1 << 55;

/// A front-end with its guest; `None` if it is sent away meanwhile. Who is neither answered nor sent away panics.
fn connect(socket: UnixStream) -> Option<Guest> {
    let seen = Client::new(socket.try_clone().expect("a duplicate"));
    let options = Options { features: !(bit::MAC | BURSTS), ..Options::default() };
    let connect = || Guest::connect(socket, options, &mut || ());
    match catch_unwind(AssertUnwindSafe(connect)) {
        Ok(guest) => Some(guest),
        Err(_) if seen.is_closed() => None,
        Err(why) => resume_unwind(why),
    }
}
