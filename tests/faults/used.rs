//! Each system call that the filter leaves to a program is made by some test: most in the conversations here, the others by
//! the test that is named, or where it is said: on other systems, in a guest, or when something else has broken. So none can
//! go from the list unnoticed, for the kernel kills who makes a call that is not on it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::world::Kind;
use crate::{Walk, tell};

/// The lists, as they stand in the source.
const LISTS: &str = include_str!("../../src/sandbox/calls.rs");

macro_rules! numbers {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name),)*] };
}

/// The numbers of all calls that are listed.
const NUMBERS: &[(&str, i64)] = numbers! {
    SYS_accept4 SYS_bind SYS_brk SYS_clock_gettime SYS_close SYS_connect SYS_dup2 SYS_epoll_ctl SYS_epoll_pwait
    SYS_epoll_pwait2 SYS_exit_group SYS_fallocate SYS_fcntl SYS_fstat SYS_fsync SYS_ftruncate SYS_futex SYS_getpeername
    SYS_getpid SYS_getsockname SYS_getsockopt SYS_gettid SYS_ioctl SYS_listen SYS_madvise SYS_mmap SYS_mremap
    SYS_munmap SYS_openat SYS_pipe2 SYS_pread64 SYS_pwrite64 SYS_read SYS_recvfrom SYS_recvmmsg SYS_recvmsg
    SYS_restart_syscall SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sendmmsg SYS_sendmsg SYS_sendto
    SYS_setitimer SYS_setsockopt SYS_shutdown SYS_sigaltstack SYS_socket SYS_socketpair SYS_splice SYS_tgkill
    SYS_waitid SYS_write SYS_writev
};

/// Who makes a call that no conversation makes.
enum Else {
    /// A test: its file, and its name.
    Test(&'static str, &'static str),
    /// No test of this program that has its filter, here.
    Elsewhere(&'static str),
}
use Else::{Elsewhere, Test};

const LOG: Else =
    Test("tests/lifecycle/logging.rs", "a_log_file_stays_below_its_size_and_has_whole_lines");
const LOG_OF_PASTA: Else =
    Test("tests/lifecycle/logging.rs", "pasta_keeps_its_log_below_its_size_too");
const BACKGROUND: Else = Test("tests/background.rs", "listening_in_the_background_until_sigterm");
const CONTROL: Else = Test("tests/control/changed.rs", "rules_are_added_removed_and_replaced");
const MANY_RULES: Else =
    Test("tests/control/changed.rs", "changes_of_many_ports_come_one_after_the_other");
/// A second after the start.
const TRIM: Else = Test("tests/background.rs", "what_only_starting_needed_is_given_back");
const ABORT: Else = Test("tests/sandbox.rs", "an_abort_is_not_taken_for_a_violation");

/// Of both programs.
const OF_BOTH: &[(&str, Else)] = &[
    ("SYS_brk", TRIM),
    // The processor time of control sockets, which no vDSO tells.
    ("SYS_clock_gettime", CONTROL),
    ("SYS_dup2", BACKGROUND),
    ("SYS_epoll_pwait", Elsewhere("Linux before 5.11")),
    ("SYS_fallocate", LOG),
    ("SYS_fsync", Test("tests/lifecycle/capture.rs", "a_stream_socket")),
    ("SYS_ftruncate", Elsewhere("file systems that cannot take blocks out of a log")),
    (
        "SYS_futex",
        Elsewhere("C libraries that wake whoever waits, without looking whether somebody does"),
    ),
    (
        "SYS_getpeername",
        Elsewhere(
            "a stranger's datagram at a port of the guest: tests/engine/foreign.rs, without a filter",
        ),
    ),
    ("SYS_getsockname", CONTROL),
    ("SYS_gettid", ABORT),
    (
        "SYS_ioctl",
        Elsewhere("how much of a stream its peer has not acknowledged, and a guest that moves"),
    ),
    ("SYS_listen", CONTROL),
    ("SYS_madvise", TRIM),
    ("SYS_mremap", MANY_RULES),
    ("SYS_pread64", LOG),
    ("SYS_pwrite64", LOG),
    (
        "SYS_restart_syscall",
        Elsewhere("a process that is stopped and goes on while it waits with a time limit"),
    ),
    ("SYS_rt_sigaction", ABORT),
    ("SYS_rt_sigprocmask", ABORT),
    (
        "SYS_rt_sigreturn",
        Test("tests/blocking.rs", "a_front_end_that_blocks_its_counter_cannot_keep_the_program"),
    ),
    ("SYS_tgkill", ABORT),
    ("SYS_writev", Elsewhere("a heap that is damaged: the C library's last words")),
];

const OF_PASST: &[(&str, Else)] = &[];

const OF_PASTA: &[(&str, Else)] = &[
    ("SYS_fstat", LOG_OF_PASTA),
    ("SYS_mmap", Test("tests/sandbox.rs", "memory_can_be_had_and_given_back")),
    ("SYS_openat", Elsewhere("a namespace by its path that goes: tests/pasta/cases.sh")),
    ("SYS_sendmmsg", Elsewhere("datagrams that pass the link by: tests/pasta/cases.sh")),
    ("SYS_splice", Elsewhere("bulk that passes the link by: tests/pasta/cases.sh")),
];

/// The calls of a list in the source, without those of other systems.
fn listed(lists: &[&str]) -> BTreeSet<&'static str> {
    let texts = lists.iter().map(|list| {
        let head = format!("const {list}: &[Call] = &[\n");
        let at = LISTS.find(&head).unwrap_or_else(|| panic!("no list {list}"));
        &LISTS[at + head.len()..]
    });
    texts.flat_map(named).collect()
}

