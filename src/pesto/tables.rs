//! The forwarding rules of a running program, table by table, and what options make of them. Rules of the program are
//! taken as they are; what is added must be valid, and agree with them.

use std::fmt::Write as _;

use super::failure::Failure;
use super::words::Step;
use crate::conf::ports::{self, ForwardDirection, Kernel};
use crate::conf::{ConfError, option_of};
use crate::control::configuration::format::{
    Capabilities, END, TableHead, rule_to_bytes, wanted_head,
};
use crate::flow::fwd::{Enabled, Proto, Rule, RuleTable};
use crate::flow::side::Pif;

/// The rules of one direction.
#[derive(Clone, Debug)]
pub(super) struct Table {
    head: TableHead,
    rules: RuleTable,
}

impl Table {
    /// Without rules, as a program describes it.
    pub(super) fn new(head: TableHead) -> Self {
        Self { head, rules: RuleTable::default() }
    }

    /// A rule that the program has.
    pub(super) fn take_over(&mut self, rule: Rule) {
        self.rules.take_over(rule);
    }

    fn enabled(&self) -> Enabled {
        let has = |capability| self.head.capabilities.has(capability);
        Enabled {
            v4: has(Capabilities::V4),
            v6: has(Capabilities::V6),
            tcp: has(Capabilities::TCP),
            udp: has(Capabilities::UDP),
        }
    }
}

/// All tables of a program.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables(pub(super) Vec<Table>);

/// What becomes of ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They take the place of all others of their table.
    Replace,
    Add,
    Delete,
}

impl Tables {
    /// As text, below a title. Nothing in it controls a terminal, whoever has written it.
    pub(super) fn shown(&self, title: &str) -> String {
        let mut text = format!("{title}\n");
        for table in &self.0 {
            let _infallible = writeln!(text, "  {}", table.head.name);
            for rule in table.rules.rules() {
                let _infallible = writeln!(text, "    {rule}");
            }
        }
        text.replace(|letter: char| letter.is_control() && letter != '\n', "?")
    }

    /// The request that these be the rules.
    pub(super) fn request(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for Table { head, rules } in &self.0 {
            bytes.extend(wanted_head(head.pif, rules.rules().len()));
            bytes.extend(rules.rules().iter().flat_map(rule_to_bytes));
        }
        bytes.push(END);
        bytes
    }

    /// Whether these are what a change from `before` to `after` leads to, whatever else has changed.
    pub(super) fn follows(&self, before: &Self, after: &Self) -> bool {
        let has = |tables: &Self, pif, rule: &Rule| {
            let mut found = tables.0.iter().filter(|table| table.head.pif == pif);
            found.any(|table| table.rules.find(rule).is_some())
        };
        let all = |tables: &Self| -> Vec<(u8, Rule)> {
            let each = tables.0.iter();
            each.flat_map(|table| table.rules.rules().iter().map(|rule| (table.head.pif, *rule)))
                .collect()
        };
        let came = all(after).into_iter().filter(|(pif, rule)| !has(before, *pif, rule));
        let went = all(before).into_iter().filter(|(pif, rule)| !has(after, *pif, rule));
        came.into_iter().all(|(pif, rule)| has(self, pif, &rule))
            && went.into_iter().all(|(pif, rule)| !has(self, pif, &rule))
    }

    /// Makes the changes that options ask for, in order.
    ///
    /// # Errors
    /// The first thing wrong with them.
    pub(super) fn apply(&mut self, steps: &[Step], ephemeral: (u16, u16)) -> Result<(), Failure> {
        let mut mode = Mode::Replace;
        let mut replaced = Vec::new();
        for (spec_index, step) in (0..=u16::MAX).zip(steps) {
            match step {
                Step::Add => mode = Mode::Add,
                Step::Delete => mode = Mode::Delete,
                Step::Clear(name) => self.clear(name)?,
                Step::Ports { pif, proto, spec } => {
                    let table = self.table(*pif, *proto)?;
                    if mode == Mode::Replace && !replaced.contains(pif) {
                        replaced.push(*pif);
                        table.rules = RuleTable::default();
                    }
                    table.change(mode, (*pif, *proto, spec), ephemeral, spec_index)?;
                }
            }
        }
        Ok(())
    }

    fn clear(&mut self, name: &str) -> Result<(), Failure> {
        let names: Vec<_> = self.0.iter().map(|table| table.head.name.clone()).collect();
        let table = self.0.iter_mut().find(|table| table.head.name == name).ok_or_else(|| {
            Failure::new(format!("Unsupported pif name {name}\nName one of: {}", names.join(", ")))
        })?;
        table.rules = RuleTable::default();
        Ok(())
    }

