//! The programs that are compared, and what each can do.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Result;
use super::cells::{Cell, Family, Mode, Soak, Work};

/// Where programs are put for the run, each in a folder of its own.
const PROGRAMS: &str = "/run/bin";

/// What a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// passt and pasta, ours or others, in a folder.
    Passt(PathBuf),
    /// slirp4netns, in the path.
    Slirp4netns,
    /// QEMU's user network, in the path.
    Libslirp,
    /// No program: client and server face to face.
    Direct,
}

/// A program under its name in the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// What it is.
    pub program: Program,
}

/// The name of our own binary.
pub const OURS: &str = "ours";
/// The name of the packaged one.
const PACKAGED: &str = "passt";
/// The name of the limit.
pub const DIRECT: &str = "direct";

impl Peer {
    /// The peers that `words` name, separated by commas: `auto`, a known name, or NAME=PROGRAM
    /// for one more passt.
    ///
    /// # Errors
    /// A name that is not known, or a program that is not there.
    pub fn list(words: &str, ours: &Path, packaged: &Path) -> Result<Vec<Self>> {
        let mut peers = Vec::new();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            match (word, word.split_once('=')) {
                ("auto", _) => {
                    peers.push(Self::passt(OURS, ours)?);
                    peers.extend(Self::passt(PACKAGED, packaged).ok());
                    peers.extend(
                        in_path("slirp4netns")
                            .then(|| Self::new("slirp4netns", Program::Slirp4netns)),
                    );
                    peers.extend(
                        in_path("qemu-system-x86_64")
                            .then(|| Self::new("libslirp", Program::Libslirp)),
                    );
                    peers.push(Self::new(DIRECT, Program::Direct));
                }
                (OURS, _) => peers.push(Self::passt(OURS, ours)?),
                (PACKAGED, _) => peers.push(Self::passt(PACKAGED, packaged)?),
                ("slirp4netns", _) => peers.push(Self::new("slirp4netns", Program::Slirp4netns)),
                ("libslirp", _) => peers.push(Self::new("libslirp", Program::Libslirp)),
                (DIRECT, _) => peers.push(Self::new(DIRECT, Program::Direct)),
                (_, Some((name, program))) => peers.push(Self::passt(name, Path::new(program))?),
                _ => return Err(format!("no peer is called '{word}'").into()),
            }
        }
        Ok(peers)
    }

    fn new(name: &str, program: Program) -> Self {
        Self { name: name.to_owned(), program }
    }

    /// Copies a passt, whose other names are links, to where everybody may run it.
    fn passt(name: &str, program: &Path) -> Result<Self> {
        let folder = Path::new(PROGRAMS).join(format!("{name}.d"));
        if !program.is_file() {
            return Err(format!("{name}: no program {}", program.display()).into());
        }
        fs::create_dir_all(&folder)?;
        fs::copy(program, folder.join("passt"))?;
        symlink("passt", folder.join("pasta"))?;
        let faster = PathBuf::from(format!("{}.avx2", program.display()));
        if faster.is_file() {
            fs::copy(faster, folder.join("passt.avx2"))?;
            symlink("passt.avx2", folder.join("pasta.avx2"))?;
        }
        Ok(Self::new(name, Program::Passt(folder)))
    }

    /// Whether the cell makes sense with this peer.
    pub fn can(&self, cell: &Cell) -> bool {
        let v4 = cell.family == Family::V4;
        match (&self.program, &cell.work) {
            // The packaged one has no such control sockets.
            (Program::Passt(_), Work::Soak(Soak::Hostile)) => self.name != PACKAGED,
            (Program::Passt(_), _) => true,
            (Program::Direct, Work::Load(_)) => !matches!(cell.mode, Mode::Qemu | Mode::Ring),
            (Program::Direct, _) => false,
            (Program::Slirp4netns, Work::Load(_)) => cell.mode == Mode::Tap && v4,
            (Program::Slirp4netns, Work::Memory { .. } | Work::Most) => cell.mode == Mode::Tap,
            (Program::Libslirp, Work::Load(_)) => {
                matches!(cell.mode, Mode::Stream | Mode::Qemu) && v4
            }
            (Program::Slirp4netns | Program::Libslirp, _) => false,
        }
    }
}

fn in_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|folder| Path::new(folder).join(program).is_file())
}
