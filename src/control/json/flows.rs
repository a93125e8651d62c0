//! The list of flows, a page at a time. A page looks at a bounded number of slots and asks the kernel about a bounded
//! number of connections, so that 100,000 flows take many requests and none of them is felt: who wants all of them
//! goes on with `next` until it is null. Flows that come and go meanwhile are in or out; none is there twice.

use super::model::{Flow, Flows, Problem, Side};
use super::request::Filter;
use crate::engine::{Engine, FlowFacts};
use crate::flow::fwd::Proto;
use crate::flow::side::{self, Pif};
use crate::flow::table::FlowId;
use crate::wire::ip::L4Protocol;

/// Slots that are looked at for a page: 10 ns each.
const LOOKS: usize = 4096;

/// Flows that the kernel is asked about for a page: 1 µs each.
const QUESTIONS: usize = 256;

/// The page that begins with slot `from`.
pub(super) fn page(engine: &Engine, from: u32, limit: usize, filter: &Filter) -> Flows {
    let (mut flows, mut questions) = (Vec::new(), 0);
    let (slots, mut slot) = (engine.flow_slots(), from);
    while slot < slots {
        let looks = (slot - from) as usize;
        if flows.len() >= limit || questions >= QUESTIONS || looks >= LOOKS {
            return Flows { flows, next: Some(slot) };
        }
        if let Some((id, protocol, sides)) = engine.flow_in(slot)
            && filter.fits(protocol, &sides)
        {
            questions += 1;
            let facts = engine.flow_facts(id).filter(|facts| filter.fits_facts(facts));
            flows.extend(facts.map(|facts| described(&facts)));
        }
        slot += 1;
    }
    Flows { flows, next: None }
}

/// Ends the flow `id`; returns what it was.
///
/// # Errors
/// It is not there, or on its way to another program.
pub(super) fn reset(engine: &mut Engine, id: FlowId) -> Result<Flows, Problem> {
    let facts = engine.flow_facts(id).ok_or_else(|| {
        let cure = "ask for 'flows': a name is not used again";
        Problem::new("flow", format!("There is no flow {id} any more"), cure)
    })?;
    if !engine.end_flow(id) {
        let problem = format!("Flow {id} is on its way to another program with its guest");
        return Err(Problem::new("flow", problem, "ask that program"));
    }
    log::info!("Flow {id} is reset by a control client");
    Ok(Flows { flows: vec![described(&facts)], next: None })
}

impl Filter {
    /// Whether a flow may be wanted, as far as its sides tell.
    fn fits(&self, protocol: L4Protocol, sides: &[side::Side; 2]) -> bool {
        let addresses = sides.iter().flat_map(|side| [side.endpoint, side.ours]);
        self.proto.is_none_or(|proto| proto == protocol.into())
            && self.address.is_none_or(|net| addresses.clone().any(|end| net.has(end.ip())))
            && self.port.is_none_or(|port| addresses.clone().any(|end| end.port() == port))
    }

    fn fits_facts(&self, facts: &FlowFacts) -> bool {
        self.bypass.is_none_or(|bypass| bypass == facts.bypasses)
            && self.state.is_none_or(|state| state == facts.state)
            && facts.age.as_millis() >= self.min_age_ms.into()
            && facts.idle.as_millis() >= self.min_idle_ms.into()
    }
}

fn described(facts: &FlowFacts) -> Flow {
    let [bytes_forward, bytes_back] = facts.bytes;
    Flow {
        flow: facts.id.to_string(),
        proto: Proto::from(facts.protocol).to_string().to_lowercase(),
        state: facts.state.to_owned(),
        bypass: facts.bypasses,
        initiator: described_side(&facts.sides[0]),
        target: described_side(&facts.sides[1]),
        bytes_forward,
        bytes_back,
        age_ms: facts.age.as_millis() as u64,
        idle_ms: facts.idle.as_millis() as u64,
        rtt_us: facts.round_trip.map(|rtt| rtt.as_micros() as u64),
    }
}

fn described_side(side: &side::Side) -> Side {
    let place = match side.pif {
        Pif::Host => "host",
        Pif::Tap => "guest",
        Pif::Splice => "namespace",
    };
    Side {
        place: place.to_owned(),
        address: side.endpoint.ip().to_string(),
        port: side.endpoint.port(),
        our_address: side.ours.ip().to_string(),
        our_port: side.ours.port(),
    }
}
