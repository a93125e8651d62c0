//! What a start does with the kernel, done: namespaces, an empty file system, no capabilities, a filter of system calls, a
//! tap device. Each is tried in a process of its own, which ends at once and takes with it what it did to itself.
//!
//! To ask the kernel what it has would not do: what stands between it and the program - profiles of containers, security
//! modules, limits - refuses single calls, and says so only to who makes them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getegid, geteuid, waitpid};

use super::finding::{Finding, Verdict};
use crate::conf::{Mode, Question};
use crate::flow::fwd::InterfaceName;
use crate::sandbox::{self, Needs, Program, SandboxError};
use crate::sys::namespace::{self, Kinds};
use crate::sys::process::{self, Forked};
use crate::sys::{capability, errno_text, landlock, tun};

/// The first letter of a finding on its way from who has tried.
const LIMITED: char = 'l';
const MISSING: char = 'm';

/// How often, and after which pauses, a namespace is asked for that a limit refuses. The kernel frees those of a process
/// that has ended, and counts them until then, some time after it says that the process has.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);
const USER_LIMIT: &str = "/proc/sys/user/max_user_namespaces";

/// What either program needs.
pub(super) fn findings(question: &Question) -> [Finding; 4] {
    // As a start does: a parent that ignores the signal would have us learn of no child how it ended.
    let _refused_as_the_start_will_be = process::keep_ended_children();
    [user_namespaces(question), isolation(question), call_filter(question), landlock()]
}

/// What pasta needs besides.
pub(super) fn of_a_namespace(question: &Question) -> [Finding; 2] {
    [network_namespaces(question), tap(question)]
}

fn user_namespaces(question: &Question) -> Finding {
    const TOPIC: &str = "user namespaces";
    if question.keep_root {
        return Finding::fine(TOPIC, "none is made, with --netns-only");
    }
    tried(TOPIC, "can be made", || {
        create(Kinds::USER).map_err(|errno| no_user_namespace(TOPIC, errno))
    })
}

/// What passt and pasta do to themselves last, but for the filter.
fn isolation(question: &Question) -> Finding {
    const TOPIC: &str = "isolation";
    tried(TOPIC, "mount, process and IPC namespaces can be made, and all files be left", || {
        if !question.keep_root {
            create(Kinds::USER).map_err(|errno| no_user_namespace(TOPIC, errno))?;
        }
        create(Kinds::COMMAND.with(Kinds::PID))
            .map_err(|errno| no_namespace(TOPIC, "mount, process or IPC namespaces: ", errno))?;
        sandbox::leave(question.chroot_fallback, program(question))
            .map_err(|error| not_reached(TOPIC, &error))
    })
}

fn call_filter(question: &Question) -> Finding {
    const TOPIC: &str = "system call filter";
    let found = tried(TOPIC, "available", || {
        let confined = sandbox::confine(program(question), Needs::default());
        confined.map_err(|error| not_reached(TOPIC, &error))
    });
    // Where the list cannot be read, as by a /proc of processes alone, the trial is what is known.
    let actions = setting("/proc/sys/kernel/seccomp/actions_avail");
    if found.verdict == Verdict::Ok && actions.is_some_and(|all| !all.contains("kill_process")) {
        let cure = "use a kernel with CONFIG_SECCOMP_FILTER, Linux 4.14 or newer";
        return Finding::lacks(TOPIC, "the kernel has none that ends a process", cure);
    }
    found
}

/// Whether paths can be put out of reach.
fn landlock() -> Finding {
    const TOPIC: &str = "Landlock";
    tried(TOPIC, "available", || match landlock::restrict(&[]) {
        Ok(true) => Ok(()),
        _ => Err(Finding::limits(
            TOPIC,
            "not available: the helper that watches the host could read all files of its user",
            "use Linux 5.13 or newer with landlock in lsm=, and a container that allows it",
        )),
    })
}

