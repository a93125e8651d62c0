//! What ends qrap.

/// What failed, and the cure.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);
