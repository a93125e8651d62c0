//! Files that a start makes: they are to be there when the program is ready, and gone when it could not
//! start.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::StartError;
use crate::sys::process;
use crate::sys::shared_folder::{self, Successor};

/// Files that this start has made. They are removed when this is dropped, or a signal ends the start, before
/// [`keep`](Self::keep).
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<PathBuf>);

impl Made {
    /// Nothing yet. Signals wait from here on, until [`Readiness`](super::Readiness) has what was made: one that comes
    /// between making a file and noting it would leave it.
    ///
    /// # Errors
    /// What sigprocmask(2) reports.
    pub(crate) fn nothing() -> Result<Self, StartError> {
        process::hold_signals()
            .map_err(|errno| StartError::System { what: "sigprocmask", errno })?;
        Ok(Self::default())
    }

    /// `path` was not there before.
    pub(crate) fn note(&mut self, path: &Path) {
        self.0.push(path.to_owned());
        process::remove_if_unready(path);
    }

    /// The files are to stay, or are somebody else's to remove.
    pub(crate) fn keep(&mut self) {
        self.0.clear();
        process::keep_all();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            let _might_be_out_of_reach = fs::remove_file(path);
        }
    }
}

/// The PID file, open and empty.
#[derive(Debug)]
pub(crate) struct PidFile {
    file: File,
    path: PathBuf,
}

impl PidFile {
    /// Opens the file, so that a path that cannot be written is an error while one can be reported. An
    /// existing one is emptied: callers reserve the name. In a folder for everybody it must be no stranger's, who could
    /// write another number into it; `successor` says which user that this process becomes. A named pipe must have a
    /// reader: opening never waits.
    ///
    /// # Errors
    /// [`StartError::PidFile`].
    pub(crate) fn open(
        path: &Path,
        successor: Successor<'_>,
        made: &mut Made,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::PidFile { path: path.to_owned(), source };
        let file = match Self::existing(path, successor) {
            // Asking for creation where the file exists is refused in folders that everyone may
            // write, also to root that a caller has reserved it for (fs.protected_regular in proc_sys_fs(5)), so that
            // comes second.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match Self::options().create_new(true).mode(0o600).open(path) {
                    Ok(file) => {
                        made.note(path);
                        file
                    }
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        Self::linked(path, successor, made).map_err(failed)?
                    }
                    Err(error) => return Err(failed(error)),
                }
            }
            opened => opened.map_err(failed)?,
        };
        Ok(Self { file, path: path.to_owned() })
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        options
    }

    /// Opens what has come to `path` meanwhile, or makes the file to which the link there leads. The kernel follows the
    /// link, so that nobody's in a folder for everyone is followed (fs.protected_symlinks).
    fn linked(path: &Path, successor: Successor<'_>, made: &mut Made) -> std::io::Result<File> {
        match Self::existing(path, successor) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let file = Self::options().create(true).truncate(false).mode(0o600).open(path)?;
                Self::empty(&file, path, successor)?;
                if let Ok(target) = fs::canonicalize(path) {
                    made.note(&target);
                }
                Ok(file)
            }
            opened => opened,
        }
    }

    fn existing(path: &Path, successor: Successor<'_>) -> std::io::Result<File> {
        let file = Self::options().open(path)?;
        Self::empty(&file, path, successor)?;
        Ok(file)
    }

    fn empty(file: &File, path: &Path, successor: Successor<'_>) -> std::io::Result<()> {
        shared_folder::refuse_strangers(file, path, successor)?;
        if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
    }

    /// Writes a process id, at once: who waits for content sees all of it.
    ///
    /// # Errors
    /// What write(2) reports.
    pub(crate) fn write(mut self, pid: i32) -> Result<(), StartError> {
        let written = self.file.write_all(format!("{pid}\n").as_bytes());
        written.map_err(|error| {
            let path = self.path.display();
            StartError::Other(format!("Couldn't write PID file {path}: {error}"))
        })
    }
}
