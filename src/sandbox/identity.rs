//! Who the program is: the user it changes to when started as root, and the user namespace it
//! enters or creates to have a network namespace without privileges.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::{fs, io};

use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::error::{SandboxError, container_cure, namespace_cure};
use crate::error::StartError;
use crate::sys::capability;
use crate::sys::namespace::{self, Kinds};
use crate::sys::{errno_text, io_error_text};

/// The user that root becomes, and its ids where nobody lists it.
const NOBODY: &str = "nobody";
const NOBODY_IDS: Ids = Ids { user: 65534, group: 65534 };

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ids {
    user: u32,
    group: u32,
}

/// Changes to the user that the operator named with `--runas`, or from root to nobody, unless it is
/// to `keep_root`. Root of a container's user namespace stays what it is.
///
/// # Errors
/// There is no such user, or we may not become it.
pub(crate) fn settle_user(run_as: Option<&str>, keep_root: bool) -> Result<(), StartError> {
    let current = current();
    let wanted = wanted(run_as, keep_root, current)?;
    if wanted == current {
        return Ok(());
    }
    namespace::become_user(wanted.user, wanted.group).map_err(|errno| {
        let Ids { user, group } = wanted;
        let (why, cure) = (errno_text(errno), become_cure(current.user));
        StartError::Other(format!("Couldn't become user {user}, group {group}: {why}: {cure}"))
    })
}

/// Says whom [`settle_user`] will change to where nobody has asked for it, and that it stays root where somebody has.
pub(crate) fn tell_of_user(run_as: Option<&str>, keep_root: bool) {
    let current = current();
    // What is wrong with it is said when it is needed.
    let Ok(wanted) = wanted(run_as, keep_root, current) else { return };
    if run_as.is_none() && wanted != current {
        log::warn!("Started as root, will change to nobody.");
    }
    if run_as.is_some() && wanted.user == 0 && namespace::is_initial_user() {
        log::warn!("--runas {}: the program stays root, which it need not be", wanted.user);
    }
}

/// The user that [`settle_user`] will change to, if there is one.
pub(crate) fn successor(run_as: Option<&str>, keep_root: bool) -> Option<u32> {
    wanted(run_as, keep_root, current()).ok().map(|ids| ids.user)
}

fn current() -> Ids {
    Ids { user: geteuid().as_raw(), group: getegid().as_raw() }
}

fn wanted(run_as: Option<&str>, keep_root: bool, current: Ids) -> Result<Ids, StartError> {
    match run_as {
        Some(spec) => parse(spec).ok_or_else(|| invalid(spec)),
        None if current.user == 0 && !keep_root && namespace::is_initial_user() => {
            Ok(by_name(NOBODY, None).unwrap_or(NOBODY_IDS))
        }
        None => Ok(current),
    }
}

/// What to do where `current` may not become another user.
fn become_cure(current: u32) -> &'static str {
    if current == 0 && !capability::may_change_user() {
        return "root is here without CAP_SETUID or CAP_SETGID: grant both, or stay root with --runas 0";
    }
    "only root can change to another user with --runas"
}

fn invalid(spec: &str) -> StartError {
    StartError::Other(format!(
        "Invalid --runas option: {spec}: no such user or group, or a name of root: give a name of \
         /etc/passwd and one of /etc/group, or numbers, like 65534:65534"
    ))
}

/// Makes a user namespace and enters it. Nobody has an id in it: capabilities are all that it is for, and
/// AppArmor's profiles for passt do not let it write maps.
///
/// # Errors
/// It cannot be made.
pub(crate) fn create_namespace() -> Result<(), SandboxError> {
    namespace::create(Kinds::USER).map_err(|errno| {
        SandboxError::new("couldn't create a user namespace", errno, namespace_cure(errno))
    })
}

/// Makes a user namespace and enters it; the user that we are is its root.
///
/// # Errors
/// It cannot be made, or its maps cannot be written: whatever starts in it would be nobody.
pub(crate) fn create_namespace_as_root() -> Result<(), StartError> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    create_namespace()?;
    namespace::map_to_root(user, group).map_err(|error| {
        let (why, cure) = (io_error_text(&error), mapping_cure(user, &error));
        StartError::Other(format!("Couldn't configure user mappings: {why}{cure}"))
    })
}

/// What to do where `user` may not be root of a user namespace.
fn mapping_cure(user: u32, error: &io::Error) -> &'static str {
    match (Errno::from_io_error(error), user) {
        (Some(Errno::PERM), 0) => {
            ": root needs CAP_SETFCAP for that: grant it, or start as another user"
        }
        (Some(Errno::NOENT), _) => ": mount /proc",
        (Some(Errno::ROFS), _) => ": mount /proc so that it can be written",
        (errno, _) => errno.map_or("", namespace_cure),
    }
}

