//! How far a transfer is, or why it failed.

use passt_frame::Errno;

use crate::flow::migration::StreamError;
use crate::limits::{HELPER_ANSWER, HELPER_WAIT};
use crate::time::Timestamp;

/// Why a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// What the stream holds.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// What reading or writing the stream reported.
    #[error("the front-end's channel: {0}")]
    Channel(Errno),
    /// There is no helper.
    #[error("no TCP_REPAIR helper has connected: start passt-repair on the target")]
    NoHelper,
    /// The helper has left before it was done, or did something else.
    #[error("the TCP_REPAIR helper has failed")]
    Helper,
}

impl Fault {
    /// What the front-end is told: one number is all that there is room for. Those of what a stream holds are the
    /// packaged passt's.
    pub(super) fn errno(self) -> Errno {
        match self {
            Self::Stream(StreamError::Version(_)) => Errno::NOTSUP,
            Self::Stream(StreamError::Ended) => Errno::NODATA,
            Self::Stream(_) => Errno::INVAL,
            Self::Channel(errno) => errno,
            Self::NoHelper | Self::Helper => Errno::IO,
        }
    }
}

/// How far a transfer is after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It waits for the stream.
    Stream,
    /// It waits for the helper, until then.
    Helper(Timestamp),
    /// It is complete.
    Done,
}

/// Until when the helper is waited for to connect.
pub(super) fn connects_until(now: Timestamp) -> Timestamp {
    now + HELPER_WAIT
}

/// Until when it is waited for to answer.
pub(super) fn answers_until(now: Timestamp) -> Timestamp {
    now + HELPER_ANSWER
}
