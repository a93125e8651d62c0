//! A filter as a program for the kernel (BPF), for processors that seccompiler does not know. It is the plain form of
//! one: calls are compared one after the other, and the first with the number of the call that is made decides.
//!
//! ```text
//! load architecture; another one than ours: kill
//! load number
//! for each call:  another number: to the next call
//!                 for each thing that its arguments may be: load argument, mask, compare; as it may be: allow
//!                 kill
//! kill
//! ```

use libc::sock_filter as Instruction;
use rustix::io::Errno;

use super::{Check, Rules};
use crate::sys::socket::last_errno;

/// Where things stand in what the program looks at (`struct seccomp_data`, linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;

/// Where the lower half of an argument stands in it.
const LOWER_HALF: u32 = if cfg!(target_endian = "big") { 4 } else { 0 };

/// Instructions (linux/bpf_common.h).
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What the kernel knows a processor as (linux/audit.h), and Rust.
const ARCHITECTURES: &[(&str, u32)] = &[
    ("x86_64", 0xc000_003e),
    ("x86", 0x4000_0003),
    ("aarch64", 0xc000_00b7),
    ("arm", 0x4000_0028),
    ("riscv64", 0xc000_00f3),
    ("loongarch64", 0xc000_0102),
    ("s390x", 0x8000_0016),
    ("powerpc64", if cfg!(target_endian = "big") { 0x8000_0015 } else { 0xc000_0015 }),
];

/// What the kernel runs.
pub(super) type Program = Vec<Instruction>;

