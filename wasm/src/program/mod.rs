//! What can be concluded from a statement's program: which functions' results go to the rows that are sent and nowhere
//! else, or to steps of SQLite's own aggregates and nowhere else. What such a function returns may be filled in when the
//! rows are sent or the steps are done (`callbacks::deferred`).

mod flow;
mod opcodes;
#[cfg(target_arch = "wasm32")]
mod reading;

use self::flow::{is_jumped_into, is_read_from, is_straight};
pub use self::opcodes::Instruction;
#[cfg(target_arch = "wasm32")]
pub use self::reading::Known;

/// What of a statement is called for later.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The functions, as `name(number of arguments)`.
    pub functions: Vec<Box<[u8]>>,
    /// For each call in a row, in column order: the column of its result, and the how manieth call it is. None where
    /// results go to aggregates instead.
    pub holes: Vec<(usize, usize)>,
    /// Those of the functions that are conditions under which rows are counted.
    pub conditions: Vec<Box<[u8]>>,
}

impl Plan {
    pub fn is_for_aggregates(&self) -> bool {
        self.holes.is_empty()
    }
}

/// What can be put off in a program: calls whose every result goes to a step of an aggregate, or is the condition of one,
/// and nowhere else; if there is none, to the row that is sent and nowhere else.
///
/// `is_ours` knows the functions that it is about, `can_wait` the aggregates whose steps can be done later. There is no
/// plan for rows where these are sent by more than one instruction.
pub fn plan(
    program: &[Instruction],
    is_ours: impl Fn(&[u8]) -> bool,
    can_wait: impl Fn(&[u8]) -> bool,
) -> Option<Plan> {
    if !program.iter().all(Instruction::is_known) {
        return None;
    }
    let for_steps = calls_that(program, &is_ours, |at| {
        is_for_a_step_alone(program, at, &can_wait)
    });
    let for_counts = calls_that(program, &is_ours, |at| {
        is_for_a_count_alone(program, at, &can_wait)
    });
    if !for_steps.is_empty() || !for_counts.is_empty() {
        return Some(Plan {
            functions: names_of(program, &[&for_steps[..], &for_counts].concat()),
            holes: Vec::new(),
            conditions: names_of(program, &for_counts),
        });
    }
    let mut rows = (0..program.len()).filter(|at| program[*at].is(b"ResultRow"));
    let row = rows.next().filter(|_| rows.next().is_none())?;
    let for_rows = calls_that(program, &is_ours, |at| is_for_alone(program, at, row));
    let [first, ..] = program[row].operands;
    let mut holes = Vec::new();
    for (number, at) in for_rows.iter().enumerate() {
        let [.., result] = program[*at].operands;
        holes.push((usize::try_from(result - first).ok()?, number));
    }
    holes.sort_unstable();
    (!holes.is_empty()).then(|| Plan {
        functions: names_of(program, &for_rows),
        holes,
        conditions: Vec::new(),
    })
}

/// Where functions of ours are called, those of which each call `fits`.
fn calls_that(
    program: &[Instruction],
    is_ours: impl Fn(&[u8]) -> bool,
    fits: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let is_ours = |at: &usize| program[*at].is_call() && is_ours(&program[*at].p4);
    let fit_all = |at: &usize| {
        let same = |other: &Instruction| other.is_call() && other.p4 == program[*at].p4;
        let mut all = (0..program.len()).filter(|other| same(&program[*other]));
        all.all(&fits)
    };
    (0..program.len()).filter(is_ours).filter(fit_all).collect()
}

