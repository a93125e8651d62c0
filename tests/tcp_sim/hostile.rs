//! A guest that sends anything at all.
