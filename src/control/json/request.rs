//! Requests: one JSON object a line, read field by field so that what is wrong can be named. What a line can hold is
//! bounded by its length, and how deep it can be nested by the parser (128 levels): it takes one pass, and some ten
//! times the line's length of memory for as long as it is looked at.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::commands::CommandName;
use super::model::Problem;
use crate::engine::{Event, STATES};
use crate::flow::fwd::{Prefix, Proto};
use crate::flow::table::FlowId;

/// Most flows on a page: some 50 KiB, less than a millisecond.
pub(crate) const MOST_FLOWS: u64 = 128;

/// Objects in a line at most, several times what `rules-replace` has for all rules that there may be. One takes a
/// hundred times the memory, and the time, that the same bytes of text do.
const MOST_OBJECTS: usize = 1024;

/// What a request does, or what a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It only asks.
    Reads,
    /// It changes things; a socket for that is for questions, too.
    Changes,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    Status,
    Stats,
    Flows { from: u32, limit: usize, filter: Filter },
    FlowReset(FlowId),
    Rules,
    RulesAdd(Specification),
    RulesDelete(Deleted),
    RulesReplace(Vec<Specification>),
    Egress,
    EgressReplace { rules: Vec<String>, isolate: bool },
    Watch(Vec<&'static str>),
    Log(Option<log::LevelFilter>),
}

impl Request {
    /// What it does. Each command is named, as nothing else keeps changes off the socket of `--control-ro`.
    pub(crate) fn access(&self) -> Access {
        match self {
            Self::Status
            | Self::Stats
            | Self::Flows { .. }
            | Self::Rules
            | Self::Egress
            | Self::Watch(_)
            | Self::Log(None) => Access::Reads,
            Self::FlowReset(_)
            | Self::RulesAdd(_)
            | Self::RulesDelete(_)
            | Self::RulesReplace(_)
            | Self::EgressReplace { .. }
            | Self::Log(Some(_)) => Access::Changes,
        }
    }
}

/// Ports that are forwarded, in the words of `-t` and its sisters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Specification {
    /// Ports of the guest's namespace, which lead to the host.
    pub(crate) to_host: bool,
    pub(crate) proto: Proto,
    pub(crate) ports: String,
}

/// Which rules are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deleted {
    /// The one with this number.
    Number { to_host: bool, number: u64 },
    /// Those that such a specification makes.
    Ports(Specification),
}

/// Which flows are wanted; all that is given has to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Filter {
    pub(crate) proto: Option<Proto>,
    pub(crate) address: Option<Prefix>,
    pub(crate) port: Option<u16>,
    pub(crate) bypass: Option<bool>,
    pub(crate) state: Option<&'static str>,
    pub(crate) min_age_ms: u64,
    pub(crate) min_idle_ms: u64,
}

/// A request with what is to be repeated in its reply.
#[derive(Debug)]
pub(super) struct Line {
    /// The `tag` of the request.
    pub(crate) tag: Option<Value>,
    /// The command, if there is one.
    pub(crate) command: Option<String>,
    pub(crate) request: Result<Request, Problem>,
}

/// Reads a line.
pub(super) fn read(line: &[u8]) -> Line {
    if line.iter().filter(|&&byte| byte == b'{').count() > MOST_OBJECTS {
        return broken(format!("The line has more than {MOST_OBJECTS} objects"));
    }
    let mut fields = match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => Fields(fields),
        Ok(_) => return broken("The line is no JSON object".to_owned()),
        Err(error) => return broken(format!("The line is no JSON: {error}")),
    };
    let tag = fields.0.remove("tag");
    if !matches!(tag, None | Some(Value::String(_) | Value::Number(_))) {
        let problem = Problem::new("tag", "A string or a number is expected", "give one, or none");
        return Line { tag: None, command: None, request: Err(problem) };
    }
    match fields.needed_text("command") {
        Ok(command) => {
            let request = request(&command, fields);
            Line { tag, command: Some(command), request }
        }
        Err(problem) => Line { tag, command: None, request: Err(problem) },
    }
}

fn broken(problem: String) -> Line {
    let cure = "send one object a line, as {\"command\": \"status\"}";
    Line { tag: None, command: None, request: Err(Problem::new("", problem, cure)) }
}

