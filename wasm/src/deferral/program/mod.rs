//! Finds in a statement's bytecode the functions whose results are only columns of the emitted rows. Their results
//! may be filled in when the rows are sent.

mod opcodes;

use core::ops::RangeInclusive;

pub use self::opcodes::Instruction;
use crate::buffers::{copied, push};

/// Which calls of a statement to defer, and where their results go.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DeferralPlan {
    /// The functions, as `name(number of arguments)`.
    pub functions: Vec<Box<[u8]>>,
    /// For each call of a row, in column order: the column of its result, and the call's index.
    pub slots: Vec<(usize, usize)>,
}

impl DeferralPlan {
    pub fn has(&self, function: &[u8]) -> bool {
        self.functions.iter().any(|planned| &**planned == function)
    }
}

/// What can be deferred: calls whose every result goes only to the emitted row. `is_ours` selects the functions.
/// There is no plan if several instructions emit rows.
pub fn plan(program: &[Instruction], is_ours: impl Fn(&[u8]) -> bool) -> Option<DeferralPlan> {
    if !program.iter().all(Instruction::is_known) {
        return None;
    }
    let mut rows = (0..program.len()).filter(|at| program[*at].is(b"ResultRow"));
    let row = rows.next().filter(|_| rows.next().is_none())?;
    let for_rows = calls_that(program, &is_ours, |at| is_for_alone(program, at, row))?;
    let [first, ..] = program[row].operands;
    let mut slots = Vec::new();
    for (number, at) in for_rows.iter().enumerate() {
        let [.., result] = program[*at].operands;
        push(&mut slots, (usize::try_from(result - first).ok()?, number)).ok()?;
    }
    slots.sort_unstable();
    if slots.is_empty() {
        return None;
    }
    Some(DeferralPlan {
        functions: names_of(program, &for_rows)?,
        slots,
    })
}

/// Where our functions are called, limited to functions whose every call `fits`.
fn calls_that(
    program: &[Instruction],
    is_ours: impl Fn(&[u8]) -> bool,
    fits: impl Fn(usize) -> bool,
) -> Option<Vec<usize>> {
    let is_ours = |at: &usize| program[*at].is_call() && is_ours(&program[*at].p4);
    let fit_all = |at: &usize| {
        let same = |other: &Instruction| other.is_call() && other.p4 == program[*at].p4;
        let mut all = (0..program.len()).filter(|other| same(&program[*other]));
        all.all(&fits)
    };
    let mut calls = Vec::new();
    for at in (0..program.len()).filter(is_ours).filter(fit_all) {
        push(&mut calls, at).ok()?;
    }
    Some(calls)
}

fn names_of(program: &[Instruction], calls: &[usize]) -> Option<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    for at in calls {
        push(&mut names, copied(&program[*at].p4).ok()?).ok()?;
    }
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// Whether the result of the call at `at` is read once, by the instruction at `reader`, which follows without a
/// detour.
fn is_for_alone(program: &[Instruction], at: usize, reader: usize) -> bool {
    let [.., register] = program[at].operands;
    let touched_elsewhere = |(other, instruction): (usize, &Instruction)| {
        other != at && other != reader && instruction.touches(register)
    };
    is_straight(program, at, reader)
        && program[reader].touches(register)
        && !program[at].reads(register)
        && !program.iter().enumerate().any(touched_elsewhere)
}

/// Whether `to` follows `from` without a detour, and is reached in no other way.
fn is_straight(program: &[Instruction], from: usize, to: usize) -> bool {
    from < to
        && !program[from..to].iter().any(Instruction::may_leave)
        && !is_jumped_into(program, from + 1..=to)
}

