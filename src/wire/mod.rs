//! Wire formats: pure functions between bytes and types. Parsing never panics.

pub mod seq;