fn request(name: &str, mut fields: Fields) -> Result<Request, Problem> {
    let Some(command) = CommandName::of(name) else {
        let cure = format!("one of {}", CommandName::list());
        return Err(Problem::new("command", format!("There is no command '{name}'"), cure));
    };
    let request = match command {
        CommandName::Status => Request::Status,
        CommandName::Stats => Request::Stats,
        CommandName::Flows => flows(&mut fields)?,
        CommandName::FlowReset => {
            let text = fields.needed_text("flow")?;
            let id = text.parse().map_err(|()| {
                Problem::new("flow", format!("'{text}' names no flow"), "take one from 'flows'")
            })?;
            Request::FlowReset(id)
        }
        CommandName::Rules => Request::Rules,
        CommandName::RulesAdd => Request::RulesAdd(fields.specification()?),
        CommandName::RulesDelete => Request::RulesDelete(deleted(&mut fields)?),
        CommandName::RulesReplace => {
            let items = fields.needed_list("rules")?.into_iter().enumerate();
            Request::RulesReplace(items.map(specification_in).collect::<Result<_, _>>()?)
        }
        CommandName::Egress => Request::Egress,
        CommandName::EgressReplace => {
            let rules = fields.needed_texts("rules")?;
            Request::EgressReplace { rules, isolate: fields.flag("isolate")?.unwrap_or(false) }
        }
        CommandName::Watch => Request::Watch(watched(&mut fields)?),
        CommandName::Log => Request::Log(level(&mut fields)?),
    };
    fields.finish(name)?;
    Ok(request)
}

fn flows(fields: &mut Fields) -> Result<Request, Problem> {
    let from = fields.number("from", u32::MAX.into())?.unwrap_or(0) as u32;
    let limit = fields.number("limit", MOST_FLOWS)?.unwrap_or(MOST_FLOWS).max(1) as usize;
    let proto = fields.proto(&[Proto::Tcp, Proto::Udp, Proto::Icmp])?;
    let address = fields.text("address")?.map(|text| prefix(&text)).transpose()?;
    let port = fields.number("port", u16::MAX.into())?.map(|port| port as u16);
    let state = fields.text("state")?.map(|word| one_of("state", &word, &STATES));
    let filter = Filter {
        proto,
        address,
        port,
        bypass: fields.flag("bypass")?,
        state: state.transpose()?,
        min_age_ms: fields.number("min_age_ms", u64::MAX)?.unwrap_or(0),
        min_idle_ms: fields.number("min_idle_ms", u64::MAX)?.unwrap_or(0),
    };
    Ok(Request::Flows { from, limit, filter })
}

/// `ADDR` or `ADDR/LEN`.
fn prefix(text: &str) -> Result<Prefix, Problem> {
    let wrong = || {
        let problem = format!("'{text}' is no address and no network");
        Problem::new("address", problem, "give one like 192.0.2.1 or 2001:db8::/32")
    };
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    Prefix::new(address, len.unwrap_or(most)).ok_or_else(wrong)
}

fn deleted(fields: &mut Fields) -> Result<Deleted, Problem> {
    match fields.number("rule", u64::MAX)? {
        Some(number) => Ok(Deleted::Number { to_host: fields.leads_to_host()?, number }),
        None => Ok(Deleted::Ports(fields.specification()?)),
    }
}

/// A specification in a list of them.
fn specification_in((place, item): (usize, Value)) -> Result<Specification, Problem> {
    let inside = |mut problem: Problem| {
        let dot = if problem.field.is_empty() { "" } else { "." };
        problem.field = format!("rules[{place}]{dot}{}", problem.field);
        problem
    };
    let Value::Object(fields) = item else {
        let cure = "as {\"to\": \"guest\", \"proto\": \"tcp\", \"ports\": \"8080:80\"}";
        return Err(inside(Problem::new("", "An object is expected", cure)));
    };
    let mut fields = Fields(fields);
    let specification = fields.specification().map_err(inside)?;
    fields.finish(CommandName::RulesReplace.text()).map_err(inside)?;
    Ok(specification)
}

fn watched(fields: &mut Fields) -> Result<Vec<&'static str>, Problem> {
    match fields.texts("events")? {
        None => Ok(Event::NAMES.to_vec()),
        Some(words) => words.iter().map(|word| one_of("events", word, &Event::NAMES)).collect(),
    }
}

fn level(fields: &mut Fields) -> Result<Option<log::LevelFilter>, Problem> {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let Some(word) = fields.text("level")? else { return Ok(None) };
    let word = one_of("level", &word, &LEVELS)?;
    Ok(word.parse().ok())
}