    fn table(&mut self, pif: Pif, proto: Proto) -> Result<&mut Table, Failure> {
        let option = proto.option(pif == Pif::Splice);
        let side = if pif == Pif::Splice { "outbound" } else { "inbound" };
        self.0
            .iter_mut()
            .find(|table| table.head.pif == pif as u8)
            .ok_or_else(|| Failure::new(format!("Can't use {option}, no {side} interface")))
    }
}

impl Table {
    fn change(
        &mut self,
        mode: Mode,
        (pif, proto, spec): (Pif, Proto, &str),
        ephemeral: (u16, u16),
        spec_index: u16,
    ) -> Result<(), Failure> {
        let has = |capability| self.head.capabilities.has(capability);
        let direction = match pif {
            Pif::Splice => ForwardDirection::FromNamespace,
            _ if has(Capabilities::SCAN) => ForwardDirection::ToNamespace,
            _ => ForwardDirection::ToGuest,
        };
        let kernel = Kernel { ephemeral, device_binding: has(Capabilities::INTERFACE) };
        let enabled = self.enabled();
        let refused = |error: ConfError| {
            let (option, spec) = (option_of(direction, proto), spec.to_owned());
            let error = ConfError::Ports { option, spec, error: Box::new(error) };
            let cure = error.cure().map_or_else(String::new, |cure| format!("\n{cure}"));
            Failure::new(format!("{error}{cure}"))
        };
        let rules =
            ports::rules(&self.rules, enabled, kernel, (direction, proto, spec), spec_index);
        for rule in rules.map_err(refused)? {
            if mode == Mode::Delete {
                self.delete(&rule)?;
                continue;
            }
            let added = self.rules.add(rule, enabled);
            added.map_err(|warning| refused(ConfError::Rule { warning, rule: Box::new(rule) }))?;
        }
        Ok(())
    }

