//! The registers that an instruction touches and where it may jump: <https://sqlite.org/opcode.html>.
//!
//! Only the opcodes of queries are listed. An unknown opcode rules out any conclusion about its program, because
//! it may touch any register.

// The registers that an opcode touches may change with any release of SQLite. Before you change this number,
// compare the comments of vdbe.c and the P1 to P5 of `sqlite3VdbeList` of both releases, opcode by opcode.
#[cfg(target_arch = "wasm32")]
const _: () = assert!(
    libsqlite3_sys::SQLITE_VERSION_NUMBER == 3_054_001,
    "the opcodes below belong to SQLite 3.54.1"
);

/// One instruction, as SQLite lists it.
pub struct Instruction {
    pub opcode: Box<[u8]>,
    /// P1, P2 and P3.
    pub operands: [i32; 3],
    pub p4: Box<[u8]>,
    pub p5: i32,
}

/// What an operand is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    Other,
    Register,
    /// The number of an instruction that may be next.
    Target,
}

/// Registers beyond the operands themselves.
#[derive(Clone, Copy)]
enum Span {
    Nothing,
    /// P2 of them, starting at P1.
    FromFirst,
    /// From P2 to P3.
    SecondToThird,
    /// As many as P4 says, starting at P3, at least one.
    Key,
    /// A function's arguments, starting at P2.
    Arguments,
    /// P3 and some more of them, starting at P1 and at P2.
    Pairs(i32),
}

/// Bit of P5 of `OpenRead`: P2 is a register, not a page number.
const P2_IS_REGISTER: i32 = 0x10;
/// An unbounded number of registers, where the program does not say how many.
const ANY_NUMBER: i32 = i32::MAX;

/// What an instruction touches: a letter per operand, `r` for a register, `j` for a jump target.
fn shape(opcode: &[u8]) -> Option<(&'static [u8; 3], Span)> {
    let none = Span::Nothing;
    Some(match opcode {
        b"Transaction" | b"OpenRead" | b"ReopenIdx" | b"OpenDup" | b"SorterOpen" | b"Close"
        | b"NullRow" | b"DeferredSeek" | b"FinishSeek" | b"SeekHit" | b"ColumnsUsed" | b"Noop"
        | b"Explain" | b"ResetSorter" => (b"...", none),
        // Subtypes pass between functions: the emitted row has none.
        b"ClrSubtype" => (b"...", none),
        b"Goto" | b"Once" | b"Rewind" | b"Last" | b"Next" | b"Prev" | b"SorterNext" | b"Sort"
        | b"SorterSort" | b"SeekScan" | b"IfEmpty" => (b".j.", none),
        b"Init" => (b".jj", none),
        b"Halt" | b"Column" | b"OpenEphemeral" | b"OpenAutoindex" | b"Delete" => (b"..r", none),
        b"Integer" | b"Int64" | b"Real" | b"String8" | b"Blob" | b"Variable" | b"Rowid"
        | b"IdxRowid" | b"RowData" | b"Sequence" | b"SorterInsert" | b"SorterData" | b"Count"
        | b"OpenPseudo" | b"BeginSubrtn" => (b".r.", none),
        b"String" | b"NewRowid" | b"Insert" => (b".rr", none),
        b"Return" | b"EndCoroutine" | b"RealAffinity" | b"AddImm" | b"Cast" | b"CollSeq"
        | b"AggFinal" => (b"r..", none),
        b"SCopy" | b"IntCopy" | b"Not" | b"BitNot" | b"IsTrue" => (b"rr.", none),
        b"Add" | b"Subtract" | b"Multiply" | b"Divide" | b"Remainder" | b"Concat" | b"And"
        | b"Or" | b"BitAnd" | b"BitOr" | b"ShiftLeft" | b"ShiftRight" | b"OffsetLimit"
        | b"ZeroOrNull" => (b"rrr", none),
        b"If" | b"IfNot" | b"IsNull" | b"NotNull" | b"MustBeInt" | b"IfPos" | b"IfNotZero"
        | b"DecrJumpZero" | b"Gosub" | b"Yield" => (b"rj.", none),
        b"Eq" | b"Ne" | b"Lt" | b"Le" | b"Gt" | b"Ge" => (b"rjr", none),
        b"SeekRowid" | b"NotExists" | b"IfNullRow" | b"SorterCompare" => (b".jr", none),
        b"InitCoroutine" => (b"rjj", none),
        b"Jump" => (b"jjj", none),
        b"Null" => (b".r.", Span::SecondToThird),
        b"Affinity" | b"ResultRow" => (b"...", Span::FromFirst),
        b"MakeRecord" => (b"..r", Span::FromFirst),
        b"SeekLT" | b"SeekLE" | b"SeekGE" | b"SeekGT" | b"IdxLT" | b"IdxLE" | b"IdxGE"
        | b"IdxGT" | b"Found" | b"NotFound" | b"NoConflict" | b"IfNoHope" => (b".j.", Span::Key),
        b"IdxInsert" => (b".r.", Span::Key),
        b"Filter" => (b"rj.", Span::Key),
        b"FilterAdd" => (b"r..", Span::Key),
        b"Function" | b"PureFunc" | b"AggStep" | b"AggStep1" => (b"..r", Span::Arguments),
        b"Copy" => (b"...", Span::Pairs(1)),
        b"Move" | b"Compare" => (b"...", Span::Pairs(0)),
        _ => return None,
    })
}

