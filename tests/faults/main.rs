//! A fault at every system call: the program runs under a tracer, which has one call after the other go wrong in each
//! way that is plausible (`calls.rs`), while a guest talks (`guest.rs`, `kernel.rs`) on one of the links (`world.rs`). Nobody
//! panics, and no byte is wrong; a stream ends as it should or is reset toward both ends (`host.rs`), no more than one of
//! them is, or the whole link; the next conversation is as good as any, and no descriptor is left. Before the program is
//! ready, a call that fails is told and ends it, or does no harm. Nothing leaves the machine. `tests/faults/run` runs it
//! alone.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod calls;
mod guest;
mod host;
mod kernel;
mod tracer;
#[cfg(target_env = "gnu")]
mod used;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use passt_support::namespace::isolated;
use tracer::{Outcome, Place, Traced};
use world::{Kind, World};

/// What a conversation takes at most.
const PATIENCE: Duration = Duration::from_secs(20);

const SETUP: &str = "ip link set lo up\necho '0 0' > /proc/sys/net/ipv4/ping_group_range";

/// Descriptors that conversations may leave for a while: flows of datagrams, and streams that were given up.
const FEW_DESCRIPTORS: usize = 12;

/// Says it in the file that `FAULTS_LOG` names: what a test in a namespace of its own prints is seen only if it fails.
fn tell(line: &str) {
    let Some(path) = std::env::var_os("FAULTS_LOG") else { return };
    let mut log = std::fs::File::options().append(true).create(true).open(path).unwrap();
    writeln!(log, "{line}").unwrap();
}

/// Whether it is ready before it ends.
fn gets_ready(program: &mut Traced, folder: &Path) -> bool {
    let begin = Instant::now();
    let has_id = || std::fs::read_to_string(folder.join("pid")).is_ok_and(|id| !id.is_empty());
    while !has_id() {
        if program.end(Duration::from_millis(2)).is_some() {
            return false;
        }
        assert!(begin.elapsed() < PATIENCE, "it neither gets ready nor ends");
    }
    true
}

fn said(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("stderr")).unwrap()
}

fn descriptors(program: &Traced) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", program.pid)).unwrap().count()
}

/// A program whose calls fail, and its guest.
struct Walk {
    kind: Kind,
    world: World,
    folder: tempfile::TempDir,
    program: Traced,
}

impl Walk {
    fn new(kind: Kind) -> Self {
        let (world, folder) = (World::new(kind), tempfile::tempdir().unwrap());
        let mut program = Traced::start(world.program(folder.path()), None);
        assert!(gets_ready(&mut program, folder.path()), "{}", said(folder.path()));
        Self { kind, world, folder, program }
    }

    /// A conversation without a fault.
    fn talk(&mut self, what: &str) {
        let heard = self.world.converse(self.folder.path(), PATIENCE);
        assert!(heard.is_all(), "{what}: {heard:?}, {}", said(self.folder.path()));
        let complaints = host::complaints();
        assert!(complaints.is_empty(), "{what}: {complaints:?}");
    }

    /// A conversation in which a call goes wrong, and one without.
    fn fail(&mut self, at: Place, outcome: Outcome) {
        let begin = Instant::now();
        tell(&format!("{:?}, {at:?}: {outcome:?}", self.kind));
        let open = host::open();
        self.program.arm(at, outcome);
        let heard = self.world.converse(self.folder.path(), PATIENCE);
        let hit = self.program.disarm();
        let what = format!("{:?}, call {hit:?} at {at:?}: {outcome:?}, {heard:?}", self.kind);
        if let Some(status) = self.program.end(Duration::ZERO) {
            panic!("{what}: {status}, {}", said(self.folder.path()));
        }
        assert!(heard.is_borne(), "{what}: {}", said(self.folder.path()));
        // What the guest has given up ends at the host, too. Streams of a link that is lost wait for its return.
        self.wait(&format!("{what}: a stream goes on"), |_| heard.lost || host::open() <= open);
        let complaints = host::complaints();
        assert!(complaints.is_empty(), "{what}: {complaints:?}, {}", said(self.folder.path()));
        let during = begin.elapsed();
        // After one that nobody has noticed the next one does, with the next fault.
        if !heard.is_all() {
            self.talk(&format!("the one after {what}"));
        }
        tell(&format!("{what}, {during:?} and {:?}", begin.elapsed() - during));
    }

