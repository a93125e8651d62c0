//! What was found out about one thing.

/// How it is about one thing. The greater, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Ok,
    /// The program runs, with less.
    Limited,
    /// The program does not start, or nothing reaches the guest.
    Missing,
}

impl Verdict {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) topic: &'static str,
    pub(super) verdict: Verdict,
    pub(super) text: String,
    /// What to do about it; empty if it is fine.
    pub(super) cure: String,
}

impl Finding {
    pub(super) fn fine(topic: &'static str, text: impl Into<String>) -> Self {
        Self { topic, verdict: Verdict::Ok, text: text.into(), cure: String::new() }
    }

    pub(super) fn limits(
        topic: &'static str,
        text: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { topic, verdict: Verdict::Limited, text: text.into(), cure: cure.into() }
    }

    pub(super) fn lacks(
        topic: &'static str,
        text: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { topic, verdict: Verdict::Missing, text: text.into(), cure: cure.into() }
    }
}
