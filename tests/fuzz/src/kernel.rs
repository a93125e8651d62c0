//! What comes from outside and is read by hand: netlink's messages, and answers of name servers.

use passt::fuzzing;

/// Nothing is read twice, so there are no more messages than headers.
pub fn netlink(data: &[u8]) {
    let (read, told) = fuzzing::route_replies(data);
    assert!(read <= data.len() / 16 && told <= 3 * read);
    assert!(fuzzing::table_replies(data) <= 2 * (data.len() / 16));
}

/// A message is a query or an answer, and an answer has no more addresses than records.
pub fn dns(data: &[u8]) {
    let (query, addresses) = fuzzing::dns(data);
    assert!(!query || addresses == 0, "a query and an answer");
    assert!(addresses <= 13 * (data.len() / 14), "{addresses} addresses");
}
