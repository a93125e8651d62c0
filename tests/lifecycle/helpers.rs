//! Helpers that somebody signals: whoever stops a unit of systemd's does that to all that runs in it, and the program may
//! have been moved to another one.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

use passt_support::namespace::{Netns, isolated};
use passt_support::wait::until;
use rustix::process::{Pid, Signal, getsid, kill_process};

use crate::rig::{NETWORK, Place, Program, contains, status_field};

const LOOPBACK: &str = "ip link set lo up";

const MAKES_SOCKETS: &str = "The helper that makes sockets in the namespace ";
const WATCHES_HOST: &str = "The helper that watches the host's network ";

/// pasta beside a namespace, in the foreground and with both of its helpers.
struct Pasta {
    place: Place,
    program: Program,
    helpers: Vec<Pid>,
    _guest: Netns,
}

impl Pasta {
    fn start() -> Self {
        let (place, guest) = (Place::new(), Netns::new(LOOPBACK));
        let path = format!("/proc/{}/fd/{}", std::process::id(), guest.file().as_raw_fd());
        let mut command = pasta(&place);
        command.args(["--netns", &path, "--no-netns-quit"]);
        let program = place.spawn(&mut command);
        let helpers = children(program.pid);
        assert_eq!(
            helpers.iter().copied().map(name).collect::<Vec<_>>(),
            ["socket-maker", "host-watch"]
        );
        Self { place, program, helpers, _guest: guest }
    }

    fn signal_helpers(&self, signal: Signal) {
        self.helpers.iter().for_each(|helper| kill_process(*helper, signal).unwrap());
    }

    /// Waits until the program has no helpers any more, and none that only waits to be reaped.
    fn await_none(&self) {
        until("no children", || children(self.program.pid).is_empty().then_some(()));
    }

    /// What it has said of helpers, in order of the text.
    fn said(&self) -> Vec<String> {
        let text = self.place.text("stderr");
        let lines = text.lines().filter_map(|line| line.find("The helper").map(|at| &line[at..]));
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

fn pasta(place: &Place) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pasta"));
    command.args(NETWORK).args(["-f", "--config-net", "-t", "none", "-u", "none", "-T", "none"]);
    command.args(["-U", "none", "--pid"]).arg(place.path("pid"));
    command
}

fn children(pid: Pid) -> Vec<Pid> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(|child| Pid::from_raw(child.parse().unwrap()).unwrap()).collect()
}

fn proc(pid: Pid, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

fn name(pid: Pid) -> String {
    std::fs::read_to_string(proc(pid, "comm")).unwrap().trim_end().to_owned()
}

fn is_zombie(pid: Pid) -> bool {
    std::fs::read_to_string(proc(pid, "stat")).unwrap().contains(") Z ")
}

/// Whether `lines` are one of each helper, which has ended in this way.
fn assert_told(lines: &[String], how: &str) {
    let [maker, watch] = lines else { panic!("{lines:#?}") };
    let (way, loss) = (
        "connections to loopback addresses go by the tap device",
        "changes are not followed any more",
    );
    for (line, helper, loss) in [(maker, MAKES_SOCKETS, way), (watch, WATCHES_HOST, loss)] {
        let cure = "start the program again, in a unit of its own";
        let why = "as when the unit that has started it stops";
        assert_eq!(*line, format!("{helper}{how}, {why}: {loss}: {cure}"));
    }
}

/// As when the unit is stopped that has started the program, which is in another one.
#[test]
fn helpers_end_when_they_are_told_to_and_the_program_goes_on_without() {
    isolated(LOOPBACK, || {
        for signal in [Signal::TERM, Signal::QUIT] {
            let mut pasta = Pasta::start();
            pasta.signal_helpers(signal);
            pasta.await_none();
            until("two lines", || (pasta.said().len() == 2).then_some(()));
            assert!(!pasta.program.has_ended());
            assert_eq!(pasta.program.end(Signal::TERM), Some(0));
            assert_told(&pasta.said(), "was told to end");
        }
    });
}

/// As by `KillMode=mixed`, when the unit's own process has ended.
#[test]
fn helpers_that_are_killed_are_reaped_and_missed() {
    isolated(LOOPBACK, || {
        let mut pasta = Pasta::start();
        pasta.signal_helpers(Signal::KILL);
        pasta.await_none();
        until("two lines", || (pasta.said().len() == 2).then_some(()));
        assert!(!pasta.program.has_ended());
        assert_eq!(pasta.program.end(Signal::TERM), Some(0));
        assert_told(&pasta.said(), "was killed");
    });
}

/// As by `KillMode=control-group`.
#[test]
fn a_program_that_is_told_together_with_its_helpers_ends_as_alone() {
    isolated(LOOPBACK, || {
        let mut pasta = Pasta::start();
        pasta.signal_helpers(Signal::TERM);
        assert_eq!(pasta.program.end(Signal::TERM), Some(0));
        assert!(pasta.helpers.iter().all(|helper| !proc(*helper, "").exists()), "reaped");
        assert_eq!(pasta.said(), [""; 0]);
    });
}

/// One that had no time until then hears of everything at once.
#[test]
fn a_program_that_ends_misses_no_helper() {
    isolated(LOOPBACK, || {
        let mut pasta = Pasta::start();
        pasta.program.signal(Signal::STOP);
        until("it to stand still", || pasta.program.status("State").starts_with('T').then_some(()));
        pasta.program.signal(Signal::TERM);
        pasta.signal_helpers(Signal::TERM);
        until("their end", || pasta.helpers.iter().all(|helper| is_zombie(*helper)).then_some(()));
        assert_eq!(pasta.program.end(Signal::CONT), Some(0));
        assert_eq!(pasta.said(), [""; 0]);
    });
}

/// Keys of a terminal and signals for a group do not reach them, and others than those that end the program do nothing.
/// One that has a command passes also those on, and goes on for as long as that does: so do its helpers.
#[test]
fn nothing_ends_a_helper_that_does_not_end_the_program() {
    isolated(LOOPBACK, || {
        let beside = Pasta::start();
        let place = Place::new();
        let mut command = pasta(&place);
        command.args(["--", "sh", "-c", "trap '' TERM QUIT; while :; do sleep 1; done"]);
        let around = place.spawn(&mut command);
        let is_helper = |pid: &Pid| ["socket-maker", "host-watch"].contains(&name(*pid).as_str());
        let kept: Vec<_> = children(around.pid).into_iter().filter(is_helper).collect();
        assert_eq!(kept.len(), 2);
        for (helpers, ends) in [(&beside.helpers, true), (&kept, false)] {
            for helper in helpers {
                assert_eq!(getsid(Some(*helper)), Ok(*helper));
                let status = std::fs::read_to_string(proc(*helper, "status")).unwrap();
                let blocked = status_field(&status, "SigBlk");
                for signal in [Signal::INT, Signal::HUP, Signal::USR1, Signal::PIPE] {
                    assert!(contains(&blocked, signal), "{signal:?}: {status}");
                }
                for signal in [Signal::TERM, Signal::QUIT, Signal::ALARM] {
                    assert_eq!(contains(&blocked, signal), !ends, "{signal:?}: {status}");
                }
            }
        }
    });
}