/// The program that allows calls by these rules on the processor that Rust knows by this name.
///
/// # Errors
/// In words, when there is no such processor here, or the program is too long.
pub(super) fn program(rules: &Rules, processor: &str) -> Result<Program, String> {
    let known = ARCHITECTURES.iter().find(|(name, _)| *name == processor);
    let &(_, architecture) =
        known.ok_or_else(|| format!("there are no system call filters for {processor}"))?;
    let mut program = vec![
        load(ARCHITECTURE),
        if_equal(architecture, 1, 0),
        ending(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    for (number, ways) in rules {
        let body = body(ways);
        let length = u8::try_from(body.len());
        let length = length.map_err(|_| format!("call {number} has too many conditions"))?;
        // Numbers are those of system calls: 32 bits.
        program.push(if_equal(*number as u32, 0, length));
        program.extend(body);
    }
    program.push(ending(libc::SECCOMP_RET_KILL_PROCESS));
    Ok(program)
}

/// Has the kernel run it for the calling thread.
///
/// # Errors
/// What prctl(2) or seccomp(2) report.
#[cfg_attr(test, allow(dead_code, reason = "a test would confine its own thread"))]
pub(super) fn install(program: &Program) -> Result<(), Errno> {
    rustix::thread::set_no_new_privs(true)?;
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, 0);
    // SAFETY: the kernel copies `len` instructions, which are there, and changes none.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// What is done about a call: behind each way to make it that does not hold comes the next one.
fn body(ways: &[Vec<(u8, Check)>]) -> Vec<Instruction> {
    let mut body: Vec<Instruction> = ways.iter().flat_map(|checks| way(checks)).collect();
    body.push(ending(if ways.is_empty() {
        libc::SECCOMP_RET_ALLOW
    } else {
        libc::SECCOMP_RET_KILL_PROCESS
    }));
    body
}

/// Allows the call if all of `checks` hold, and goes on behind itself if not.
fn way(checks: &[(u8, Check)]) -> Vec<Instruction> {
    let Some((&(argument, check), others)) = checks.split_first() else {
        return vec![ending(libc::SECCOMP_RET_ALLOW)];
    };
    let others = way(others);
    let mut way = vec![load(ARGUMENTS + ARGUMENT_BYTES * u32::from(argument) + LOWER_HALF)];
    let values = match check {
        Check::OneOf(values) => values,
        Check::Equals(ref value) => std::slice::from_ref(value),
        Check::With(ref bits) => {
            way.push(and(*bits));
            std::slice::from_ref(bits)
        }
        Check::Without(bits) => {
            way.push(and(bits));
            &[0]
        }
    };
    for (at, &value) in values.iter().enumerate() {
        // The whole body is measured before it is used: what is longer than this is refused.
        let rest = (values.len() - 1 - at) as u8;
        way.push(if_equal(value, rest, if rest == 0 { others.len() as u8 } else { 0 }));
    }
    way.extend(others);
    way
}

const fn load(from: u32) -> Instruction {
    Instruction { code: LOAD, jt: 0, jf: 0, k: from }
}

const fn and(mask: u32) -> Instruction {
    Instruction { code: AND, jt: 0, jf: 0, k: mask }
}

/// Skips so many instructions where what was loaded is this, and so many where it is not.
const fn if_equal(value: u32, equal: u8, different: u8) -> Instruction {
    Instruction { code: IF_EQUAL, jt: equal, jf: different, k: value }
}

const fn ending(action: u32) -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k: action }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp::{Call, compiled, rules};

    /// What a program looks at.
    #[derive(Clone, Copy, Debug)]
    struct Made {
        number: u32,
        architecture: u32,
        arguments: [u64; 6],
    }

    impl Made {
        fn word(&self, from: u32) -> u32 {
            match from {
                NUMBER => self.number,
                ARCHITECTURE => self.architecture,
                from => {
                    let at = from - ARGUMENTS;
                    let argument = self.arguments[(at / ARGUMENT_BYTES) as usize];
                    if at % ARGUMENT_BYTES == LOWER_HALF {
                        argument as u32
                    } else {
                        (argument >> 32) as u32
                    }
                }
            }
        }
    }

    /// What the kernel would do: as much of it as both kinds of programs take.
    fn run(program: &[(u16, u8, u8, u32)], made: Made) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let (code, equal, different, k) = program[at];
            at += 1;
            let jump = |condition| usize::from(if condition { equal } else { different });
            match u32::from(code) {
                0x20 => accumulator = made.word(k),
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => at += jump(accumulator == k),
                0x25 => at += jump(accumulator > k),
                0x35 => at += jump(accumulator >= k),
                0x06 => return k,
                other => unreachable!("no such instruction: {other:#x}"),
            }
        }
    }

    const fn call(number: libc::c_long, checks: [Option<(u8, Check)>; 2]) -> Call {
        Call { number, checks }
    }

    const CALLS: &[Call] = &[
        call(3, [None, None]),
        call(5, [Some((0, Check::Equals(7))), None]),
        call(5, [Some((2, Check::Equals(9))), None]),
        call(9, [Some((2, Check::Without(4))), None]),
        call(16, [Some((1, Check::OneOf(&[1, 2, 0x8000_0000]))), None]),
        call(54, [Some((1, Check::Equals(0))), Some((2, Check::OneOf(&[1, 2])))]),
        call(54, [Some((1, Check::OneOf(&[1, 9]))), Some((2, Check::Without(4)))]),
        call(54, [Some((1, Check::Equals(2))), Some((2, Check::Equals(9)))]),
        call(257, [Some((5, Check::With(0x20_0001))), None]),
    ];

    /// Both kinds of programs, on the processor that this is.
    fn both(calls: &[Call]) -> [Vec<(u16, u8, u8, u32)>; 2] {
        let rules = rules(calls);
        let ours = program(&rules, std::env::consts::ARCH).expect("it is known");
        let other = compiled::program(&rules, std::env::consts::ARCH).expect("it is known");
        [
            ours.iter().map(|one| (one.code, one.jt, one.jf, one.k)).collect(),
            other.iter().map(|one| (one.code, one.jt, one.jf, one.k)).collect(),
        ]
    }

    #[test]
    fn both_kinds_of_programs_decide_the_same() {
        let [ours, other] = both(CALLS);
        let ours_is = program(&rules(&[]), std::env::consts::ARCH).expect("it is known")[1].k;
        let values = [0, 1, 2, 3, 4, 5, 7, 9, 0x20_0000, 0x20_0001, 0x20_0003, 0x8000_0000];
        let (mut allowed, mut killed) = (0, 0);
        let mut decide = |made: Made| {
            let decided = run(&ours, made);
            assert_eq!(decided, run(&other, made), "{made:x?}");
            if decided == libc::SECCOMP_RET_ALLOW { allowed += 1 } else { killed += 1 }
        };
        for number in [0, 2, 3, 4, 5, 6, 9, 16, 17, 54, 257, 258, u32::MAX] {
            for argument in 0..6 {
                for value in values.iter().flat_map(|&low| [low, low | 1 << 40]) {
                    for next in [0, 1, 2, 4, 9] {
                        for architecture in [ours_is, ours_is ^ 1] {
                            let mut arguments = [0; 6];
                            arguments[argument] = value;
                            arguments[(argument + 1) % 6] = next;
                            decide(Made { number, architecture, arguments });
                        }
                    }
                }
            }
        }
        assert!(allowed > 100 && killed > 100, "{allowed} {killed}");
    }

    #[test]
    fn there_is_a_program_for_each_processor_that_is_named() {
        for (name, architecture) in ARCHITECTURES {
            let program = program(&rules(CALLS), name).expect("it is named");
            assert_eq!((program[1].code, program[1].k), (IF_EQUAL, *architecture));
        }
        let error = program(&rules(CALLS), "vax").expect_err("nobody knows it");
        assert!(error.contains("vax"), "{error}");
    }

    #[test]
    fn what_is_too_long_is_refused() {
        static MANY: [u32; 300] = [1; 300];
        let calls = [call(1, [Some((0, Check::OneOf(&MANY))), None])];
        let error = program(&rules(&calls), "x86_64").expect_err("a jump has 8 bits");
        assert!(error.contains("call 1"), "{error}");
    }
}
