//! What tests of several crates share.
//!
//! * [`flood`]: a load that goes on beside a test.
//! * [`heap`]: an allocator that counts. A test binary that wants to know declares it:
//!   `#[global_allocator] static HEAP: Counting = Counting;`
//! * [`namespace`]: a network namespace for one test, and further ones inside it.
//! * [`refusal`]: system calls that fail in a program under test.
//! * [`skipped`]: what a test says that cannot do here what it is for.
//! * [`wait`]: until something has happened.

pub mod flood;
pub mod heap;
pub mod namespace;
pub mod refusal;
pub mod skipped;
pub mod wait;
