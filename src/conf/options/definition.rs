//! What one option is: its names, its argument, what it does, what the help says of it, and which
//! modes know it. The options themselves stand in [`super::table`].

use std::path::PathBuf;

use super::{Mode, Options};

/// The argument of an option that takes an interface of this host, in the help and for completions.
pub(super) const INTERFACE_OF_HOST: &str = "INTERFACE";

/// The argument of an option that takes a user, likewise.
pub(super) const USER: &str = "USER";

/// The argument of an option that takes the path of a control socket, likewise.
pub(super) const CONTROL_SOCKET: &str = "PATH[,mode=MODE]";

/// What an option does to [`Options`], by what argument it takes. A failing effect returns what is
/// wrong.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    /// No argument.
    Flag(fn(&mut Options)),
    /// Text, with its name in the help; the last string says what is accepted.
    Text(&'static str, fn(&mut Options, &str) -> Result<(), String>, &'static str),
    /// A path, with its name in the help.
    Path(&'static str, fn(&mut Options, PathBuf)),
}

/// Which modes know an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    /// Stream and vhost-user.
    Passt,
    VhostUser,
    Pasta,
}

/// One option.
pub(super) struct Definition {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    pub(super) alias: Option<&'static str>,
    pub(super) effect: Effect,
    pub(super) scope: Scope,
    help: &'static str,
    /// Where it means something else in pasta.
    pasta_help: Option<&'static str>,
    /// An argument that asks for nothing, and is therefore accepted in every mode.
    idle: Option<&'static str>,
}

/// Options that belong together.
pub(super) struct Group {
    pub(super) heading: &'static str,
    pub(super) options: &'static [Definition],
}

impl Definition {
    const fn new(
        short: Option<char>,
        long: &'static str,
        effect: Effect,
        help: &'static str,
    ) -> Self {
        Self {
            long,
            short,
            alias: None,
            effect,
            scope: Scope::All,
            help,
            pasta_help: None,
            idle: None,
        }
    }

    pub(super) const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }

    pub(super) const fn passt(mut self) -> Self {
        self.scope = Scope::Passt;
        self
    }

    pub(super) const fn vhost_user(mut self) -> Self {
        self.scope = Scope::VhostUser;
        self
    }

    pub(super) const fn pasta(mut self) -> Self {
        self.scope = Scope::Pasta;
        self
    }

    pub(super) const fn help_in_pasta(mut self, help: &'static str) -> Self {
        self.pasta_help = Some(help);
        self
    }

    pub(super) const fn idle_with(mut self, argument: &'static str) -> Self {
        self.idle = Some(argument);
        self
    }

    /// Whether the option means anything in `mode`.
    pub(super) fn applies(&self, mode: Mode) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::Passt => mode != Mode::Pasta,
            Scope::VhostUser => mode == Mode::VhostUser,
            Scope::Pasta => mode == Mode::Pasta,
        }
    }

    /// Whether the help for `mode` lists it. passt has one help for both of its modes.
    pub(super) fn listed(&self, mode: Mode) -> bool {
        self.applies(mode) || (self.applies(Mode::VhostUser) && mode == Mode::Stream)
    }

    /// Whether `argument` asks for nothing.
    pub(super) fn is_idle(&self, argument: &std::ffi::OsStr) -> bool {
        self.idle.is_some_and(|idle| argument == idle)
    }

    /// What the help for `mode` says of it.
    pub(super) fn help(&self, mode: Option<Mode>) -> &'static str {
        self.pasta_help.filter(|_| mode == Some(Mode::Pasta)).unwrap_or(self.help)
    }
}

/// An option without argument.
pub(super) const fn flag(
    short: Option<char>,
    long: &'static str,
    effect: fn(&mut Options),
    help: &'static str,
) -> Definition {
    Definition::new(short, long, Effect::Flag(effect), help)
}

/// An option that takes text named `name`; `takes` says what it accepts.
pub(super) const fn text(
    short: Option<char>,
    long: &'static str,
    name: &'static str,
    effect: fn(&mut Options, &str) -> Result<(), String>,
    takes: &'static str,
    help: &'static str,
) -> Definition {
    Definition::new(short, long, Effect::Text(name, effect, takes), help)
}

/// An option that takes a path.
pub(super) const fn path(
    short: Option<char>,
    long: &'static str,
    effect: fn(&mut Options, PathBuf),
    help: &'static str,
) -> Definition {
    Definition::new(short, long, Effect::Path("PATH", effect), help)
}
