//! A log file of limited size. When it is full, the oldest third or so of its lines goes away, in the
//! same file: whoever follows it, or holds it open, keeps seeing it. Where the file system can cut
//! blocks out of a file (fallocate(2), `FALLOC_FL_COLLAPSE_RANGE`) nothing is copied. The first line
//! says which program and process writes, and, after a cut, when that was; blanks fill it up to the
//! end of the line that was cut, so that all lines are whole. A file that may only be written (AppArmor's
//! profiles for passt grant no more) is begun anew when it is full.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FileType, OFlags, fallocate, fcntl_setfl, fstat};

use super::LINE_BYTES;
use crate::sys::shared_folder::{self, Successor};

/// Most bytes of the first line, before a cut is noted in it.
const HEADER_BYTES: usize = 4096;

/// Looked at after a cut to find the end of the first whole line.
const HEAD_BYTES: usize = HEADER_BYTES + LINE_BYTES + 1024;

/// Percent of the limit that a cut removes.
const CUT_PERCENT: u64 = 30;

/// Bytes that are moved at a time where blocks cannot be cut out.
const MOVE_BYTES: usize = 8192;

/// A log file.
pub(super) struct LogFile {
    file: File,
    /// Bytes in it, as far as we know.
    size: u64,
    limit: u64,
    header: String,
    /// It may be read, too.
    readable: bool,
}

impl LogFile {
    /// Creates the file, or empties it, and writes `header` as its first line. It grows to no more
    /// than `limit` bytes. `successor` says which user that this process becomes.
    ///
    /// # Errors
    /// What open(2) or write(2) report, or that it is a stranger's in a folder for everybody. Named pipes without a reader are refused: opening never waits.
    pub(super) fn create(
        path: &Path,
        successor: Successor<'_>,
        limit: u64,
        header: String,
    ) -> io::Result<Self> {
        match Self::open(path, successor, true) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Self::begin(Self::open(path, successor, false)?, false, limit, header)
            }
            file => Self::begin(file?, true, limit, header),
        }
    }

    fn open(path: &Path, successor: Successor<'_>, readable: bool) -> io::Result<File> {
        let file = std::fs::OpenOptions::new()
            .read(readable)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        shared_folder::refuse_strangers(&file, path, successor)?;
        if file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        Ok(file)
    }

    fn begin(file: File, readable: bool, limit: u64, mut header: String) -> io::Result<Self> {
        header.truncate(header.floor_char_boundary(HEADER_BYTES));
        // What is no file has no size.
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        let limit = if kind.is_file() { limit } else { u64::MAX };
        let mut log = Self { file, size: 0, limit, header, readable };
        let first = format!("{}\n", log.header);
        log.file.write_all(first.as_bytes())?;
        log.size = first.len() as u64;
        Ok(log)
    }

    /// Adds an entry, a whole line with its newline, at a time that `at` tells.
    ///
    /// # Errors
    /// What write(2) reports, or what the cut met.
    pub(super) fn write(&mut self, entry: &str, at: &str) -> io::Result<()> {
        let bytes = entry.len() as u64;
        if self.size.saturating_add(bytes) > self.limit {
            // Somebody else may have emptied it.
            self.size = fstat(&self.file)?.st_size as u64;
            if self.size.saturating_add(bytes) > self.limit {
                self.cut(at, collapse)?;
            }
        }
        self.size += bytes;
        self.file.write_all(entry.as_bytes())
    }

    /// Writes what the kernel has of the file to its disk.
    pub(super) fn sync(&self) {
        let _only_for_files = self.file.sync_all();
    }

    /// Removes the oldest entries, with `remove` if that works.
    fn cut(&mut self, at: &str, remove: fn(&File, u64) -> io::Result<()>) -> io::Result<()> {
        if self.readable {
            let block = (fstat(&self.file)?.st_blksize as u64).max(1);
            let cut = (self.limit * CUT_PERCENT / 100).next_multiple_of(block).min(self.size);
            remove(&self.file, cut).or_else(|_| self.shift(cut))?;
            self.size -= cut;
        }
        let noted = format!("{} - log truncated at {at}", self.header);
        if !self.readable || self.size < noted.len() as u64 {
            self.file.set_len(0)?;
            self.size = noted.len() as u64 + 1;
            return self.file.write_all(format!("{noted}\n").as_bytes());
        }
        self.rewrite_head(&noted)
    }

    /// Moves everything behind the first `cut` bytes to the start.
    fn shift(&self, cut: u64) -> io::Result<()> {
        let mut buffer = [0; MOVE_BYTES];
        let mut to = 0;
        loop {
            let n = self.file.read_at(&mut buffer, cut + to)?;
            if n == 0 {
                return self.file.set_len(to);
            }
            self.overwrite(&buffer[..n], to)?;
            to += n as u64;
        }
    }

    /// Writes `noted` over the start, and blanks up to the end of that line.
    fn rewrite_head(&self, noted: &str) -> io::Result<()> {
        let mut head = vec![0; HEAD_BYTES];
        let n = self.file.read_at(&mut head, 0)?;
        head.truncate(n);
        let length = noted.len().min(n);
        let end = head[length..].iter().position(|byte| *byte == b'\n');
        let end = end.map_or(n.saturating_sub(1), |end| length + end);
        head.truncate(end);
        head.fill(b' ');
        head[..length.min(end)].copy_from_slice(&noted.as_bytes()[..length.min(end)]);
        head.push(b'\n');
        self.overwrite(&head, 0)
    }

    /// Writes at a place in the file, which appending would ignore (pwrite(2), BUGS).
    fn overwrite(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        fcntl_setfl(&self.file, OFlags::empty())?;
        let written = self.file.write_all_at(bytes, at);
        fcntl_setfl(&self.file, OFlags::APPEND)?;
        written
    }
}