fn names_of(program: &[Instruction], calls: &[usize]) -> Vec<Box<[u8]>> {
    let mut names: Vec<_> = calls.iter().map(|at| program[*at].p4.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether what the call at `at` writes is read once, as the argument of a step that can wait. Such arguments pass in
/// registers that serve many ends.
fn is_for_a_step_alone(
    program: &[Instruction],
    at: usize,
    can_wait: impl Fn(&[u8]) -> bool,
) -> bool {
    let [.., result] = program[at].operands;
    // Such an instruction would take from the result what tells it from others.
    let clears = |other: &Instruction| other.is(b"ClrSubtype") && other.operands[0] == result;
    let mut rest = (at + 1)..program.len();
    let Some(step) = rest.find(|step| program[*step].touches(result)) else {
        return false;
    };
    program[step].is_step()
        && program[step].operands[1] == result
        && can_wait(&program[step].p4)
        && !program[at].reads(result)
        && is_straight(program, at, step)
        && !program.iter().any(clears)
        && !is_read_from(program, step + 1, result)
}

/// Whether what the call at `at` writes is read once, as the condition under which `count(*)` counts a row: whatever
/// else could depend on it comes after. Such a step does not tell which call it is about, so there are no others.
fn is_for_a_count_alone(
    program: &[Instruction],
    at: usize,
    can_wait: impl Fn(&[u8]) -> bool,
) -> bool {
    let [.., result] = program[at].operands;
    let (test, step, next) = (at + 1, at + 2, at + 3);
    let is_counted = |step: usize| {
        let counts = |step: &Instruction| step.is_step() && step.p4.ends_with(b"(0)");
        program.get(step).is_some_and(counts) && can_wait(&program[step].p4)
    };
    let is_tested = |step: usize| step >= 2 && program[step - 1].skips_one_unless_true(step - 1);
    let are_all_tested = (0..program.len()).all(|step| !is_counted(step) || is_tested(step));
    is_counted(step)
        && are_all_tested
        && program[test].operands[0] == result
        && !program[at].reads(result)
        && !is_jumped_into(program, test..=step)
        && !is_read_from(program, next, result)
}

/// Whether what the call at `at` writes is read once, by the instruction at `reader`, which follows it without a detour.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of functions that can be put off. Each line is `opcode p1 p2 p3 p4 p5`, with `-` for no P4.
    fn found(listing: &str) -> Vec<String> {
        let plan = planned(listing).unwrap_or_default();
        let names = plan
            .functions
            .iter()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        names.collect()
    }

    /// As if all functions but those with a name in capitals were ours.
    fn planned(listing: &str) -> Option<Plan> {
        let program: Vec<_> = listing.lines().map(instruction).collect();
        plan(
            &program,
            |name| name[0].is_ascii_lowercase(),
            |name| name == b"SUM(1)" || name == b"COUNT(0)",
        )
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
    fn calls_are_counted_as_they_come_and_holes_are_by_column() {
        let second = SCAN.replace("Column 0 1 2 - 0", "Function 0 4 2 g(0) 0");
        let plan = planned(&second).expect("both are put off");
        assert_eq!(plan.holes, [(0, 0), (1, 1)]);
        let swapped = second
            .replace(" 3 1 f(1)", " 3 2 f(1)")
            .replace(" 4 2 g(0)", " 4 1 g(0)");
        assert_eq!(planned(&swapped).expect("both").holes, [(0, 1), (1, 0)]);
        let built_in = planned(&second.replace("g(0)", "ABS(0)")).expect("one of them");
        assert_eq!(
            (built_in.functions.len(), &*built_in.holes),
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

    /// `SELECT sum(f(a)), sum(b) FROM t`.
    const SUMS: &str = "Init 0 11 0 - 0
Null 0 1 4 - 0
OpenRead 0 2 0 2 0
Rewind 0 9 0 - 0
Column 0 0 6 - 0
Function 0 6 5 f(1) 0
AggStep 0 5 1 SUM(1) 1
Column 0 1 5 - 0
AggStep 0 5 2 SUM(1) 1
Next 0 4 0 - 1
Halt 0 0 0 - 0
Transaction 0 0 3 0 1
Goto 0 1 0 - 0";

    #[test]
    fn step_has_its_function_alone_though_its_register_serves_others() {
        let plan = planned(SUMS).expect("it is put off");
        assert_eq!((plan.is_for_aggregates(), plan.functions.len()), (true, 1));
        for between in ["Affinity 6 1 0 B 0", "CollSeq 0 0 0 BINARY-8 0"] {
            let more = SUMS.replace("AggStep 0 5 1", &format!("{between}\nAggStep 0 5 1"));
            assert_eq!(found(&more), ["f(1)"], "{between}");
        }
    }

    #[test]
    fn step_that_cannot_wait_or_has_more_arguments_is_none() {
        for other in [
            "AggStep 0 5 1 MAX(1) 1",
            "AggStep 0 4 1 SUM(1) 1",
            "AggInverse 0 5 1 SUM(1) 1",
        ] {
            let listing = SUMS.replace("AggStep 0 5 1 SUM(1) 1", other);
            assert!(found(&listing).is_empty(), "{other}");
        }
    }

    #[test]
    fn whoever_else_may_read_what_a_step_takes_is_seen() {
        for other in [
            "AggStep 0 5 2 SUM(1) 1",
            "MakeRecord 5 1 7 - 0",
            "Function 0 5 5 g(1) 0",
            "Copy 5 7 0 - 0",
            "Add 5 6 5 - 0",
            "Noop 0 0 0 - 0",
            "IfNot 6 8 0 - 0",
            "ClrSubtype 5 0 0 - 0",
        ] {
            let listing = SUMS.replace("Column 0 1 5 - 0", other);
            assert!(found(&listing).is_empty(), "{other}");
        }
        for before in ["IfNot 6 8 0 - 0", "Gosub 9 8 0 - 0", "Copy 5 8 0 - 0"] {
            let listing = SUMS.replace("AggStep 0 5 1", &format!("{before}\nAggStep 0 5 1"));
            assert!(found(&listing).is_empty(), "{before}");
        }
        assert!(found(&SUMS.replace("Next 0 4", "Next 0 6")).is_empty());
        assert!(found(&SUMS.replace("Function 0 6 5", "Function 0 5 5")).is_empty());
    }

    #[test]
    fn whoever_reads_after_a_return_is_seen() {
        let returning = SUMS.replace("Column 0 1 5 - 0", "Return 9 0 0 - 0");
        for (more, expected) in [
            ("Gosub 9 4 0 - 0\nMakeRecord 5 1 7 - 0", &[][..]),
            (
                "Gosub 9 4 0 - 0\nMakeRecord 7 1 5 - 0\nMakeRecord 5 1 7 - 0",
                &["f(1)"],
            ),
            ("Yield 9 14 0 - 0\nMakeRecord 5 1 7 - 0", &[]),
            (
                "Yield 9 15 0 - 0\nHalt 0 0 0 - 0\nMakeRecord 5 1 7 - 0",
                &[],
            ),
            (
                "InitCoroutine 9 0 15 - 0\nHalt 0 0 0 - 0\nMakeRecord 5 1 7 - 0",
                &[],
            ),
            ("Halt 0 0 0 - 0\nMakeRecord 5 1 7 - 0", &["f(1)"]),
        ] {
            let without = returning.replace("AggStep 0 5 2 SUM(1) 1", "Noop 0 0 0 - 0");
            assert_eq!(found(&format!("{without}\n{more}")), expected, "{more}");
        }
    }

    /// `SELECT count(*) FROM t WHERE f(a)`.
    const COUNT: &str = "Init 0 9 0 - 0
Null 0 1 1 - 0
Rewind 0 7 0 - 0
Column 0 0 3 - 0
Function 0 3 2 f(1) 0
IfNot 2 7 1 - 0
AggStep 0 0 1 COUNT(0) 1
Next 0 3 0 - 1
AggFinal 1 0 0 COUNT(0) 0
Halt 0 0 0 - 0";

    #[test]
    fn count_has_its_condition_alone() {
        let plan = planned(COUNT).expect("it is put off");
        assert_eq!(
            (&plan.conditions, plan.is_for_aggregates()),
            (&plan.functions, true)
        );
        assert!(planned(SUMS).expect("so is that").conditions.is_empty());
        let twice = COUNT.replace(
            "Next 0 3",
            "Function 0 3 2 g(1) 0\nIfNot 2 10 1 - 0\nAggStep 0 0 4 COUNT(0) 1\nNext 0 3",
        );
        let twice = twice.replace("Init 0 9", "Init 0 12");
        assert_eq!(found(&twice), ["f(1)", "g(1)"]);
    }

    #[test]
    fn condition_of_anything_else_is_none() {
        for (part, other) in [
            ("IfNot 2 7 1", "If 2 7 1"),
            ("IfNot 2 7 1", "IfNot 2 7 0"),
            ("IfNot 2 7 1", "IfNot 2 8 1"),
            ("IfNot 2 7 1", "IfNot 4 7 1"),
            ("IfNot 2 7 1", "IsNull 2 7 1"),
            ("AggStep 0 0 1 COUNT(0)", "AggStep 0 3 1 SUM(1)"),
            ("AggStep 0 0 1 COUNT(0)", "AggStep 0 0 1 OTHER(0)"),
            (
                "AggStep 0 0 1 COUNT(0) 1",
                "Noop 0 0 0 - 0\nAggStep 0 0 1 COUNT(0) 1",
            ),
            ("Function 0 3 2", "Function 0 2 2"),
            ("Next 0 3", "MakeRecord 2 1 9 - 0\nNext 0 3"),
            ("Next 0 3", "Next 0 5"),
            ("Next 0 3", "Next 0 6"),
            ("Next 0 3", "AggStep 0 0 4 COUNT(0) 1\nNext 0 3"),
        ] {
            assert!(found(&COUNT.replace(part, other)).is_empty(), "{other}");
        }
    }

    #[test]
    fn what_only_overwrites_ends_what_a_step_takes() {
        for other in [
            "Rowid 0 5 0 - 0",
            "Integer 1 5 0 - 0",
            "Null 0 4 6 - 0",
            "Function 0 6 5 G(1) 0",
            "Copy 7 5 0 - 0",
            "SCopy 7 5 0 - 0",
            "Add 6 7 5 - 0",
            "Goto 0 9 0 - 0",
        ] {
            let listing = SUMS.replace("Column 0 1 5 - 0", other);
            assert_eq!(found(&listing), ["f(1)"], "{other}");
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
    fn own_argument_in_the_place_of_the_result_is_not_for_the_row_alone() {
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