impl Instruction {
    pub fn is(&self, opcode: &[u8]) -> bool {
        *self.opcode == *opcode
    }

    /// Whether it calls an SQL function that is not an aggregate.
    pub fn is_call(&self) -> bool {
        self.is(b"Function") || self.is(b"PureFunc")
    }

    pub fn is_known(&self) -> bool {
        shape(&self.opcode).is_some() && !(self.is(b"OpenRead") && self.p5 & P2_IS_REGISTER != 0)
    }

    /// Where it may continue apart from the next instruction, as far as its operands say.
    pub fn targets(&self) -> impl Iterator<Item = i32> {
        self.operands_of(Operand::Target)
    }

    /// Whether it may do anything but continue with the next instruction.
    pub fn may_leave(&self) -> bool {
        self.targets().next().is_some()
            || [&b"Return"[..], b"EndCoroutine", b"Halt"].contains(&&*self.opcode)
    }

    fn operands_of(&self, kind: Operand) -> impl Iterator<Item = i32> {
        let letters = shape(&self.opcode).map_or(b"...", |(letters, _)| letters);
        let pairs = letters.iter().zip(self.operands);
        pairs.filter_map(move |(letter, operand)| {
            let found = match letter {
                b'r' => Operand::Register,
                b'j' => Operand::Target,
                _ => Operand::Other,
            };
            (found == kind).then_some(operand)
        })
    }

    /// Whether it reads or writes this register.
    pub fn touches(&self, register: i32) -> bool {
        let [first, second, third] = self.operands;
        let within =
            |start: i32, count: i32| (start..start.saturating_add(count)).contains(&register);
        let span = match shape(&self.opcode).map_or(Span::Nothing, |(_, span)| span) {
            Span::Nothing => false,
            Span::FromFirst => within(first, second),
            Span::SecondToThird => within(second, third.saturating_sub(second).saturating_add(1)),
            Span::Key => within(third, self.key_length()),
            Span::Arguments => within(second, self.argument_count()),
            Span::Pairs(more) => {
                let count = third.saturating_add(more);
                within(first, count) || within(second, count)
            }
        };
        span || self
            .operands_of(Operand::Register)
            .any(|operand| operand == register)
    }

    /// Whether it is a call that has this register among its arguments.
    pub fn reads(&self, register: i32) -> bool {
        let [_, first, _] = self.operands;
        (first..first.saturating_add(self.argument_count())).contains(&register)
    }

    /// The maximum number of arguments of a call: a function that takes any number says -1 in `name(number)`.
    fn argument_count(&self) -> i32 {
        let number = self.p4.rsplit(|byte| *byte == b'(').next();
        let number = number.and_then(|rest| rest.strip_suffix(b")"));
        let known = number.and_then(number_in).filter(|count| *count >= 0);
        known.unwrap_or_else(|| self.room_for_arguments())
    }

    /// The result's register is not one of the arguments', so it limits them if it comes after the first.
    fn room_for_arguments(&self) -> i32 {
        let [_, first, result] = self.operands;
        if result > first {
            result - first
        } else {
            ANY_NUMBER
        }
    }

    /// Without a number, the key is a record in one register, or there is none.
    fn key_length(&self) -> i32 {
        let length = match &*self.p4 {
            [] => Some(1),
            number => number_in(number),
        };
        length.unwrap_or(ANY_NUMBER).max(1)
    }
}

fn number_in(text: &[u8]) -> Option<i32> {
    core::str::from_utf8(text).ok()?.parse().ok()
}
