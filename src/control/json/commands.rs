//! The commands of the protocol by name, each with what it does: for the program, which reads their names, and for
//! `pesto`, which has a command of the same name for each. What may be said besides follows in `request` and in
//! `src/ask/words.rs`; the compiler names these places when there is another command.

macro_rules! commands {
    ($($variant:ident => $name:literal, $help:literal;)*) => {
        /// A command.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum CommandName { $(#[doc = $help] $variant,)* }

        impl CommandName {
            /// All commands, in the order in which they are listed.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name.
            pub(crate) const fn text(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it does.
            pub(crate) const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

commands! {
    Status => "status", "Show the program, and what its guest is told";
    Stats => "stats", "Show all counters that are not 0";
    Flows => "flows", "List flows";
    FlowReset => "flow-reset", "End a flow";
    Rules => "rules", "List forwarding rules";
    RulesAdd => "rules-add", "Add forwarding rules";
    RulesDelete => "rules-delete", "Remove forwarding rules";
    RulesReplace => "rules-replace", "Put other forwarding rules in place of all";
    Egress => "egress", "List what the guest may reach, and how often each rule has decided";
    EgressReplace => "egress-replace", "Put another egress policy in force";
    Watch => "watch", "Print what happens, one line of JSON an event";
    Log => "log", "Show or set the level of the log";
}

impl CommandName {
    /// The command of this name.
    pub(crate) fn of(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|command| command.text() == text)
    }

    /// All names, for people.
    pub(crate) fn list() -> String {
        Self::ALL.iter().map(|command| command.text()).collect::<Vec<_>>().join(", ")
    }
}
