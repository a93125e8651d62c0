//! Landlock (landlock(7)): files that the calling thread, and what it starts, cannot reach by a path any more, whoever it
//! is. No privilege is needed for it. What is open already stays open, and is used as before.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};

/// The newest version whose rights are asked for; those that the kernel has not are left out.
const NEWEST: ABI = ABI::V6;

/// From now on nothing can be opened, changed, made or removed by a path, but what is below one of the folders
/// `readable` for reading; folders that are not there are no error. No socket of an abstract name that somebody outside has
/// made can be connected to, and nobody outside be sent a signal (both since Linux 6.12). Returns false where the kernel
/// knows nothing of this (before Linux 5.13, or without `landlock` in its `lsm=`).
///
/// # Errors
/// What landlock_create_ruleset(2), landlock_add_rule(2) and landlock_restrict_self(2) report.
pub(crate) fn restrict(readable: &[PathBuf]) -> Result<bool, RulesetError> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let folders = readable.iter().filter_map(|folder| PathFd::new(folder).ok());
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let rules = folders.map(|folder| Ok::<_, RulesetError>(PathBeneath::new(folder, read)));
    let status = ruleset.add_rules(rules)?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{ErrorKind, Read};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::thread;

    use passt_support::skipped::skipped;
    use rustix::process::test_kill_process;

    use super::*;

    const NO_LANDLOCK: &str = "this kernel has no Landlock: paths lead where they did";

    fn kernel() -> (u32, u32) {
        let release = rustix::system::uname();
        let text = release.release().to_string_lossy().into_owned();
        let mut numbers = text.split(['.', '-']).map_while(|part| part.parse().ok());
        (numbers.next().expect("a number"), numbers.next().expect("another"))
    }

    /// In a thread of its own, which alone is restricted.
    fn restricted(readable: Vec<PathBuf>, test: impl FnOnce(bool) + Send + 'static) {
        let thread = thread::spawn(move || test(restrict(&readable).expect("no error")));
        thread.join().expect("the test holds");
    }

    #[test]
    fn no_file_is_reached_by_its_path_but_what_is_open_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, "text").expect("written");
        let mut open = File::open(&path).expect("there");
        restricted(Vec::new(), move |enforced| {
            if !enforced {
                assert!(File::open(&path).is_ok());
                return skipped(NO_LANDLOCK);
            }
            let denied = |result: std::io::Result<()>| {
                assert_eq!(result.expect_err("denied").kind(), ErrorKind::PermissionDenied);
            };
            denied(File::open(&path).map(drop));
            denied(File::create(&path).map(drop));
            denied(fs::create_dir(path.with_extension("folder")));
            denied(fs::remove_file(&path));
            denied(fs::read_dir(path.parent().expect("a folder")).map(drop));
            let mut text = String::new();
            open.read_to_string(&mut text).expect("open before");
            assert_eq!(text, "text");
        });
    }

    #[test]
    fn what_is_readable_can_be_read_and_nothing_else() {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let [inside, outside] = folders.each_ref().map(|folder| folder.path().join("file"));
        for path in [&inside, &outside] {
            fs::write(path, "text").expect("written");
        }
        let readable = vec![folders[0].path().to_owned(), PathBuf::from("/no/such/folder")];
        restricted(readable, move |enforced| {
            assert_eq!(fs::read_to_string(&outside).is_err(), enforced);
            if !enforced {
                return skipped(NO_LANDLOCK);
            }
            assert_eq!(fs::read_to_string(&inside).expect("readable"), "text");
            // As a file that is replaced is.
            assert_eq!(
                fs::read_dir(inside.parent().expect("a folder")).expect("readable").count(),
                1
            );
            let denied = fs::write(&inside, "other").expect_err("for reading only");
            assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
        });
    }

    #[test]
    fn nobody_outside_is_spoken_to_where_the_kernel_knows_scopes() {
        let name = format!("passt-landlock-{}", rustix::process::getpid().as_raw_nonzero());
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let _listener = UnixListener::bind_addr(&address).expect("free");
        restricted(Vec::new(), move |enforced| {
            let scopes = enforced && kernel() >= (6, 12);
            let connected = UnixStream::connect_addr(&address);
            assert_eq!(connected.is_err(), scopes, "{connected:?}");
            let parent = rustix::process::getppid().expect("somebody has started the tests");
            assert_eq!(test_kill_process(parent).is_err(), scopes);
        });
    }
}