    /// Waits until `is_so`, for what takes the program a while.
    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !is_so(self) {
            let text = || (descriptors(&self.program), said(self.folder.path()));
            assert!(begin.elapsed() < PATIENCE, "{what}: {:?}", text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// How many calls of each kind fail.
fn share(each: usize) -> usize {
    if std::env::var_os("FAULTS_ALL").is_some() { usize::MAX } else { each }
}

/// Fails the first `each` calls of each kind of a conversation, one after the other; with `FAULTS_ALL`, all of them.
fn walk(kind: Kind, each: usize) {
    let mut walk = Walk::new(kind);
    walk.talk("without a fault");
    walk.program.calls();
    walk.talk("without a fault");
    let calls = walk.program.calls();
    let before = descriptors(&walk.program);
    let each = share(each);
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    let mut faults = 0;
    for (place, call) in calls.iter().enumerate() {
        let times = seen.entry(*call).or_default();
        *times += 1;
        if *times > each {
            continue;
        }
        for outcome in calls::at_work(kind, *call) {
            faults += 1;
            walk.fail(Place::After(place, *call), *outcome);
        }
    }
    walk.wait(&format!("more descriptors than {before} are left"), |walk| {
        descriptors(&walk.program) <= before + FEW_DESCRIPTORS
    });
    let (calls, after) = (calls.len(), descriptors(&walk.program));
    tell(&format!(
        "{kind:?}: {calls} calls, {faults} faults, {before} descriptors before and {after} after"
    ));
    let text = said(walk.folder.path());
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_call_that_fails_on_the_stream_socket_takes_nobody_else_along() {
    isolated(SETUP, || walk(Kind::Stream, 2));
}

#[test]
fn a_call_that_fails_with_large_frames_takes_nobody_else_along() {
    isolated(SETUP, || walk(Kind::LargeFrames, 1));
}

#[test]
fn a_call_that_fails_on_vhost_user_takes_nobody_else_along() {
    isolated(SETUP, || walk(Kind::VhostUser, 2));
}

#[test]
fn a_call_that_fails_on_the_tap_takes_nobody_else_along() {
    isolated(SETUP, || walk(Kind::Tap, 1));
}

#[cfg(target_env = "gnu")]
#[test]
fn each_call_that_passt_may_make_is_made_by_a_test() {
    isolated(SETUP, || used::check("PASST"));
}

#[cfg(target_env = "gnu")]
#[test]
fn each_call_that_pasta_may_make_is_made_by_a_test() {
    isolated(SETUP, || used::check("PASTA"));
}

#[test]
fn a_start_of_passt_that_fails_says_why_and_leaves_nothing() {
    isolated(SETUP, || walk_start(Kind::Stream, usize::MAX));
}

#[test]
fn a_start_of_pasta_that_fails_says_why_and_leaves_nothing() {
    isolated(SETUP, || walk_start(Kind::Tap, 1));
}

/// Fails the first `each` calls of each kind before the program is ready, one in each start; with `FAULTS_ALL`, all.
fn walk_start(kind: Kind, each: usize) {
    let walk = Walk::new(kind);
    let calls = walk.program.calls();
    let mut world = walk.world;
    drop(walk.program);
    // What comes before the first look at the descriptors is the loader's.
    let first = calls.iter().position(|call| *call == libc::SYS_poll).unwrap();
    let waits = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2];
    // Before the filter is made, it is looked for which of them there is.
    let filters = [libc::SYS_seccomp, libc::SYS_prctl];
    let filtered = calls.iter().rposition(|call| filters.contains(call)).unwrap();
    let wait = calls[filtered..].iter().position(|call| waits.contains(call));
    let ready = wait.map_or(calls.len(), |wait| filtered + wait);
    // One place alone, if `FAULTS_PLACE` names it. With `FAULTS_TRACE` the program says all it can.
    let only: Option<usize> =
        std::env::var("FAULTS_PLACE").ok().map(|place| place.parse().unwrap());
    let each = share(each);
    let (mut told, mut borne) = (0, 0);
    for (place, call) in calls.iter().enumerate().take(ready).skip(first) {
        let Some(outcome) = calls::at_start(*call) else { continue };
        let before = calls[first..place].iter().filter(|other| *other == call).count();
        if before >= each || only.is_some_and(|only| only != place) {
            continue;
        }
        // The second mount is the empty file system.
        let mounts = calls[..place].iter().filter(|other| **other == libc::SYS_mount);
        let sandboxed = mounts.count() >= 2;
        tell(&format!("call {call} at {place}, after {before} of its kind: {outcome:?}"));
        // Two starts differ by a call or two.
        let of_kind = calls[..place].iter().filter(|other| *other == call).count();
        if start(&mut world, Place::Nth(of_kind, *call), outcome, sandboxed) {
            borne += 1;
        } else {
            told += 1;
        }
    }
    tell(&format!(
        "{kind:?}: {ready} calls before it is ready: {told} faults end it, {borne} do no harm"
    ));
    assert!(told > 8 || only.is_some(), "only {told} faults were noticed");
}

/// Starts the program with a fault. Whether it serves all the same.
fn start(world: &mut World, at: Place, outcome: Outcome, sandboxed: bool) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Traced::start(world.program(folder.path()), Some((at, outcome)));
    let what = format!("{at:?}: {outcome:?}");
    if gets_ready(&mut program, folder.path()) {
        let heard = world.converse(folder.path(), PATIENCE);
        assert!(heard.is_all(), "{what}: {heard:?}, {}", said(folder.path()));
        return true;
    }
    let status = program.end(PATIENCE).unwrap();
    let text = said(folder.path());
    assert_eq!(status.code(), Some(1), "{what}: {status}, {text}");
    assert!(!text.trim().is_empty(), "{what}: not one word");
    assert!(!text.contains("panicked"), "{what}: {text}");
    // Behind the door of the sandbox there are no files that could be removed.
    let left = std::fs::read_dir(folder.path()).unwrap().count() - 1;
    assert!(left == 0 || sandboxed, "{what}: {left} files are left");
    let begin = Instant::now();
    while !program.helpers().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "{what}: {:?} goes on", program.helpers());
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
