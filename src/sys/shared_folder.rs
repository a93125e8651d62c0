//! Files of others in folders for everybody, such as `/tmp`. Who expects a file of ours there may make it first, and give
//! it whatever content he likes once we rely on it: a number in a PID file is that of the process that somebody ends.
//!
//! The kernel refuses to open such a file to who asks for it to be made (`fs.protected_regular` in proc_sys_fs(5)), where that
//! is switched on. What it says of who asks, and of the folder, is what is looked at here, of any file that is open.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::{geteuid, getuid};

/// Anybody may make files, and nobody removes those of others (inode(7)).
const SHARED: u32 = 0o1002;

/// Refuses `file`, opened at `path`, where the folder of either is for everybody and the file belongs to a stranger: neither to
/// us, to `successor`, the user that we are about to become, to root, nor to the owner of the folder. Devices are nobody's.
///
/// # Errors
/// In words whose file it is, or what fstat(2) and stat(2) report.
pub(crate) fn refuse_strangers(file: &File, path: &Path, successor: Option<u32>) -> io::Result<()> {
    let opened = file.metadata()?;
    if !opened.is_file() && !opened.file_type().is_fifo() {
        return Ok(());
    }
    let owner = opened.uid();
    let ours = [0, getuid().as_raw(), geteuid().as_raw()];
    if ours.into_iter().chain(successor).any(|user| user == owner) {
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

/// Where `path` says that the file is, and where it is, which differs where `path` is a link.
fn folders(file: &File, path: &Path) -> impl Iterator<Item = PathBuf> {
    let named = path.parent().map(Path::to_owned);
    let named = named.map(|folder| if folder.as_os_str().is_empty() { ".".into() } else { folder });
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let real = real.ok().and_then(|real| real.parent().map(Path::to_owned));
    named.into_iter().chain(real.filter(|folder| folder.is_absolute() && folder.exists()))
}
