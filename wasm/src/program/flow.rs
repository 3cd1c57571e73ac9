//! How a program goes on from an instruction: <https://sqlite.org/opcode.html>.

use core::ops::RangeInclusive;

use super::opcodes::{Instruction, Operand};

impl Instruction {
    /// Where it may go on but with the next instruction, as far as it says so itself.
    pub fn targets(&self) -> impl Iterator<Item = i32> {
        self.operands_of(Operand::Target)
    }

    /// Whether it may do anything but go on with the next instruction.
    pub fn may_leave(&self) -> bool {
        self.targets().next().is_some()
            || [&b"Return"[..], b"EndCoroutine", b"Halt"].contains(&&*self.opcode)
    }

    /// Whether the next instruction may come next.
    pub fn may_go_on(&self) -> bool {
        !self.is(b"Goto") && !self.is(b"Halt")
    }

    /// Whether it is the instruction at `place` and goes past the next one unless its register is true.
    pub fn skips_one_unless_true(&self, place: usize) -> bool {
        let [_, target, if_null] = self.operands;
        self.is(b"IfNot") && usize::try_from(target) == Ok(place + 2) && if_null != 0
    }

    /// Whether it may go on where somebody has called it or it has called somebody.
    pub fn may_go_back(&self) -> bool {
        [&b"Return"[..], b"Yield", b"EndCoroutine"].contains(&&*self.opcode)
    }

    /// Where it is gone back to, if it is the instruction at `place` and it can be.
    pub fn resumes_at(&self, place: usize) -> [Option<usize>; 2] {
        let [_, second, third] = self.operands.map(|operand| usize::try_from(operand).ok());
        match &*self.opcode {
            b"Gosub" => [Some(place + 1), None],
            b"Yield" => [Some(place + 1), second],
            b"InitCoroutine" => [third, None],
            _ => [None, None],
        }
    }
}

/// Whether what is in `register` may be read if the program goes on at `start`.
pub fn is_read_from(program: &[Instruction], start: usize, register: i32) -> bool {
    let mut seen = vec![false; program.len()];
    let mut to_see = vec![start];
    while let Some(at) = to_see.pop() {
        let Some(instruction) = program.get(at).filter(|_| !seen[at]) else {
            continue;
        };
        seen[at] = true;
        if instruction.only_overwrites(register) {
            continue;
        }
        if instruction.touches(register) {
            return true;
        }
        if instruction.may_go_on() {
            to_see.push(at + 1);
        }
        if instruction.may_go_back() {
            let places = program.iter().enumerate();
            let resumed = places.flat_map(|(place, other)| other.resumes_at(place));
            to_see.extend(resumed.flatten());
        }
        let targets = instruction.targets();
        to_see.extend(targets.filter_map(|to| usize::try_from(to).ok()));
    }
    false
}

/// Whether `to` comes after `from` without a detour, and in no other way.
pub fn is_straight(program: &[Instruction], from: usize, to: usize) -> bool {
    from < to
        && !program[from..to].iter().any(Instruction::may_leave)
        && !is_jumped_into(program, from + 1..=to)
}

/// Whether some instruction says that it may go on with one of these.
pub fn is_jumped_into(program: &[Instruction], part: RangeInclusive<usize>) -> bool {
    let is_within = |target: i32| usize::try_from(target).is_ok_and(|to| part.contains(&to));
    let jumps = |instruction: &Instruction| instruction.targets().any(is_within);
    program.iter().any(jumps)
}