/// Cuts blocks out of the start of the file.
fn collapse(file: &File, bytes: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::COLLAPSE_RANGE, 0, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 40_960;

    #[test]
    fn a_file_that_may_not_be_read_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let file = LogFile::open(&path, &|| None, false).unwrap();
        let mut log = LogFile::begin(file, false, LIMIT, "header".to_owned()).unwrap();
        let line = format!("{}\n", "x".repeat(99));
        let room = (LIMIT as usize - "header\n".len()) / line.len();
        for _ in 0..room + 3 {
            log.write(&line, "12").unwrap();
        }
        let wanted = format!("header - log truncated at 12\n{}", line.repeat(3));
        assert_eq!(std::fs::read_to_string(path).unwrap(), wanted);
    }

    fn log(folder: &tempfile::TempDir) -> LogFile {
        LogFile::create(&folder.path().join("log"), &|| None, LIMIT, "header".to_owned()).unwrap()
    }

    fn lines(folder: &tempfile::TempDir) -> Vec<String> {
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(text.ends_with('\n') && text.len() as u64 <= LIMIT);
        text.lines().map(str::to_owned).collect()
    }

    /// Writes entries with consecutive numbers, and checks what is left of them.
    fn fill(log: &mut LogFile, folder: &tempfile::TempDir, how: fn(&File, u64) -> io::Result<()>) {
        for number in 0..2000 {
            let entry = format!("{number:08} {}\n", "x".repeat(number % 90));
            if log.size + entry.len() as u64 > LIMIT {
                log.cut(&format!("{number}.0000"), how).unwrap();
            }
            log.write(&entry, "never").unwrap();
        }
        let lines = lines(folder);
        assert!(lines[0].starts_with("header - log truncated at "), "{}", lines[0]);
        let numbers: Vec<usize> =
            lines[1..].iter().map(|line| line[..8].parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "whole and in order");
        assert_eq!(numbers.last(), Some(&1999));
        assert!(numbers.len() > 300);
        for (line, number) in lines[1..].iter().zip(numbers) {
            assert_eq!(line.len(), 9 + number % 90);
        }
    }

    #[test]
    fn the_oldest_lines_give_way() {
        let folder = tempfile::tempdir().unwrap();
        fill(&mut log(&folder), &folder, collapse);
    }

    #[test]
    fn also_where_blocks_cannot_be_cut_out() {
        let folder = tempfile::tempdir().unwrap();
        fill(&mut log(&folder), &folder, |_, _| Err(io::ErrorKind::Unsupported.into()));
    }

    #[test]
    fn write_makes_room_itself() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(&folder);
        let entry = format!("{}\n", "y".repeat(1023));
        for _ in 0..200 {
            log.write(&entry, "1.2345").unwrap();
        }
        let lines = lines(&folder);
        assert!(lines[0].starts_with("header - log truncated at 1.2345"));
        assert!(lines.len() > 20 && lines[1..].iter().all(|line| line.len() == 1023));
    }

    #[test]
    fn a_file_that_was_emptied_meanwhile_is_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(&folder);
        log.size = LIMIT;
        log.write("entry\n", "never").unwrap();
        assert_eq!(lines(&folder), ["header", "entry"]);
    }
}
