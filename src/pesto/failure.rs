//! What ends pesto.

/// What ends the program: lines that say what failed.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

impl Failure {
    /// With this message.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
