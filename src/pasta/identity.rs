//! Who the program is: the user it changes to when started as root, and the user namespace it
//! enters or creates to have a network namespace without privileges.

use std::fs;
use std::path::Path;

use rustix::process::{getegid, geteuid};

use crate::conf::{PastaConf, Target};
use crate::start::{StartError, system};
use crate::sys::namespace::{self, Kinds};

/// The user that root becomes, and its ids where nobody lists it.
const NOBODY: &str = "nobody";
const NOBODY_IDS: Ids = Ids { user: 65534, group: 65534 };

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ids {
    user: u32,
    group: u32,
}

/// Changes to the user that the operator named, or from root to nobody, unless it is told to leave
/// users alone. Root of a container's user namespace stays what it is.
///
/// # Errors
/// There is no such user, or we may not become it.
pub(super) fn settle_user(conf: &PastaConf) -> Result<(), StartError> {
    let current = Ids { user: geteuid().as_raw(), group: getegid().as_raw() };
    let wanted = match &conf.run_as {
        Some(spec) => parse(spec).ok_or_else(|| {
            StartError::Other(format!("Invalid --runas option: {}", user_of(spec)))
        })?,
        None if current.user == 0 && !conf.netns_only && namespace::is_initial_user() => {
            log::warn!("Started as root, will change to nobody.");
            by_name(NOBODY, None).unwrap_or(NOBODY_IDS)
        }
        None => current,
    };
    if wanted == current {
        return Ok(());
    }
    namespace::become_user(wanted.user, wanted.group).map_err(|errno| {
        let Ids { user, group } = wanted;
        let cure = "only root can change to another user with --runas";
        StartError::Other(format!("Couldn't become user {user}, group {group}: {errno}: {cure}"))
    })
}

/// Enters the user namespace of the target, or a new one in which we are root.
///
/// # Errors
/// The namespace cannot be opened, entered, or created.
pub(super) fn settle_namespace(target: &Target) -> Result<(), StartError> {
    match target {
        Target::Spawn { user_namespace: true, .. } => create(),
        Target::Join { user: Some(path), .. } => enter(path),
        Target::Spawn { .. } | Target::Join { user: None, .. } => Ok(()),
    }
}

fn create() -> Result<(), StartError> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    namespace::create(Kinds::USER).map_err(system(
        "Couldn't create a user namespace (see user.max_user_namespaces, and \
         kernel.apparmor_restrict_unprivileged_userns where there is one)",
    ))?;
    if let Err(error) = namespace::map_to_root(user, group) {
        log::warn!("Couldn't configure user mappings: {error}");
    }
    Ok(())
}

fn enter(path: &Path) -> Result<(), StartError> {
    let shown = path.display();
    let fd = namespace::open(path)
        .map_err(|e| StartError::Other(format!("Couldn't open user namespace {shown}: {e}")))?;
    if is_ours(&fd) {
        return Ok(());
    }
    namespace::enter(std::os::fd::AsFd::as_fd(&fd), Kinds::USER)
        .map_err(|e| StartError::Other(format!("Couldn't enter user namespace {shown}: {e}")))
}

/// Whether the user namespace is the one that we are in: the kernel refuses to enter it again.
fn is_ours(namespace: &std::os::fd::OwnedFd) -> bool {
    let ours = rustix::fs::stat("/proc/self/ns/user");
    let theirs = rustix::fs::fstat(namespace);
    matches!((ours, theirs), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

fn user_of(spec: &str) -> &str {
    spec.split(':').next().unwrap_or_default()
}

/// `UID`, `UID:GID`, `LOGIN` or `LOGIN:GROUP`.
fn parse(spec: &str) -> Option<Ids> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    match user.parse() {
        Ok(user) => {
            let group = group.map_or(Some(user), |group| group.parse().ok().or_else(|| gid(group)));
            group.map(|group| Ids { user, group })
        }
        Err(_) => by_name(user, group).filter(|ids| ids.user != 0),
    }
}

fn by_name(login: &str, group: Option<&str>) -> Option<Ids> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let user = entry(&passwd, login, 2)?;
    let group = match group {
        Some(group) => group.parse().ok().or_else(|| gid(group))?,
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
        assert_eq!(parse("no-such-login"), None);
        assert_eq!(parse("root"), None, "a name that means root");
    }

    #[test]
    fn columns_of_the_user_database() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1001:1002::/home/ann:/bin/sh\n";
        assert_eq!(entry(passwd, "ann", 2), Some(1001));
        assert_eq!(entry(passwd, "ann", 3), Some(1002));
        assert_eq!(entry(passwd, "an", 2), None);
    }
}
