//! passt
fn main() {}
