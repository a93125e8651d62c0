//! A capture of all frames, for `--pcap`: the classic file format of libpcap (pcap-savefile(5)), which
//! every analyser reads.
//!
//! Frames are recorded in both directions as they pass the link ([`FrameObserver`]), without the
//! link's own header. What a link leaves to its other end is not in the bytes of a frame, and an
//! analyser would call it an error: an L4 checksum of which only the pseudo header is summed is
//! completed in the copy. A unit of segmentation stays one frame, whose headers state its real length.
//!
//! Each record is one write(2) from a buffer that is made once. A file that takes no more must not
//! stop the guest: what is left of a record is finished before the next one begins, and frames that
//! come while that is not possible are counted and not recorded.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use passt_frame::{Checksum, FrameObserver, MAX_FRAME_BYTES, OnesSum, PassingFrame};
use rustix::time::ClockId;

use crate::sys::clock;

/// Marks the format, and the byte order, which is that of the host.
const MAGIC: u32 = 0xa1b2_c3d4;
const VERSION: [u16; 2] = [2, 4];

/// Most bytes of a frame that are recorded.
const SNAP_BYTES: u32 = 65_535;

/// `LINKTYPE_ETHERNET`.
const LINK_TYPE: u32 = 1;

/// Bytes of a record's header.
const RECORD_HEADER_BYTES: usize = 16;

/// Offset of the checksum in a UDP header. Zero in it says that there is no checksum (RFC 768).
const UDP_CHECKSUM_OFFSET: u16 = 6;

/// The header of the file.
fn file_header() -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..4].copy_from_slice(&MAGIC.to_ne_bytes());
    bytes[4..6].copy_from_slice(&VERSION[0].to_ne_bytes());
    bytes[6..8].copy_from_slice(&VERSION[1].to_ne_bytes());
    bytes[16..20].copy_from_slice(&SNAP_BYTES.to_ne_bytes());
    bytes[20..].copy_from_slice(&LINK_TYPE.to_ne_bytes());
    bytes
}

/// Numbers of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames in the file.
    pub recorded: u64,
    /// Frames that could not be written.
    pub(crate) lost: u64,
}

/// A capture file. Clones write to the same one.
#[derive(Clone)]
pub struct Capture(Rc<RefCell<Recorder<File>>>);

impl Capture {
    /// Creates the file, or empties it. Never waits, not even for the reader of a pipe.
    ///
    /// # Errors
    /// What open(2) or write(2) report; `ENXIO` for a named pipe that nobody reads.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        Ok(Self(Rc::new(RefCell::new(Recorder::new(file)?))))
    }

    /// What was recorded so far.
    pub fn counters(&self) -> Counters {
        self.0.borrow().counters
    }

    /// Writes what the kernel has of the file to its disk.
    ///
    /// # Errors
    /// What fsync(2) reports.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.0.borrow().file.sync_all()
    }
}

impl FrameObserver for Capture {
    fn on_frame(&mut self, frame: &PassingFrame<'_>) {
        let now = clock::now(ClockId::Realtime);
        let micros = (now.tv_sec as u64).saturating_mul(1_000_000) + now.tv_nsec as u64 / 1000;
        self.0.borrow_mut().record(frame.len, frame.meta.checksum, micros, |bytes| {
            frame.copy_out(bytes);
        });
    }
}

/// Writes records.
struct Recorder<W> {
    file: W,
    /// A record: its header, and room for the largest frame.
    buffer: Vec<u8>,
    /// What is left to write of the last record.
    rest: Range<usize>,
    counters: Counters,
}

impl<W: Write> Recorder<W> {
    fn new(mut file: W) -> std::io::Result<Self> {
        file.write_all(&file_header())?;
        let buffer = vec![0; RECORD_HEADER_BYTES + MAX_FRAME_BYTES as usize];
        Ok(Self { file, buffer, rest: 0..0, counters: Counters::default() })
    }

    /// Records a frame of `len` bytes, which `copy` writes, `micros` microseconds after 1970.
    fn record(&mut self, len: u32, checksum: Checksum, micros: u64, copy: impl FnOnce(&mut [u8])) {
        if !self.finish() {
            self.counters.lost += 1;
            return;
        }
        let (header, room) = self.buffer.split_at_mut(RECORD_HEADER_BYTES);
        let whole = (len as usize).min(room.len());
        let frame = &mut room[..whole];
        copy(frame);
        if let Checksum::Partial { start, offset } = checksum {
            complete(frame, start, offset);
        }
        let kept = len.min(SNAP_BYTES);
        let fields = [(micros / 1_000_000) as u32, (micros % 1_000_000) as u32, kept, len];
        for (room, field) in header.as_chunks_mut::<4>().0.iter_mut().zip(fields) {
            *room = field.to_ne_bytes();
        }
        let record = 0..RECORD_HEADER_BYTES + kept as usize;
        self.rest = record.clone();
        if !self.finish() && self.rest == record {
            self.rest = 0..0;
            self.counters.lost += 1;
        } else {
            self.counters.recorded += 1;
        }
    }