    fn delete(&mut self, rule: &Rule) -> Result<(), Failure> {
        if let Some(id) = self.rules.find(rule) {
            self.rules.remove(id);
            return Ok(());
        }
        let why = match self.rules.contender(rule) {
            Some(other) => format!(
                "Specifier {rule} conflicts with rule {other}, but doesn't match it, can't delete"
            ),
            None => format!("Couldn't find forwarding rule to delete: {rule}"),
        };
        Err(Failure::new(format!(
            "{why}\nUnable to delete rule {rule}\nGive the ports of a rule as a whole, as pesto shows it without options"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::configuration::format::request;

    const EPHEMERAL: (u16, u16) = (32768, 60999);

    fn head(pif: Pif, capabilities: u32) -> TableHead {
        let (name, capabilities) = (pif.to_string(), Capabilities(capabilities));
        TableHead { pif: pif as u8, name, capabilities, count: 0 }
    }

    /// Those of a namespace, with `-t 8080`.
    fn of_pasta() -> Tables {
        let mut inbound = Table::new(head(Pif::Host, 0x3f));
        inbound.take_over(Rule::plain(Proto::Tcp, (8080, 8080), 8080));
        Tables(vec![inbound, Table::new(head(Pif::Splice, 0x3f))])
    }

    fn ports(letter: char, spec: &str) -> Step {
        let pif = if letter.is_uppercase() { Pif::Splice } else { Pif::Host };
        let proto = if letter.eq_ignore_ascii_case(&'t') { Proto::Tcp } else { Proto::Udp };
        Step::Ports { pif, proto, spec: spec.to_owned() }
    }

    fn after(tables: &Tables, steps: &[Step]) -> Result<Vec<String>, String> {
        let mut tables = tables.clone();
        tables.apply(steps, EPHEMERAL).map_err(|failure| failure.0)?;
        Ok(tables.shown("").lines().skip(1).map(|line| line.trim().to_owned()).collect())
    }

    #[test]
    fn ports_take_the_place_of_others_once_for_each_table() {
        for (steps, expected) in [
            (&[][..], &["HOST", "TCP [*]:8080  =>  8080", "SPLICE"][..]),
            (
                &[ports('t', "7000"), ports('u', "7001"), ports('T', "7002")],
                &[
                    "HOST",
                    "TCP [*]:7000  =>  7000",
                    "UDP [*]:7001  =>  7001",
                    "SPLICE",
                    "TCP [*]%lo:7002  =>  7002",
                ],
            ),
            (&[ports('t', "none")], &["HOST", "SPLICE"]),
            (&[ports('u', "none")], &["HOST", "SPLICE"]),
            (
                &[Step::Add, ports('t', "7000:22")],
                &["HOST", "TCP [*]:8080  =>  8080", "TCP [*]:7000  =>  22", "SPLICE"],
            ),
            (&[Step::Delete, ports('t', "8080")], &["HOST", "SPLICE"]),
            (
                &[ports('t', "1,2"), Step::Delete, ports('t', "1"), Step::Add, ports('t', "3")],
                &["HOST", "TCP [*]:2  =>  2", "TCP [*]:3  =>  3", "SPLICE"],
            ),
            (&[Step::Clear("HOST".into()), Step::Clear("SPLICE".into())], &["HOST", "SPLICE"]),
        ] {
            assert_eq!(after(&of_pasta(), steps).expect("fine"), expected, "{steps:?}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_said_in_known_words() {
        let passt = Tables(vec![of_pasta().0.remove(0)]);
        for (tables, steps, text) in [
            (
                &of_pasta(),
                &[Step::Add, ports('t', "8080")][..],
                "Forwarding configuration conflict: TCP [*]:8080  =>  8080  versus TCP [*]:8080  =>  8080 \n\
                 Unable to add rule TCP [*]:8080  =>  8080 \n",
            ),
            (
                &of_pasta(),
                &[Step::Delete, ports('t', "7005")],
                "Couldn't find forwarding rule to delete: TCP [*]:7005  =>  7005 \n\
                 Unable to delete rule TCP [*]:7005  =>  7005 \nGive the ports of a rule as a whole",
            ),
            (
                &of_pasta(),
                &[Step::Delete, ports('t', "8080-8081")],
                "Specifier TCP [*]:8080-8081  =>  8080-8081  conflicts with rule TCP [*]:8080  =>  8080 , but \
                 doesn't match it, can't delete\nUnable to delete rule TCP [*]:8080-8081  =>  8080-8081 ",
            ),
            (&of_pasta(), &[Step::Clear("splice".into())], "Unsupported pif name splice\n"),
            (&passt, &[ports('T', "80")], "Can't use -T, no outbound interface"),
            (&passt, &[ports('U', "80")], "Can't use -U, no outbound interface"),
            (&of_pasta(), &[ports('t', "x")], "Invalid port specifier 'x'\n"),
            (
                &of_pasta(),
                &[Step::Add, ports('t', "none")],
                "-t none conflicts with previous options\n",
            ),
            (
                &of_pasta(),
                &[ports('T', "127.0.0.1/80")],
                "Listening address not allowed for -T 127.0.0.1/80\n",
            ),
        ] {
            let said = after(tables, steps).expect_err("refused");
            assert!(said.starts_with(text), "{said}");
        }
    }

    #[test]
    fn what_a_program_cannot_do_is_refused() {
        for (capabilities, spec, text) in [
            (0x2f, "auto", "'auto' port forwarding is only allowed for pasta"),
            (0x1f, "%eth0/80", "Device binding for '-t %eth0/80' unsupported"),
            (0x3b, "80", "Can't add TCP forwarding rule, TCP not enabled"),
            (0x3d, "[::]/80", "IPv6 forward, but IPv6 not enabled"),
        ] {
            let tables = Tables(vec![Table::new(head(Pif::Host, capabilities))]);
            let said = after(&tables, &[ports('t', spec)]).expect_err(spec);
            assert!(said.starts_with(text), "{said}");
        }
    }

    #[test]
    fn the_request_is_what_a_server_reads() {
        let mut tables = of_pasta();
        tables.apply(&[Step::Add, ports('U', "53")], EPHEMERAL).expect("fine");
        let wanted = request(&tables.request()).expect("valid").expect("whole");
        let pifs: Vec<_> = wanted.iter().map(|(pif, rules)| (*pif, rules.len())).collect();
        assert_eq!(pifs, [(Pif::Host, 1), (Pif::Splice, 1)]);
    }

    #[test]
    fn a_change_is_found_again_whatever_else_has_changed() {
        let before = of_pasta();
        let change = |tables: &Tables, steps: &[Step]| {
            let mut tables = tables.clone();
            tables.apply(steps, EPHEMERAL).expect("fine");
            tables
        };
        let after = change(&before, &[ports('t', "7000")]);
        assert!(after.follows(&before, &after) && !before.follows(&before, &after));
        let others = change(&after, &[Step::Add, ports('u', "1"), ports('T', "9")]);
        assert!(others.follows(&before, &after));
        let half = change(&before, &[Step::Add, ports('t', "7000")]);
        assert!(!half.follows(&before, &after), "8080 was to go");
    }

    #[test]
    fn nothing_that_is_shown_controls_a_terminal() {
        let mut table = Table::new(head(Pif::Host, 0x3f));
        table.head.name = "A\x1b[2J".to_owned();
        assert_eq!(Tables(vec![table]).shown("x"), "x\n  A?[2J\n");
    }
}