/// Whether some instruction may continue with one of these.
fn is_jumped_into(program: &[Instruction], part: RangeInclusive<usize>) -> bool {
    let is_within = |target: i32| usize::try_from(target).is_ok_and(|to| part.contains(&to));
    let jumps = |instruction: &Instruction| instruction.targets().any(is_within);
    program.iter().any(jumps)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of functions that can be deferred. Each line is `opcode p1 p2 p3 p4 p5`, with `-` for no P4.
    fn found(listing: &str) -> Vec<String> {
        let plan = planned(listing).unwrap_or_default();
        let names = plan
            .functions
            .iter()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        names.collect()
    }

    /// As if all functions except those with a name in capitals were ours.
    fn planned(listing: &str) -> Option<DeferralPlan> {
        let program: Vec<_> = listing.lines().map(instruction).collect();
        plan(&program, |name| name[0].is_ascii_lowercase())
    }

    fn instruction(line: &str) -> Instruction {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse().expect("a number");
        Instruction {
            opcode: words[0].as_bytes().into(),
            operands: [number(1), number(2), number(3)],
            p4: words[4].trim_matches('-').as_bytes().into(),
            p5: number(5),
        }
    }

    /// `SELECT f(a), b FROM t`.
    const SCAN: &str = "Init 0 9 0 - 0
OpenRead 0 2 0 2 0
Rewind 0 8 0 - 0
Column 0 0 3 - 0
Function 0 3 1 f(1) 0
Column 0 1 2 - 0
ResultRow 1 2 0 - 0
Next 0 3 0 - 1
Halt 0 0 0 - 0
Transaction 0 0 3 0 1
Goto 0 1 0 - 0";

    #[test]
    fn plain_scan_has_its_function_for_the_row_alone() {
        assert_eq!(found(SCAN), ["f(1)"]);
    }

    #[test]
    fn calls_are_counted_as_they_come_and_slots_are_by_column() {
        let second = SCAN.replace("Column 0 1 2 - 0", "Function 0 4 2 g(0) 0");
        let plan = planned(&second).expect("both are put off");
        assert_eq!(plan.slots, [(0, 0), (1, 1)]);
        let swapped = second
            .replace(" 3 1 f(1)", " 3 2 f(1)")
            .replace(" 4 2 g(0)", " 4 1 g(0)");
        assert_eq!(planned(&swapped).expect("both").slots, [(0, 1), (1, 0)]);
        let built_in = planned(&second.replace("g(0)", "ABS(0)")).expect("one of them");
        assert_eq!(
            (built_in.functions.len(), &*built_in.slots),
            (1, &[(0, 0)][..])
        );
    }

    #[test]
    fn program_that_sends_rows_in_two_places_has_no_plan() {
        assert!(found(&format!("{SCAN}\nResultRow 5 2 0 - 0")).is_empty());
    }

    #[test]
    fn any_other_use_of_the_result_is_seen() {
        let uses = [
            "Copy 1 5 0 - 0",
            "Copy 0 4 1 - 0",
            "SCopy 1 5 0 - 0",
            "Move 0 5 2 - 0",
            "Null 0 0 4 - 0",
            "Integer 7 1 0 - 0",
            "Eq 1 8 5 BINARY-8 0",
            "Ge 5 8 1 BINARY-8 0",
            "IfNot 1 7 0 - 0",
            "MakeRecord 1 1 6 - 0",
            "MakeRecord 5 1 1 - 0",
            "Function 0 1 7 g(1) 0",
            "Function 0 0 7 g(2) 0",
            "Function 0 1 7 g(-1) 0",
            "AggStep 0 1 7 sum(1) 1",
            "SeekGE 1 8 1 1 0",
            "IdxGT 1 8 0 2 0",
            "Found 1 8 1 0 0",
            "Insert 1 1 5 - 0",
            "Affinity 0 2 0 BB 0",
            "Column 0 0 1 - 0",
        ];
        for line in uses {
            assert!(found(&format!("{SCAN}\n{line}")).is_empty(), "{line}");
        }
    }

    #[test]
    fn what_touches_other_registers_does_no_harm() {
        let others = [
            "Copy 3 5 0 - 0",
            "Function 0 5 7 g(2) 0",
            "Function 0 5 7 g(-1) 0",
            "MakeRecord 3 2 6 - 0",
            "Null 0 3 0 - 0",
            "IdxGT 1 8 3 2 0",
            "Eq 5 8 6 BINARY-8 0",
            "Goto 0 4 0 - 0",
            "Goto 0 7 0 - 0",
        ];
        for line in others {
            assert_eq!(found(&format!("{SCAN}\n{line}")), ["f(1)"], "{line}");
        }
    }

    #[test]
    fn row_is_sent_only_after_its_call() {
        for target in [5, 6] {
            let jump = format!("{SCAN}\nGoto 0 {target} 0 - 0");
            assert!(found(&jump).is_empty(), "{target}");
        }
        for between in [
            "IsNull 3 7 0 - 0",
            "Return 9 0 0 - 0",
            "Yield 9 8 0 - 0",
            "Gosub 9 8 0 - 0",
        ] {
            let detour = SCAN.replace("Column 0 1 2 - 0", between);
            assert!(found(&detour).is_empty(), "{between}");
        }
    }

    #[test]
    fn function_that_is_also_called_elsewhere_is_not_among_them() {
        let twice = format!("{SCAN}\nFunction 0 5 7 f(1) 0");
        assert!(found(&twice).is_empty());
        let pure = format!("{SCAN}\nPureFunc 0 5 7 f(1) 0");
        assert!(found(&pure).is_empty());
    }

    #[test]
    fn own_argument_in_the_register_of_the_result_is_not_for_the_row_alone() {
        assert!(found(&SCAN.replace("Function 0 3 1", "Function 0 1 1")).is_empty());
    }

    #[test]
    fn arguments_of_any_number_end_where_the_result_is() {
        let calls = |call: &str, other: &str| {
            found(&format!(
                "{}\n{other}",
                SCAN.replace("Function 0 3 1 f(1) 0", call)
            ))
        };
        assert_eq!(
            calls("Function 0 3 1 f(-1) 0", "Function 0 4 6 g(-1) 0"),
            ["f(-1)"]
        );
        assert_eq!(
            calls("Function 0 0 1 f(-1) 0", "Function 0 2 3 g(-1) 0"),
            ["f(-1)"]
        );
        assert!(calls("Function 0 3 1 f(-1) 0", "Function 0 1 7 g(-1) 0").is_empty());
        assert!(calls("Function 0 3 1 f(-1) 0", "Function 0 5 3 f(-1) 0").is_empty());
    }

    #[test]
    fn what_is_not_known_makes_the_answer_none() {
        for line in [
            "VOpen 0 0 0 - 0",
            "Program 0 0 0 - 0",
            "Param 0 0 0 - 0",
            "New 0 0 0 - 0",
            "OpenRead 3 9 0 2 16",
        ] {
            assert!(found(&format!("{SCAN}\n{line}")).is_empty(), "{line}");
        }
        assert!(found("").is_empty());
    }
}
