//! Which of the program's places the inputs of a run have reached, for `tests/fuzz/run --coverage`: the compiler has put a
//! counter at each, and the fuzzer sets them to zero before each input. They are added up here, and told when the program
//! ends.

use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock};

// What the linker puts around the counters and around the table of their places. Both are made by the compiler.
unsafe extern "C" {
    #[link_name = "__start___sancov_cntrs"]
    static FIRST_COUNTER: u8;
    #[link_name = "__stop___sancov_cntrs"]
    static BEHIND_COUNTERS: u8;
    #[link_name = "__start___sancov_pcs"]
    static FIRST_PLACE: [usize; 2];
    #[link_name = "__executable_start"]
    static PROGRAM: u8;
}

/// The file for it, if somebody wants to know.
static FILE: OnceLock<std::ffi::OsString> = OnceLock::new();
/// Whether an input has reached each place.
static REACHED: Mutex<Vec<bool>> = Mutex::new(Vec::new());

/// Has it written when the program ends, if `FUZZ_COVERAGE` names a file.
pub fn begin() {
    let Some(file) = std::env::var_os("FUZZ_COVERAGE") else { return };
    if FILE.set(file).is_ok() {
        // SAFETY: the function may be called at any time.
        unsafe { libc::atexit(write) };
    }
}

/// Adds what the input has reached that has just been run.
pub fn add() {
    if FILE.get().is_none() {
        return;
    }
    let mut reached = REACHED.lock().expect("nobody panics with it");
    reached.resize(count(), false);
    for (at, reached) in reached.iter_mut().enumerate() {
        // SAFETY: `at` is below their number, and only this thread counts now.
        *reached |= unsafe { (&raw const FIRST_COUNTER).add(at).read() } != 0;
    }
}

fn count() -> usize {
    (&raw const BEHIND_COUNTERS).addr() - (&raw const FIRST_COUNTER).addr()
}

/// One line for each place: its address in the program's file, and whether it was reached.
extern "C" fn write() {
    let (Some(file), Ok(reached)) = (FILE.get(), REACHED.lock()) else { return };
    let mut text = String::new();
    for (at, reached) in reached.iter().enumerate() {
        // SAFETY: the table has one entry for each counter: an address, and what kind of place that is.
        let [place, _] = unsafe { (&raw const FIRST_PLACE).add(at).read() };
        // Of code that was left out nothing is known any more.
        let place = place.saturating_sub((&raw const PROGRAM).addr());
        let _infallible = writeln!(text, "{place:#x} {}", u8::from(*reached));
    }
    if let Err(error) = std::fs::write(file, text) {
        eprintln!("{}: {error}", file.to_string_lossy());
    }
}