/// Makes one, enters it as a start does, and starts a process in it as for a command.
fn network_namespaces(question: &Question) -> Finding {
    const TOPIC: &str = "network namespaces";
    tried(TOPIC, "can be made", || {
        settle(question, TOPIC)?;
        let network = with_patience(namespace::new_network).map_err(|errno| {
            if errno == Errno::PERM && question.keep_root && !capability::may_change_namespaces() {
                let text = "none can be made in the user namespace that --netns-only stays in";
                return Finding::lacks(TOPIC, text, "start as root, or leave --netns-only out");
            }
            no_namespace(TOPIC, "", errno)
        })?;
        namespace::in_network(network.as_fd(), || ())
            .map_err(|errno| no_namespace(TOPIC, "none can be entered: ", errno))?;
        start_command(network.as_fd())
            .map_err(|errno| no_namespace(TOPIC, "no command can be started in one: ", errno))
    })
}

/// Starts a process as a command's is, which ends when it has entered `network`.
fn start_command(network: BorrowedFd<'_>) -> Result<(), Errno> {
    match with_patience(|| namespace::fork_into(Kinds::COMMAND.with(Kinds::PID)))? {
        Forked::Child => {
            let entered = namespace::enter(network, Kinds::NETWORK);
            let code = entered.err().map_or(0, Errno::raw_os_error);
            process::end(u8::try_from(code).unwrap_or(u8::MAX))
        }
        Forked::Parent(child) => match exit_code(child)? {
            Some(0) => Ok(()),
            code => Err(code.map_or(Errno::INTR, Errno::from_raw_os_error)),
        },
    }
}

fn tap(question: &Question) -> Finding {
    const TOPIC: &str = "tap device";
    let Some(name) = InterfaceName::new("check0") else { return Finding::fine(TOPIC, "") };
    let lacks = |errno, cure| {
        Finding::lacks(TOPIC, format!("{}: {}", tun::DEVICE, errno_text(errno)), cure)
    };
    tried(TOPIC, "can be made", || {
        let namespace = settle(question, TOPIC)
            .and_then(|()| create(Kinds::NETWORK).map_err(|errno| no_namespace(TOPIC, "", errno)));
        namespace.map_err(|found| {
            let text = format!("{}: {}", tun::DEVICE, found.text);
            Finding::lacks(TOPIC, text, "make network namespaces possible")
        })?;
        tun::open_tap(&name).map(drop).map_err(|errno| lacks(errno, tap_cure(errno)))
    })
}

/// What to do where a network namespace was made, and no tap device in it.
fn tap_cure(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            "modprobe tun; in a container, --device /dev/net/tun"
        }
        Errno::ACCESS => "chmod 666 /dev/net/tun, as distributions have it",
        // By the list of devices that a container has (cgroups(7)).
        Errno::PERM => "in a container, --device /dev/net/tun",
        _ => "use a kernel with CONFIG_TUN",
    }
}

fn program(question: &Question) -> Program {
    if question.mode == Mode::Pasta { Program::Pasta } else { Program::Passt }
}

/// Does what the program will do, in a process of its own, which tells what it has found if it is not `fine`.
fn tried(topic: &'static str, fine: &str, act: impl FnOnce() -> Result<(), Finding>) -> Finding {
    let not_tried = |errno| {
        let text = format!("not tried, there can be no further process: {}", errno_text(errno));
        Finding::lacks(topic, text, without_colon(sandbox::namespace_cure(errno)))
    };
    let (mut told, mut tells) = match std::io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return not_tried(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    };
    match process::fork() {
        Err(errno) => not_tried(errno),
        Ok(Forked::Child) => {
            log::set_max_level(log::LevelFilter::Off);
            if let Err(found) = act() {
                let _nobody_else_is_there = tells.write_all(&written(&found));
                process::end(1);
            }
            process::end(0)
        }
        Ok(Forked::Parent(child)) => {
            drop(tells);
            let mut words = Vec::new();
            let _what_came_before = told.read_to_end(&mut words);
            concluded(topic, fine, exit_code(child), &words)
        }
    }
}

