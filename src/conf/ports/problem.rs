//! What is wrong with a port specification, in words for who has written it.

/// The first thing that is wrong with one part of the list, or with how its parts go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortProblem {
    /// There is nothing where a port has to be, in these words.
    #[error("a port is missing in '{0}'")]
    Missing(String),
    /// What stands there is no number, no range and no word.
    #[error("'{0}' is no port: give a number, a range as 8000-8010, or all")]
    NotPort(String),
    /// There is no such port.
    #[error("{0} is no port: the last one is 65535")]
    TooLarge(String),
    /// A range goes backwards.
    #[error("{0}-{1}: the first port is greater than the last")]
    Descending(u16, u16),
    /// A range and where it leads to differ in length.
    #[error("the ranges differ in length: {0} before the colon, {1} behind it")]
    Lengths(u32, u32),
    /// Ports that are excluded, with a target.
    #[error("'{0}': ports that are excluded by ~ lead nowhere")]
    ExcludedTarget(String),
    /// `all` twice, with different addresses.
    #[error("all leads to one address only")]
    All,
    /// `none` beside anything.
    #[error("none stands alone")]
    None,
    /// What is to be an address is none.
    #[error("'{0}' is no address")]
    NotAddress(String),
    /// What stands behind the colon is neither.
    #[error("'{0}' is neither a port nor an address")]
    NotTarget(String),
    /// An IPv4 address in an IPv6 one.
    #[error("{0}: write an IPv4 address as one, without ::ffff:")]
    Mapped(String),
    /// An address before the ports of another part than the first.
    #[error("an address holds for the whole list: give the option once for each address")]
    SecondAddress,
}
