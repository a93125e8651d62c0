//! Events as they are told to those who follow them: one object a line, with the time since start.

use serde_json::{Map, Value, json};

use crate::engine::{Engine, Event, Kept};
use crate::time::Timestamp;

/// Events that are told at a time, before others get their turn.
const AT_A_TIME: usize = 64;

/// Somebody who follows events.
#[derive(Debug)]
pub(super) struct Reader {
    /// The number of the next event.
    next: u64,
    /// Names of those that are wanted.
    names: Vec<&'static str>,
}

impl Reader {
    /// Follows the events with these names from now on.
    pub(crate) fn new(engine: &Engine, names: Vec<&'static str>) -> Self {
        Self { next: engine.events().join(), names }
    }

    /// Others are wanted from now on.
    pub(crate) fn want(&mut self, names: Vec<&'static str>) {
        self.names = names;
    }

    /// Leaves.
    pub(crate) fn leave(self, engine: &Engine) {
        engine.events().leave();
    }

    /// Appends lines about what has happened meanwhile to `out`. Whether that was all.
    pub(crate) fn tell(&mut self, engine: &Engine, out: &mut Vec<u8>) -> bool {
        for _ in 0..AT_A_TIME {
            let Some(kept) = engine.events().read(self.next) else { return true };
            if kept.number > self.next {
                line(out, &json!({ "event": "lost", "count": kept.number - self.next }));
            }
            self.next = kept.number + 1;
            if self.names.contains(&kept.event.name()) {
                line(out, &described(kept, engine.began()));
            }
        }
        false
    }
}

fn line(out: &mut Vec<u8>, value: &Value) {
    out.extend(value.to_string().bytes());
    out.push(b'\n');
}

fn described(kept: Kept, began: Timestamp) -> Value {
    let Kept { at, event, .. } = kept;
    let mut fields = Map::new();
    fields.insert("event".to_owned(), event.name().into());
    fields.insert("at_ms".to_owned(), (at.since(began).as_millis() as u64).into());
    let details = match event {
        Event::LinkUp | Event::LinkDown => json!({}),
        Event::Lease { protocol, address, station } => json!({
            "protocol": protocol, "address": address.to_string(), "mac": station.to_string(),
        }),
        Event::Rules { added, removed } => json!({ "added": added, "removed": removed }),
        Event::Egress { rules } => json!({ "rules": rules }),
        Event::Host(change) => json!({ "change": change }),
        Event::Refused { reason, flow, rule } => json!({
            "reason": reason.name(),
            "proto": flow.map(|(proto, ..)| proto.to_string().to_lowercase()),
            "from": flow.map(|(_, from, _)| from.to_string()),
            "to": flow.map(|(_, _, to)| to.to_string()),
            "rule": rule,
        }),
    };
    if let Value::Object(details) = details {
        fields.extend(details);
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::DropReason;

    fn told(event: Event) -> Value {
        let at = Timestamp::from_micros(3_500_000);
        described(Kept { number: 7, at, event }, Timestamp::from_micros(1_000_000))
    }

    #[test]
    fn events_are_objects_with_the_time_since_start() {
        let change = "uplink: 192.0.2.7/24 added".to_owned();
        let host = told(Event::Host(change.clone()));
        assert_eq!(host, json!({ "event": "host", "at_ms": 2500, "change": change }));
        assert_eq!(told(Event::LinkUp), json!({ "event": "link-up", "at_ms": 2500 }));
        let refused =
            told(Event::Refused { reason: DropReason::FlowTableFull, flow: None, rule: None });
        let nothing = [&refused["proto"], &refused["from"], &refused["to"], &refused["rule"]];
        assert_eq!(nothing, [&Value::Null; 4]);
        assert_eq!(refused["reason"], "flow-table-full");
    }
}
