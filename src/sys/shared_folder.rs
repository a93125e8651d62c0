//! Files of others in folders for everybody, such as `/tmp`. Who expects a file of ours there may make it first, and give
//! it whatever content he likes once we rely on it: a number in a PID file is that of the process that somebody ends.
//!
//! The kernel refuses to open such a file to who asks for it to be made (`fs.protected_regular` in proc_sys_fs(5)), where that
//! is switched on. What it says of who asks, and of the folder, is what is looked at here, of any file that is open.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::{geteuid, getuid};

/// Anybody may make files, and nobody removes those of others (inode(7)).
const SHARED: u32 = 0o1002;

/// Who the user is that we are about to become; asked only where that matters, because it takes files to find out.
pub(crate) type Successor<'a> = &'a dyn Fn() -> Option<u32>;

/// Refuses `file`, opened at `path`, where the folder of either is for everybody and the file belongs to a stranger: neither to
/// us, to `successor`, to root, nor to the owner of the folder. Devices are nobody's. What we were started with as standard
/// input, output or error, such as `/dev/stderr`, was opened by who has started us, and is his choice.
///
/// # Errors
/// In words whose file it is, or what fstat(2) and stat(2) report.
pub(crate) fn refuse_strangers(
    file: &File,
    path: &Path,
    successor: Successor<'_>,
) -> io::Result<()> {
    let opened = file.metadata()?;
    if !opened.is_file() && !opened.file_type().is_fifo() {
        return Ok(());
    }
    let owner = opened.uid();
    let ours = [0, getuid().as_raw(), geteuid().as_raw()];
    if ours.contains(&owner) || was_given(&opened) || successor() == Some(owner) {
        return Ok(());
    }
    for folder in folders(file, path) {
        let folder = folder.metadata()?;
        if folder.mode() & SHARED == SHARED && folder.uid() != owner {
            return Err(io::Error::other(format!(
                "it is a file of user {owner} in a folder for everybody"
            )));
        }
    }
    Ok(())
}

/// Whether it is one of the files that we were started with.
fn was_given(opened: &Metadata) -> bool {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    [input.as_fd(), output.as_fd(), error.as_fd()].into_iter().any(|standard| {
        let same =
            |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino) == (opened.dev(), opened.ino());
        rustix::fs::fstat(standard).is_ok_and(same)
    })
}

/// Where `path` says that the file is, and where it is, which differs where `path` is a link.
fn folders(file: &File, path: &Path) -> impl Iterator<Item = PathBuf> {
    let named = path.parent().map(Path::to_owned);
    let named = named.map(|folder| if folder.as_os_str().is_empty() { ".".into() } else { folder });
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let real = real.ok().and_then(|real| real.parent().map(Path::to_owned));
    named.into_iter().chain(real.filter(|folder| folder.is_absolute() && folder.exists()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/etc/passwd` is read for that.
    #[test]
    fn nobody_asks_for_the_successor_where_the_file_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ours");
        let file = File::create(&path).unwrap();
        refuse_strangers(&file, &path, &|| panic!("asked")).unwrap();
    }
}
