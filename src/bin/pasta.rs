//! pasta
fn main() {}
