//! Connections that are there and do nothing: what each costs, and how many there can be.

use super::Result;
use super::cells::Mode;
use super::measure::{Found, PATIENCE, STARTED, daemon, only, report, serve};
use super::rig::{Place, Rig, Setup};
use super::usage::{Memory, slab_kib};
use crate::report::Held;

/// How long connections are held: while memory is read.
const HOLD_S: u32 = 1;

/// What was found with connections held.
struct Costs {
    held: Held,
    /// Bytes for each connection: proportional, unique, and in the kernel, all ends together.
    pss: f64,
    uss: f64,
    slab: f64,
    /// Memory of the daemon once they are gone.
    closed_pss_kib: f64,
}

/// Memory for each of so many connections.
///
/// # Errors
/// When not all of them could be made, or one does not answer at the end.
pub fn memory_each(setup: &Setup<'_>, connections: u32) -> Found {
    let costs = hold(setup, connections)?;
    if costs.held.answered < u64::from(connections) {
        let answered = costs.held.answered;
        return Err(format!("only {answered} of {connections} connections answered").into());
    }
    Ok(only(
        costs.pss,
        &[
            ("uss_bytes", costs.uss),
            ("slab_bytes", costs.slab),
            ("closed_pss_kib", costs.closed_pss_kib),
        ],
    ))
}

/// How many connections there can be: those that answer at the end count.
///
/// # Errors
/// When nothing could be measured.
pub fn most(setup: &Setup<'_>) -> Found {
    let costs = hold(setup, 0)?;
    let made = costs.held.connections as f64;
    eprintln!("{}: after {made} connections: {}", setup.peer.name, costs.held.ended);
    Ok(only(
        costs.held.answered as f64,
        &[
            ("made", made),
            ("made_per_s", made / costs.held.ramp_s.max(1e-9)),
            ("pss_bytes", costs.pss),
            ("uss_bytes", costs.uss),
            ("slab_bytes", costs.slab),
            ("closed_pss_kib", costs.closed_pss_kib),
        ],
    ))
}

/// Holds so many connections, or with 0 as many as there can be.
fn hold(setup: &Setup<'_>, count: u32) -> Result<Costs> {
    let inside = setup.cell.mode != Mode::Bypass;
    let (client, at) =
        if inside { (Place::Inside, Place::Outside) } else { (Place::Outside, Place::Inside) };
    let mut rig = Rig::start(setup)?;
    let server = serve(&mut rig, at)?;
    let to = rig.target(at);
    std::thread::sleep(STARTED);
    // What the first connections take, such as pages of code, is not theirs.
    let first = rig.begin_until(client, &["hold", &to, "count=8", "seconds=0"], "holding")?;
    rig.finish(first, PATIENCE)?;
    let (before, slab_before) = (Memory::read(daemon(&rig)?)?, slab_kib());
    let (count, seconds) = (format!("count={count}"), format!("seconds={HOLD_S}"));
    let holder = rig.begin_until(client, &["hold", &to, &count, &seconds], "holding")?;
    let (after, slab_after) = (Memory::read(daemon(&rig)?)?, slab_kib());
    let held: Held = report(&rig.finish(holder, PATIENCE)?)?;
    drop(server);
    let each = |kib: f64| kib * 1024.0 / held.connections.max(1) as f64;
    Ok(Costs {
        pss: each(after.pss_kib - before.pss_kib),
        uss: each(after.uss_kib - before.uss_kib),
        slab: each(slab_after - slab_before),
        closed_pss_kib: Memory::read(daemon(&rig)?)?.pss_kib,
        held,
    })
}