    /// Writes what is left of the last record; false when something still is.
    fn finish(&mut self) -> bool {
        while !self.rest.is_empty() {
            match self.file.write(&self.buffer[self.rest.clone()]) {
                Ok(0) => return false,
                Ok(written) => self.rest.start += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    log::debug!("Couldn't write packet capture: {error}");
                    return false;
                }
            }
        }
        true
    }
}

/// Completes the checksum of which the frame holds the sum of the pseudo header. A frame that ends
/// before the field stays as it is.
fn complete(frame: &mut [u8], start: u16, offset: u16) {
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if field + 2 > frame.len() {
        return;
    }
    let mut sum = OnesSum::default();
    sum.add(&frame[start..]);
    let checksum = match sum.checksum() {
        0 if offset == UDP_CHECKSUM_OFFSET => 0xffff,
        checksum => checksum,
    };
    frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with room for so many bytes.
    struct Full {
        bytes: Vec<u8>,
        room: usize,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room -= n;
            self.bytes.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn recorder(room: usize) -> Recorder<Full> {
        Recorder::new(Full { bytes: Vec::new(), room: room + 24 }).unwrap()
    }

    fn add(recorder: &mut Recorder<Full>, byte: u8, len: u32) {
        recorder.record(len, Checksum::Complete, 7_000_009, |frame| frame.fill(byte));
    }

    #[test]
    fn the_file_is_what_pcap_savefile_says() {
        let mut recorder = recorder(1000);
        add(&mut recorder, 0xaa, 60);
        let bytes = &recorder.file.bytes;
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!([0, 16, 20].map(word), [0xa1b2_c3d4, 65_535, 1]);
        assert_eq!([24, 28, 32, 36].map(word), [7, 9, 60, 60]);
        assert_eq!(bytes[40..], [0xaa; 60]);
    }

    #[test]
    fn a_frame_beyond_the_snap_length_is_cut_and_says_so() {
        let mut recorder = recorder(200_000);
        add(&mut recorder, 1, MAX_FRAME_BYTES);
        let bytes = &recorder.file.bytes;
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!([32, 36].map(word), [65_535, MAX_FRAME_BYTES]);
        assert_eq!(bytes.len(), 40 + 65_535);
    }

    #[test]
    fn a_full_file_loses_whole_records_and_counts_them() {
        let mut recorder = recorder(100);
        for byte in 1..=4 {
            add(&mut recorder, byte, 60);
        }
        assert_eq!(recorder.counters, Counters { recorded: 2, lost: 2 });
        recorder.file.room = 1000;
        add(&mut recorder, 5, 60);
        assert_eq!(recorder.counters, Counters { recorded: 3, lost: 2 });
        let firsts: Vec<u8> = (0..3).map(|n| recorder.file.bytes[40 + 76 * n]).collect();
        assert_eq!(firsts, [1, 2, 5]);
        assert_eq!(recorder.file.bytes.len(), 24 + 3 * 76);
    }

    #[test]
    fn partial_checksums_are_completed() {
        let mut frame = [0, 0, 0x12, 0x34, 0xab, 0xcd];
        complete(&mut frame, 2, 2);
        let mut sum = OnesSum::default();
        sum.add(&frame[2..]);
        sum.add(&[0xab, 0xcd]);
        assert_eq!(sum.folded(), 0xffff, "with the pseudo header, which the field held");
        let mut short = [1, 2, 3];
        complete(&mut short, 0, 2);
        assert_eq!(short, [1, 2, 3]);
    }

    #[test]
    fn rfc768_a_sum_of_zero_is_sent_as_ones() {
        let mut frame = [0xff, 0xff, 0, 0, 0, 0, 0, 0];
        complete(&mut frame, 0, UDP_CHECKSUM_OFFSET);
        assert_eq!(frame[6..], [0xff, 0xff]);
        complete(&mut frame, 0, 2);
        assert_eq!(frame[2..4], [0, 0]);
    }
}