/// Enters the user namespace that `path` stands for, unless it is the one that we are in.
///
/// # Errors
/// The namespace cannot be opened or entered.
pub(crate) fn enter_namespace(path: &Path) -> Result<(), StartError> {
    let failed = |what: &str, errno| {
        let (shown, why, cure) = (path.display(), errno_text(errno), cure(path, errno));
        StartError::Other(format!("Couldn't {what} user namespace {shown}: {why}{cure}"))
    };
    let fd = namespace::open(path).map_err(|errno| failed("open", errno))?;
    if is_ours(&fd) {
        return Ok(());
    }
    namespace::enter(fd.as_fd(), Kinds::USER).map_err(|errno| failed("enter", errno))
}

/// What to do where a user namespace cannot be opened or entered.
fn cure(path: &Path, errno: Errno) -> String {
    let example = "give a path, as /proc/PID/ns/user";
    match errno {
        Errno::NOENT => no_namespace(path, example),
        Errno::INVAL => format!(": this is no user namespace: {example}"),
        Errno::PERM | Errno::ACCESS | Errno::NOSYS if namespace::refuses_entry() => {
            container_cure(errno).to_owned()
        }
        Errno::PERM | Errno::ACCESS => {
            ": it is another user's: start as that one, or as root with --netns-only".to_owned()
        }
        _ => String::new(),
    }
}

/// What to do where a namespace has no file: its process has ended, or the name is wrong, and then
/// `otherwise`.
pub(crate) fn no_namespace(path: &Path, otherwise: &str) -> String {
    let mut parts = path.components().map(|part| part.as_os_str()).skip(1);
    match (parts.next(), parts.next()) {
        (Some(proc), Some(pid)) if proc == "proc" => {
            let pid = pid.display();
            format!(": there is no process {pid}: give the id of one that runs, or a command")
        }
        _ => format!(": {otherwise}"),
    }
}

/// Whether the user namespace is the one that we are in: the kernel refuses to enter it again.
fn is_ours(namespace: &OwnedFd) -> bool {
    let ours = rustix::fs::stat("/proc/self/ns/user");
    let theirs = rustix::fs::fstat(namespace);
    matches!((ours, theirs), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// `UID`, `UID:GID`, `LOGIN` or `LOGIN:GROUP`.
fn parse(spec: &str) -> Option<Ids> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    match number(user) {
        Some(user) => {
            let group = group.map_or(Some(user), |group| number(group).or_else(|| gid(group)));
            group.map(|group| Ids { user, group })
        }
        None => by_name(user, group).filter(|ids| ids.user != 0),
    }
}

/// A number as strtol(3) reads it in base 0: decimal, hexadecimal after `0x`, or octal after `0`. `(uid_t)-1` is not an id.
fn number(text: &str) -> Option<u32> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let number = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
        (Some(digits), _) => u32::from_str_radix(digits, 16),
        (None, Some(digits)) if !digits.is_empty() => u32::from_str_radix(digits, 8),
        (None, _) => text.parse(),
    };
    number.ok().filter(|number| *number != u32::MAX)
}

fn by_name(login: &str, group: Option<&str>) -> Option<Ids> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let user = entry(&passwd, login, 2)?;
    let group = match group {
        Some(group) => number(group).or_else(|| gid(group))?,
        None => entry(&passwd, login, 3)?,
    };
    Some(Ids { user, group })
}

fn gid(group: &str) -> Option<u32> {
    entry(&fs::read_to_string("/etc/group").ok()?, group, 2)
}

/// The number in column `column` of the line that starts with `name` (passwd(5), group(5)).
fn entry(text: &str, name: &str, column: usize) -> Option<u32> {
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_for_themselves() {
        assert_eq!(parse("1000"), Some(Ids { user: 1000, group: 1000 }));
        assert_eq!(parse("1000:7"), Some(Ids { user: 1000, group: 7 }));
        assert_eq!(parse("0x10:010"), Some(Ids { user: 16, group: 8 }));
        assert_eq!(parse("0"), Some(Ids { user: 0, group: 0 }));
        for wrong in ["", ":", "0x", "08", "+1", "4294967295", "1:", "1:4294967295"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(parse("no-such-login"), None);
        assert_eq!(parse("root"), None, "a name that means root");
    }

    #[test]
    fn a_namespace_without_a_file_names_the_process_or_where_names_are() {
        let cure = |path: &str| no_namespace(Path::new(path), "look there");
        assert!(cure("/proc/999999/ns/net").contains("there is no process 999999"));
        for path in ["/run/netns/nosuch", "nosuch", "/", "/proc"] {
            assert!(cure(path).ends_with(": look there"), "{path}");
        }
    }

    #[test]
    fn columns_of_the_user_database() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1001:1002::/home/ann:/bin/sh\n";
        assert_eq!(entry(passwd, "ann", 2), Some(1001));
        assert_eq!(entry(passwd, "ann", 3), Some(1002));
        assert_eq!(entry(passwd, "an", 2), None);
    }
}