fn one_of(field: &str, word: &str, words: &[&'static str]) -> Result<&'static str, Problem> {
    words.iter().find(|one| **one == word).copied().ok_or_else(|| {
        Problem::new(field, format!("'{word}' is unknown"), format!("one of {}", words.join(", ")))
    })
}

/// The fields of a request that were not read yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn wrong(name: &str, expected: &str, value: &Value) -> Problem {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        let problem = format!("{expected} is expected, this is {found}");
        Problem::new(name, problem, format!("give '{name}' as {}", expected.to_lowercase()))
    }

    fn missing(name: &str) -> Problem {
        Problem::new(name, format!("The field '{name}' is missing"), format!("give '{name}'"))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Self::wrong(name, "A string", &other)),
        }
    }

    fn needed_text(&mut self, name: &str) -> Result<String, Problem> {
        self.text(name)?.ok_or_else(|| Self::missing(name))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(Self::wrong(name, "true or false", &other)),
        }
    }

    /// A number from 0 to `most`.
    fn number(&mut self, name: &str, most: u64) -> Result<Option<u64>, Problem> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        let number = value.as_u64().filter(|&number| number <= most);
        let expected = || format!("A whole number from 0 to {most}");
        match (number, &value) {
            (Some(number), _) => Ok(Some(number)),
            (None, Value::Number(given)) => {
                let problem = format!("{} is expected, this is {given}", expected());
                Err(Problem::new(name, problem, "give another number"))
            }
            (None, other) => Err(Self::wrong(name, &expected(), other)),
        }
    }

    fn needed_list(&mut self, name: &str) -> Result<Vec<Value>, Problem> {
        match self.0.remove(name) {
            None => Err(Self::missing(name)),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(Self::wrong(name, "A list", &other)),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, Problem> {
        if !self.0.contains_key(name) {
            return Ok(None);
        }
        let text = |(place, item)| match item {
            Value::String(text) => Ok(text),
            other => Err(Self::wrong(&format!("{name}[{place}]"), "A string", &other)),
        };
        self.needed_list(name)?
            .into_iter()
            .enumerate()
            .map(text)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn needed_texts(&mut self, name: &str) -> Result<Vec<String>, Problem> {
        self.texts(name)?.ok_or_else(|| Self::missing(name))
    }

    fn proto(&mut self, known: &[Proto]) -> Result<Option<Proto>, Problem> {
        let Some(word) = self.text("proto")? else { return Ok(None) };
        let found = known.iter().find(|proto| proto.to_string().to_lowercase() == word);
        found.copied().map(Some).ok_or_else(|| {
            let names: Vec<String> =
                known.iter().map(|proto| proto.to_string().to_lowercase()).collect();
            let cure = format!("one of {}", names.join(", "));
            Problem::new("proto", format!("'{word}' is unknown"), cure)
        })
    }

    /// Which way ports are forwarded; to the guest if nothing is said.
    fn leads_to_host(&mut self) -> Result<bool, Problem> {
        let word = self.text("to")?;
        one_of("to", word.as_deref().unwrap_or("guest"), &["guest", "host"]).map(|to| to == "host")
    }

    fn specification(&mut self) -> Result<Specification, Problem> {
        let to_host = self.leads_to_host()?;
        let proto = self.proto(&[Proto::Tcp, Proto::Udp])?;
        let proto = proto.ok_or_else(|| Self::missing("proto"))?;
        Ok(Specification { to_host, proto, ports: self.needed_text("ports")? })
    }

    /// Nothing is left that `command` does not know.
    fn finish(self, command: &str) -> Result<(), Problem> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let problem = format!("'{command}' has no field '{name}' here");
                Err(Problem::new(name, problem, "leave it out"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Request {
        read(line.as_bytes()).request.unwrap_or_else(|problem| panic!("{line}: {problem:?}"))
    }

    fn problem(line: &[u8]) -> Problem {
        read(line).request.expect_err("it is wrong")
    }

    #[test]
    fn commands_are_read() {
        let tcp = |ports: &str| Specification {
            to_host: false,
            proto: Proto::Tcp,
            ports: ports.to_owned(),
        };
        for (line, expected) in [
            (r#"{"command":"status"}"#, Request::Status),
            (r#" { "tag" : 7, "command" : "stats" } "#, Request::Stats),
            (
                r#"{"command":"flow-reset","flow":"3.1"}"#,
                Request::FlowReset("3.1".parse().unwrap()),
            ),
            (
                r#"{"command":"rules-add","proto":"tcp","ports":"8080:80"}"#,
                Request::RulesAdd(tcp("8080:80")),
            ),
            (
                r#"{"command":"rules-delete","rule":4}"#,
                Request::RulesDelete(Deleted::Number { to_host: false, number: 4 }),
            ),
            (
                r#"{"command":"rules-replace","rules":[{"proto":"tcp","ports":"1"}]}"#,
                Request::RulesReplace(vec![tcp("1")]),
            ),
            (
                r#"{"command":"egress-replace","rules":["allow any"],"isolate":true}"#,
                Request::EgressReplace { rules: vec!["allow any".to_owned()], isolate: true },
            ),
            (r#"{"command":"watch","events":["lease"]}"#, Request::Watch(vec!["lease"])),
            (r#"{"command":"watch"}"#, Request::Watch(Event::NAMES.to_vec())),
            (r#"{"command":"log","level":"debug"}"#, Request::Log(Some(log::LevelFilter::Debug))),
            (r#"{"command":"log"}"#, Request::Log(None)),
        ] {
            assert_eq!(request(line), expected, "{line}");
        }
        let line = r#"{"command":"flows","proto":"udp","address":"192.0.2.0/24","port":53,"limit":5,
            "from":9,"state":"stream","bypass":false,"min_idle_ms":10}"#;
        let Request::Flows { from: 9, limit: 5, filter } = request(line) else { panic!("{line}") };
        assert_eq!(
            (filter.proto, filter.port, filter.state),
            (Some(Proto::Udp), Some(53), Some("stream"))
        );
        assert_eq!((filter.bypass, filter.min_idle_ms), (Some(false), 10));
    }

    #[test]
    fn what_changes_something_is_known() {
        for (line, access) in [
            (r#"{"command":"status"}"#, Access::Reads),
            (r#"{"command":"log"}"#, Access::Reads),
            (r#"{"command":"log","level":"info"}"#, Access::Changes),
            (r#"{"command":"flow-reset","flow":"0.0"}"#, Access::Changes),
            (r#"{"command":"rules-delete","rule":1}"#, Access::Changes),
            (r#"{"command":"egress-replace","rules":[]}"#, Access::Changes),
            (r#"{"command":"watch"}"#, Access::Reads),
        ] {
            assert_eq!(request(line).access(), access, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let nested = format!(r#"{{"command":{deep}}}"#);
        let many = format!(r#"{{"x":[{}0]}}"#, r#"{"":0},"#.repeat(MOST_OBJECTS));
        for (line, field, words) in [
            ("", "", "no JSON"),
            ("status", "", "no JSON"),
            ("[]", "", "no JSON object"),
            (deep.as_str(), "", "recursion limit"),
            (nested.as_str(), "", "recursion limit"),
            (many.as_str(), "", "more than 1024 objects"),
            ("{}", "command", "missing"),
            (r#"{"command":1}"#, "command", "A string is expected, this is a number"),
            (r#"{"command":"x"}"#, "command", "no command 'x'"),
            (r#"{"command":"status","x":1}"#, "x", "has no field 'x'"),
            (r#"{"command":"status","tag":[]}"#, "tag", "string or a number"),
            (
                r#"{"command":"flows","port":70000}"#,
                "port",
                "from 0 to 65535 is expected, this is 70000",
            ),
            (r#"{"command":"flows","port":-1}"#, "port", "this is -1"),
            (r#"{"command":"flows","port":"80"}"#, "port", "this is a string"),
            (r#"{"command":"flows","limit":129}"#, "limit", "from 0 to 128"),
            (r#"{"command":"flows","proto":"sctp"}"#, "proto", "'sctp'"),
            (r#"{"command":"flows","state":"open"}"#, "state", "'open'"),
            (r#"{"command":"flows","address":"192.0.2.0/33"}"#, "address", "no network"),
            (r#"{"command":"flows","address":"x"}"#, "address", "'x'"),
            (r#"{"command":"flows","bypass":0}"#, "bypass", "true or false"),
            (r#"{"command":"flow-reset","flow":"7"}"#, "flow", "'7' names no flow"),
            (r#"{"command":"flow-reset"}"#, "flow", "missing"),
            (r#"{"command":"rules-add","ports":"1"}"#, "proto", "missing"),
            (r#"{"command":"rules-add","proto":"icmp","ports":"1"}"#, "proto", "'icmp'"),
            (r#"{"command":"rules-add","proto":"tcp"}"#, "ports", "missing"),
            (r#"{"command":"rules-add","to":"x","proto":"tcp"}"#, "to", "'x'"),
            (r#"{"command":"rules-replace","rules":1}"#, "rules", "A list"),
            (r#"{"command":"rules-replace","rules":[1]}"#, "rules[0]", "An object"),
            (
                r#"{"command":"rules-replace","rules":[{"proto":"tcp","ports":"1","x":1}]}"#,
                "rules[0].x",
                "'x'",
            ),
            (r#"{"command":"egress-replace","rules":["allow any",2]}"#, "rules[1]", "A string"),
            (r#"{"command":"watch","events":["x"]}"#, "events", "'x'"),
            (r#"{"command":"log","level":"loud"}"#, "level", "'loud'"),
        ] {
            let problem = problem(line.as_bytes());
            assert_eq!(problem.field, field, "{line}");
            assert!(problem.problem.contains(words), "{line}: {problem:?}");
            assert!(!problem.cure.is_empty(), "{line}");
        }
        assert_eq!(problem(b"\xff\xfe").field, "");
    }
}