/// What follows from how the process has ended that has tried it, and what it has said.
fn concluded(
    topic: &'static str,
    fine: &str,
    ended: Result<Option<i32>, Errno>,
    words: &[u8],
) -> Finding {
    match ended {
        _ if !words.is_empty() => read(topic, words),
        Ok(Some(0)) => Finding::fine(topic, fine),
        Ok(Some(code)) => {
            let text = format!("not known, who tried it failed with status {code} without a word");
            Finding::limits(topic, text, "report this, with what stands on standard error")
        }
        // As profiles do that kill who makes the call.
        Ok(None) => Finding::lacks(
            topic,
            "who tried it was killed",
            without_colon(sandbox::container_cure(Errno::PERM)),
        ),
        Err(errno) => {
            let why = errno_text(errno);
            let text = format!("not known, how the process that tried it ended is not told: {why}");
            Finding::limits(
                topic,
                text,
                "allow wait4 and waitid in the container's seccomp profile",
            )
        }
    }
}

/// How a child has ended; `None` by a signal.
fn exit_code(child: i32) -> Result<Option<i32>, Errno> {
    let child = Pid::from_raw(child).ok_or(Errno::SRCH)?;
    let ended = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
    Ok(ended.and_then(|(_, status)| status.exit_status()))
}

/// A finding for the process that [`read`]s it, which knows the topic.
fn written(found: &Finding) -> Vec<u8> {
    let verdict = if found.verdict == Verdict::Limited { LIMITED } else { MISSING };
    format!("{verdict}{}\0{}", found.text, found.cure).into_bytes()
}

fn read(topic: &'static str, words: &[u8]) -> Finding {
    let words = String::from_utf8_lossy(words);
    let (text, cure) = words.split_once('\0').unwrap_or((&words, ""));
    match text.strip_prefix(LIMITED) {
        Some(text) => Finding::limits(topic, text, cure),
        None => Finding::lacks(topic, text.strip_prefix(MISSING).unwrap_or(text), cure),
    }
}

/// Enters the user namespace in which a network namespace would be made: a new one with the caller as its root, or stays.
fn settle(question: &Question, topic: &'static str) -> Result<(), Finding> {
    if question.keep_root {
        return Ok(());
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    create(Kinds::USER).map_err(|errno| no_user_namespace(topic, errno))?;
    namespace::map_to_root(user, group).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        no_namespace(topic, "no ids can be had in a user namespace: ", errno)
    })
}

/// Moves this process to new namespaces.
fn create(kinds: Kinds) -> Result<(), Errno> {
    with_patience(|| namespace::create(kinds))
}

/// Has those counted out that have ended before, where the limit is not that there are none.
fn with_patience<T>(make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 1..ATTEMPTS {
        match make() {
            Err(Errno::NOSPC) if setting(USER_LIMIT).as_deref() != Some("0") => {
                std::thread::sleep(PAUSE);
            }
            made => return made,
        }
    }
    make()
}

/// The finding that no namespaces can be made, or nothing be done with them: what, and why.
fn no_namespace(topic: &'static str, what: &str, errno: Errno) -> Finding {
    let text = format!("{what}{}", errno_text(errno));
    Finding::lacks(topic, text, namespace_cure(errno, &setting))
}

/// The finding that no user namespace can be made, which the kernel refuses whose root folder is not that of his mounts.
fn no_user_namespace(topic: &'static str, errno: Errno) -> Finding {
    let mut found = no_namespace(topic, "", errno);
    if found.cure == without_colon(sandbox::container_cure(errno)) && !found.cure.is_empty() {
        found.cure.push_str("; in a chroot there can be none");
    }
    found
}

