//! Under which name an event of the loop is counted.

use crate::engine::{Engine, EventType, Link, MigrationPart, Sources, Token};

/// The type of the event that `token` stands for; none where that only leads to another event.
pub(super) fn event_type(
    token: Token,
    engine: &Engine,
    link: &impl Link,
    sources: &Sources,
) -> Option<EventType> {
    Some(match token {
        Token::Flow(id) | Token::SecondSocket(id) => {
            engine.event_type_of_flow(id).unwrap_or(EventType::Stale)
        }
        Token::Listener(id) => engine.event_type_of_listener(id).unwrap_or(EventType::Stale),
        Token::Link(token) => link.event_type(token),
        Token::Clients => EventType::Clients,
        Token::Lobby => return None,
        Token::Migration(MigrationPart::Door) => EventType::RepairDoor,
        Token::Migration(MigrationPart::Helper) => EventType::RepairHelper,
        Token::Migration(MigrationPart::Stream) => EventType::State,
        Token::Source(id) => sources.event_type(id).unwrap_or(EventType::Stale),
    })
}