/// The calls that `text` names, up to the end of its first array.
fn named(text: &str) -> BTreeSet<&'static str> {
    let (text, _) = text.split_once("];\n").expect("its end");
    let mut names = BTreeSet::new();
    let mut other_system = false;
    for line in text.lines() {
        other_system |= line.contains("target_env = \"musl\"");
        for word in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
            let word = word.to_lowercase();
            let known = NUMBERS.iter().find(|(name, _)| name.to_lowercase() == word);
            if word.starts_with("sys_") && !other_system {
                names.insert(known.unwrap_or_else(|| panic!("the number of {word}")).0);
            }
        }
        other_system &= !line.ends_with("),");
    }
    names
}

/// Calls of a program behind its filter, from there to its end.
fn made(kind: Kind) -> BTreeSet<i64> {
    let mut walk = Walk::new(kind);
    let mut calls = walk.program.calls();
    let filter = calls.iter().rposition(|call| [libc::SYS_seccomp, libc::SYS_prctl].contains(call));
    calls.drain(..=filter.expect("it confines itself"));
    for _ in 0..2 {
        walk.talk("without a fault");
    }
    // SAFETY: plain numbers; the process is ours and was not waited for.
    unsafe { libc::kill(walk.program.pid, libc::SIGTERM) };
    let ended = walk.program.end(Duration::from_secs(10));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    calls.extend(walk.program.calls());
    calls.into_iter().collect()
}

/// Looks at the list of a program, by its name in the source.
pub fn check(own: &str) {
    let (kinds, more): (&[Kind], &[(&str, Else)]) = match own {
        "PASST" => (&[Kind::Stream, Kind::LargeFrames, Kind::VhostUser], OF_PASST),
        _ => (&[Kind::Tap], OF_PASTA),
    };
    let others: Vec<_> = OF_BOTH.iter().chain(more).collect();
    let made: BTreeSet<i64> = kinds.iter().flat_map(|kind| made(*kind)).collect();
    let mut listed = listed(&["COMMON", "OPTIONS", "RUNTIME", own]);
    listed.extend(named(LISTS.split_once("\nfn needed(").expect("it").1));
    // What stands beside the lists.
    listed.extend(["SYS_mmap", "SYS_setsockopt", "SYS_socket", "SYS_tgkill"]);
    let number = |name: &str| NUMBERS.iter().find(|(known, _)| *known == name).expect("known").1;
    let left: BTreeSet<&str> =
        listed.iter().copied().filter(|name| !made.contains(&number(name))).collect();
    tell(&format!("{own}: {} calls, not made: {left:?}", listed.len()));
    let said: BTreeSet<&str> = others.iter().map(|(name, _)| *name).collect();
    // On other systems conversations may make more of them.
    let unsaid: Vec<_> = left.difference(&said).collect();
    assert!(unsaid.is_empty(), "no test makes these calls of {own}: {unsaid:?}");
    for (name, who) in others {
        match who {
            Test(file, test) => {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
                let text =
                    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{file}: {why}"));
                let is_there = text.contains(&format!("fn {test}("));
                assert!(is_there, "{name}: there is no {test} in {file}");
            }
            Elsewhere(where_else) => assert!(where_else.len() > 8, "{name}: where?"),
        }
    }
}