/// The finding that a stage of the sandbox cannot be reached.
fn not_reached(topic: &'static str, error: &SandboxError) -> Finding {
    let (what, cure) = error.parts();
    Finding::lacks(topic, what, without_colon(cure))
}

/// A cure as it stands alone: those of a start follow what failed.
fn without_colon(cure: &str) -> &str {
    cure.strip_prefix(": ").unwrap_or(cure)
}

/// What to do where namespaces cannot be made, by what the settings say.
fn namespace_cure(errno: Errno, setting: &dyn Fn(&str) -> Option<String>) -> String {
    let is = |file: &str, value: &str| setting(file).is_some_and(|text| text == value);
    let cure = if errno == Errno::AGAIN {
        without_colon(sandbox::namespace_cure(errno))
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "sysctl -w kernel.unprivileged_userns_clone=1"
    } else if is(USER_LIMIT, "0") {
        "sysctl -w user.max_user_namespaces=16384"
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "load an AppArmor profile with 'userns,' for this program, or sysctl -w \
         kernel.apparmor_restrict_unprivileged_userns=0"
    } else if matches!(errno, Errno::NOSPC | Errno::USERS) {
        "raise user.max_user_namespaces and its siblings, or nest fewer containers"
    } else if errno == Errno::ROFS {
        "mount /proc so that it can be written"
    } else if matches!(errno, Errno::PERM | Errno::ACCESS) {
        without_colon(sandbox::container_cure(errno))
    } else if errno == Errno::NOENT {
        "mount /proc"
    } else {
        "use a kernel with namespaces (CONFIG_USER_NS, CONFIG_NET_NS, CONFIG_PID_NS)"
    };
    cure.to_owned()
}

/// The file's text without blanks around it.
pub(super) fn setting(file: &str) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cure_follows_from_the_settings() {
        let cure = |errno, file: &'static str, value: &'static str| {
            namespace_cure(errno, &|name| (name == file).then(|| value.to_owned()))
        };
        let none = "sysctl -w user.max_user_namespaces=16384";
        assert_eq!(cure(Errno::NOSPC, USER_LIMIT, "0"), none);
        assert!(cure(Errno::NOSPC, USER_LIMIT, "100").contains("nest fewer containers"));
        let sysctl = "/proc/sys/kernel/unprivileged_userns_clone";
        assert!(cure(Errno::PERM, sysctl, "0").starts_with("sysctl -w kernel.unprivileged"));
        let sysctl = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        assert!(cure(Errno::PERM, sysctl, "1").contains("'userns,'"));
        assert!(cure(Errno::PERM, sysctl, "0").contains("seccomp profile"));
        assert!(cure(Errno::ROFS, "", "").contains("/proc"));
        assert_eq!(cure(Errno::NOENT, "", ""), "mount /proc");
        assert!(cure(Errno::INVAL, "", "").contains("CONFIG_USER_NS"));
        assert!(cure(Errno::AGAIN, "", "").contains("--pids-limit"));
    }

    /// What nobody knows is not missing: a start may work.
    #[test]
    fn who_says_nothing_has_a_finding_that_says_so() {
        let silent = concluded("a", "fine", Ok(Some(101)), b"");
        assert!(silent.verdict == Verdict::Limited && silent.text.contains("101"), "{silent:?}");
        let unknown = concluded("a", "fine", Err(Errno::CHILD), b"");
        assert!(unknown.verdict == Verdict::Limited && unknown.cure.contains("wait4"));
        assert_eq!(concluded("a", "fine", Ok(Some(0)), b""), Finding::fine("a", "fine"));
        assert_eq!(concluded("a", "fine", Ok(None), b"").verdict, Verdict::Missing);
    }

    #[test]
    fn a_finding_arrives_as_it_was_sent() {
        for found in [Finding::limits("a", "less", ""), Finding::lacks("a", "mm: none", "do it")] {
            assert_eq!(read("a", &written(&found)), found);
        }
    }
}
