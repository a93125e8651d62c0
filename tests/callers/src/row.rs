//! What a row of the tables says: who starts the program, with which words, and what that caller
//! relies on. A row is data; [`crate::play`] acts it out.

/// Who starts the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// An ordinary user of the host.
    User,
    /// The host's root. Only root can play that.
    Root,
    /// Root of a user and a mount namespace that an ordinary user has made, as rootless container
    /// engines are.
    Engine,
}

/// What there is before the program starts.
#[derive(Clone, Copy, Debug)]
pub enum Before {
    /// A shell script of the host's root.
    Root(&'static str),
    /// A shell script of the caller.
    Script(&'static str),
    /// A TCP listener at this address.
    Listener(&'static str),
    /// A listener at this path.
    SocketTaken(&'static str),
    /// A process in user and network namespaces of its own. `{child}` is its id.
    Child,
    /// The program gets one end of a pair of stream sockets as this descriptor.
    Descriptor(i32),
    /// The program gets the end of a pipe to write to as this descriptor.
    ReadyPipe(i32),
    /// The program gets the end of a pipe to read from as this descriptor.
    ExitPipe(i32),
    /// The program may have so many descriptors.
    Descriptors(u32),
    /// A frame is sent through the pair before the program starts.
    EarlyQuestion,
    /// The program inherits a pipe as a descriptor that nobody tells it about.
    Leak,
    /// The program is run from memory and has no file; it dies with its caller.
    InMemory,
    /// The program is copied to this path, variants beside it, and started from there.
    Copied(&'static str),
    /// Both outputs go nowhere.
    Unheard,
    /// Standard input, output and error are closed.
    Closed,
    /// What the program asks for is recorded.
    Traced,
    /// The caller is a service whose manager waits for a message on its socket.
    NotifySocket,
}

/// One thing that a caller relies on. They are looked at in their order, and some act.
#[derive(Clone, Copy, Debug)]
pub enum Clause {
    /// The command returns with this status, and nothing keeps its outputs open.
    Returns(i32),
    /// Nothing was written to either output.
    Silent,
    /// A line of standard error begins with this text.
    Says(&'static str),
    /// Standard error contains this text.
    Mentions(&'static str),
    /// Standard error does not contain this text.
    Omits(&'static str),
    /// Lines of standard error, blanks cut off, that begin with these words in this order.
    Banner(&'static [&'static str]),
    /// Standard output contains this text. Without such a clause it must be empty.
    Prints(&'static str),
    /// The file holds the id of a process that runs, as digits and a newline, for its owner only.
    PidFile(&'static str),
    /// The same, but the file may take a moment: the program stays in the foreground.
    PidFileSoon(&'static str),
    /// The file or socket exists.
    Exists(&'static str),
    /// No such file or socket.
    Absent(&'static str),
    /// No such file, or an empty one.
    NoContent(&'static str),
    /// A client gets its question answered at this path.
    Served(&'static str),
    /// A client of the stream protocol gets its question answered through the pair.
    StreamPair,
    /// A DHCP client with Rapid Commit has its lease after one exchange through the pair.
    RapidLease,
    /// A vhost-user front-end gets its question answered through the pair.
    VhostUserPair,
    /// The same, as soon as the socket's file appears.
    ServedSoon(&'static str),
    /// A TCP connection to this address is accepted.
    Tcp(&'static str),
    /// A TCP connection to this address is accepted, soon.
    TcpSoon(&'static str),
    /// The same is refused, soon.
    TcpRefusedSoon(&'static str),
    /// The command, run by the caller, succeeds; it prints the text. `pesto` is the program's, `other-pesto` that of the
    /// other side, if there is one.
    Does(&'static str, &'static str),
    /// The command, run by the caller, fails with status 1, and its error contains the text.
    Fails(&'static str, &'static str),
    /// A TCP connection to this address is refused.
    TcpRefused(&'static str),
    /// The UDP address is in use.
    Udp(&'static str),
    /// The command, run in the guest's namespaces, prints the text.
    Inside(&'static str, &'static str),
    /// A byte comes out of the pipe, soon, and nobody holds its other end then.
    Ready,
    /// The other end of the pipe is closed without a byte.
    NeverReady,
    /// The end of the pipe that it reads from ends it with status 0.
    EndsWithPipe,
    /// Nobody holds the leaked descriptor any more.
    DropsLeak,
    /// SIGTERM ends it with status 0.
    Term,
    /// SIGQUIT ends it with status 0.
    Quit,
    /// The service manager was sent nothing.
    Unnotified,
    /// SIGKILL ends it.
    Kill,
    /// The end of the stream ends it with status 0.
    EndsWithPair,
    /// The end of its first client at this path ends it with status 0.
    EndsWithClient(&'static str),
    /// The end of the child whose namespaces it is in ends it with status 0.
    EndsWithChild,
    /// It ends with status 0 after the caller's script.
    EndsAfter(&'static str),
    /// It is still there after its first client at this path has left.
    OutlivesClient(&'static str),
    /// The same command again.
    Again,
    /// No process is left.
    NothingRuns,
    /// No process is left, not even one that has ended and was not reaped: the first process, whose child it
    /// has become, may be one that reaps nobody.
    NothingToReap,
    /// Nothing was asked for that AppArmor's profiles for the program of this name do not grant.
    Granted(&'static str),
    /// The same, by the profiles of this release and later ones.
    GrantedFrom(&'static str, &'static str),
}

/// How the reference keeps a row's clauses.
#[derive(Clone, Copy, Debug)]
pub enum Reference {
    /// All of them.
    Same,
    /// Not all; these are kept instead.
    Differs(&'static [Clause]),
    /// Sometimes: it depends on who is faster.
    ByChance,
    /// The row is about our program only.
    Unasked,
}

/// A row of a table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name, in reports and in `contrib/DIFFERENCES.md`.
    pub id: &'static str,
    /// Who starts it.
    pub caller: Caller,
    /// What there is before.
    pub before: &'static [Before],
    /// The command line; blanks separate words, single quotes keep them together. `{254-letters}`
    /// and `{300-ports}` (no two of them neighbours) stand for what would be tedious to read.
    pub line: &'static str,
    /// What must be so.
    pub clauses: &'static [Clause],
    /// What the reference does.
    pub reference: Reference,
}

impl Row {
    /// A row of an ordinary user, with nothing special before.
    pub const fn new(id: &'static str, line: &'static str, clauses: &'static [Clause]) -> Self {
        Self { id, caller: Caller::User, before: &[], line, clauses, reference: Reference::Same }
    }

    /// Who starts it instead.
    pub const fn by(mut self, caller: Caller) -> Self {
        self.caller = caller;
        self
    }

    /// What there is before.
    pub const fn after(mut self, before: &'static [Before]) -> Self {
        self.before = before;
        self
    }

    /// The reference differs: this is so with it, and `clauses` are not.
    pub const fn reference(mut self, clauses: &'static [Clause]) -> Self {
        self.reference = Reference::Differs(clauses);
        self
    }

    /// The reference may or may not keep `clauses`, depending on who is faster.
    pub const fn by_chance(mut self) -> Self {
        self.reference = Reference::ByChance;
        self
    }

    /// The reference is not asked.
    pub const fn ours(mut self) -> Self {
        self.reference = Reference::Unasked;
        self
    }

    /// The words of the command line.
    pub fn words(&self) -> Vec<String> {
        let ports: Vec<String> = (0..300).map(|i| (8000 + 2 * i).to_string()).collect();
        let spelt = |word: String| {
            word.replace("{254-letters}", &"x".repeat(254)).replace("{300-ports}", &ports.join(","))
        };
        words(self.line).into_iter().map(spelt).collect()
    }
}

/// Splits at blanks, except between single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    let mut word = None::<String>;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' | '\n' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_split_at_blanks_outside_of_quotes() {
        assert_eq!(words("passt  -q\n --search 'a b' ''"), ["passt", "-q", "--search", "a b", ""]);
    }
}
