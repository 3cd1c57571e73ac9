//! Schedules as SQLite produces them, against a host that records requests and lets others in wherever it may.

use core::time::Duration;
use std::collections::BTreeMap;

use super::*;

const LOCK: c_int = 2;
const EXCLUSIVE: c_int = 8;
const DATABASE: Fd = Fd::new(1);
const OTHER: Fd = Fd::new(2);
const BUSY: Code = 5;
const WRITER_LOCK: c_int = 0;
const CHECKPOINT_LOCK: c_int = 1;
const MARK_0: c_int = 3;
const MARK_1: c_int = 4;
const MARK_2: c_int = 5;
const MARKS_FROM_1: LockRequest = LockRequest {
    first: MARK_1,
    count: 4,
    flags: 0,
};

/// A lock of a database: its number in the index, or -1 for the file's.
type Lock = (i32, c_int);
const FILE: c_int = -1;

/// The locks that we hold, and the ones that others hold.
struct Played {
    held: BTreeMap<Lock, c_int>,
    in_the_way: Vec<c_int>,
    calls: usize,
    fails: bool,
    now: Instant,
}

impl Played {
    fn new() -> Self {
        Self {
            held: BTreeMap::new(),
            in_the_way: Vec::new(),
            calls: 0,
            fails: false,
            now: Instant::now(),
        }
    }

    fn calls(&mut self) -> usize {
        core::mem::take(&mut self.calls)
    }

    /// The index locks of `DATABASE` that are held, by number.
    fn index(&self) -> Vec<c_int> {
        let ours = self.held.keys().filter(|(fd, _)| *fd == DATABASE.number());
        ours.map(|(_, lock)| *lock)
            .filter(|lock| *lock != FILE)
            .collect()
    }

    fn call(&mut self) -> Result<(), Code> {
        self.calls += 1;
        if self.fails { Err(10) } else { Ok(()) }
    }
}

impl LockHost for Played {
    fn share_file(&mut self, fd: Fd) -> Result<Facts, Code> {
        self.call()?;
        self.held.insert((fd.number(), FILE), SHARED);
        Ok(Facts {
            size_bytes: 4096,
            companions: abi::FACT_WAL,
        })
    }

    fn unlock_file(&mut self, fd: Fd) -> Result<(), Code> {
        self.call()?;
        assert!(self.held.remove(&(fd.number(), FILE)).is_some());
        Ok(())
    }

    fn lock_index(&mut self, fd: Fd, request: LockRequest) -> Result<Option<i64>, Code> {
        self.call()?;
        assert_eq!(request.flags & UNLOCK, 0);
        let mut locks = request.first..request.first + request.count;
        let is_exclusive = request.flags & EXCLUSIVE != 0;
        if is_exclusive && locks.clone().any(|lock| self.in_the_way.contains(&lock)) {
            return Err(BUSY);
        }
        locks.all(|lock| {
            self.held.insert((fd.number(), lock), request.flags & !LOCK);
            true
        });
        let is_first_mark = request.first == MARK_0 && !is_exclusive;
        Ok(is_first_mark.then_some(4096))
    }

    fn unlock_index(&mut self, fd: Fd, locks: u8) -> Result<(), Code> {
        self.call()?;
        for lock in (0..8).filter(|lock| locks >> lock & 1 == 1) {
            assert!(
                self.held.remove(&(fd.number(), lock)).is_some(),
                "{locks:b}"
            );
        }
        Ok(())
    }

    fn now(&self) -> Instant {
        self.now
    }
}

/// SQLite and the locks it believes to hold.
struct Sqlite {
    locks: KeptLocks,
    host: Played,
    believed: BTreeMap<Lock, c_int>,
}

impl Sqlite {
    fn new() -> Self {
        let mut locks = KeptLocks::new();
        locks.open(DATABASE, b"/x.db"[..].into(), true);
        locks.open(OTHER, b"/y.db"[..].into(), false);
        Self {
            locks,
            host: Played::new(),
            believed: BTreeMap::new(),
        }
    }

    fn ask(&mut self, request: LockRequest) -> Result<(), Code> {
        self.locks.index(DATABASE, request, &mut self.host)?;
        for lock in request.first..request.first + request.count {
            let lock = (DATABASE.number(), lock);
            if request.flags & UNLOCK == 0 {
                self.believed.insert(lock, request.flags & !LOCK);
            } else {
                self.believed.remove(&lock);
            }
        }
        self.check();
        Ok(())
    }

    fn lock(&mut self, first: c_int, kind: c_int) -> Result<(), Code> {
        self.ask(LockRequest {
            first,
            count: 1,
            flags: LOCK | kind,
        })
    }

    fn unlock(&mut self, first: c_int, kind: c_int) {
        let request = LockRequest {
            first,
            count: 1,
            flags: UNLOCK | kind,
        };
        self.ask(request).expect("an unlock does not fail");
    }

    /// Checks that SQLite holds what it believes to hold.
    fn check(&self) {
        for (lock, kind) in &self.believed {
            assert_eq!(self.host.held.get(lock), Some(kind), "{lock:?}");
        }
    }

    /// Begins to read up to a mark that has to be moved first; returns it.
    fn read(&mut self) -> c_int {
        let moved = (MARK_1..MARK_1 + 4).find(|mark| self.lock(*mark, EXCLUSIVE).is_ok());
        let mark = moved.expect("one of the marks is free");
        self.unlock(mark, EXCLUSIVE);
        self.lock(mark, SHARED).expect("nobody is in the way");
        mark
    }

    fn insert(&mut self) {
        let mark = self.read();
        self.lock(WRITER_LOCK, EXCLUSIVE).expect("no other writer");
        self.unlock(WRITER_LOCK, EXCLUSIVE);
        self.unlock(mark, SHARED);
    }

    fn end(&mut self, queued: bool) {
        if queued {
            self.locks.between_statements(&mut self.host);
        } else {
            assert_eq!(self.locks.after_statement(false, &mut self.host), None);
        }
        self.check();
    }

    /// The host takes locks for the next statement: numbers of exclusive ones, of shared ones, and the file's.
    fn prelock(&mut self, exclusive: &[c_int], shared: &[c_int], file: bool) {
        let kinds = [(EXCLUSIVE, exclusive, 8), (SHARED, shared, 0)];
        let mut locks = if file { abi::LOCKS_FILE } else { 0 };
        for (kind, numbers, shift) in kinds {
            for number in numbers {
                self.host.held.insert((DATABASE.number(), *number), kind);
                locks |= 1 << (*number + shift);
            }
        }
        if file {
            self.host.held.insert((DATABASE.number(), FILE), SHARED);
        }
        self.locks.prelock(Prelock {
            fd: DATABASE,
            locks,
            companions: 0,
            size_bytes: 8192,
        });
        self.check();
    }

    /// A statement ends whose answer the host waits for; returns what that drops.
    fn end_before_waiting_host(&mut self) -> Option<u32> {
        let unlock = self.locks.after_statement(true, &mut self.host)?;
        assert_eq!(unlock.fd, DATABASE);
        for lock in (0..8).filter(|lock| unlock.locks >> lock & 1 == 1) {
            assert!(self.host.held.remove(&(DATABASE.number(), lock)).is_some());
        }
        if unlock.locks & abi::LOCKS_FILE != 0 {
            assert!(self.host.held.remove(&(DATABASE.number(), FILE)).is_some());
        }
        self.check();
        Some(unlock.locks)
    }
}

#[test]
fn a_read_takes_a_call_and_gives_back_with_another() {
    let mut sqlite = Sqlite::new();
    sqlite.lock(MARK_1, SHARED).unwrap();
    sqlite.unlock(MARK_1, SHARED);
    sqlite.end(false);

    assert_eq!((sqlite.host.calls(), sqlite.host.held.len()), (2, 0));
}

#[test]
fn an_insert_takes_four_calls_for_its_locks() {
    let mut sqlite = Sqlite::new();
    sqlite.insert();
    sqlite.end(false);

    assert_eq!((sqlite.host.calls(), sqlite.host.held.len()), (4, 0));
}

#[test]
fn queued_statements_share_the_calls() {
    let mut sqlite = Sqlite::new();
    sqlite.insert();
    sqlite.end(true);
    sqlite.host.calls();

    for _ in 0..10 {
        sqlite.insert();
        sqlite.end(true);
    }
    assert_eq!(sqlite.host.calls(), 20, "the mark moves each time");
    sqlite.end(false);
    assert!(sqlite.host.held.is_empty());
}

#[test]
fn queued_statements_do_not_keep_others_out_for_long() {
    let mut sqlite = Sqlite::new();
    for _ in 0..2 {
        sqlite.insert();
        sqlite.end(true);
        assert!(!sqlite.host.held.is_empty());
        sqlite.host.now += LONGEST / 2 + Duration::from_micros(1);
    }
    sqlite.insert();
    sqlite.end(true);

    assert!(sqlite.host.held.is_empty());
}

#[test]
fn a_mark_is_moved_without_letting_go_of_it() {
    let mut sqlite = Sqlite::new();
    sqlite.lock(MARK_1, EXCLUSIVE).unwrap();
    sqlite.unlock(MARK_1, EXCLUSIVE);
    assert_eq!(sqlite.host.index(), [MARK_1], "nobody else can move it");

    sqlite.lock(MARK_1, SHARED).unwrap();

    assert_eq!(sqlite.host.calls(), 2);
}

#[test]
fn a_kept_mark_that_others_read_is_not_moved() {
    let mut sqlite = Sqlite::new();
    sqlite.lock(MARK_1, SHARED).unwrap();
    sqlite.unlock(MARK_1, SHARED);
    sqlite.host.in_the_way.push(MARK_1);

    assert_eq!(sqlite.read(), MARK_2);

    sqlite.unlock(MARK_2, SHARED);
    sqlite.end(false);
    assert!(sqlite.host.held.is_empty());
}

#[test]
fn a_checkpoint_finds_our_own_marks_free_and_unlocks_at_once() {
    let mut sqlite = Sqlite::new();
    sqlite.insert();
    sqlite.lock(CHECKPOINT_LOCK, EXCLUSIVE).unwrap();
    assert_eq!(sqlite.host.index(), [CHECKPOINT_LOCK]);

    sqlite.lock(MARK_1, EXCLUSIVE).unwrap();
    sqlite.unlock(MARK_1, EXCLUSIVE);
    assert_eq!(sqlite.host.index(), [CHECKPOINT_LOCK]);

    sqlite.unlock(CHECKPOINT_LOCK, EXCLUSIVE);
    assert!(sqlite.host.held.is_empty());
}

#[test]
fn starting_the_wal_anew_keeps_what_sqlite_believes_to_hold() {
    let mut sqlite = Sqlite::new();
    sqlite.insert();
    sqlite.end(true);
    sqlite.lock(MARK_0, SHARED).unwrap();
    sqlite.lock(WRITER_LOCK, EXCLUSIVE).unwrap();
    let flags = LOCK | EXCLUSIVE;
    sqlite
        .ask(LockRequest {
            flags,
            ..MARKS_FROM_1
        })
        .unwrap();
    let flags = UNLOCK | EXCLUSIVE;
    sqlite
        .ask(LockRequest {
            flags,
            ..MARKS_FROM_1
        })
        .unwrap();

    assert_eq!(sqlite.host.index(), [WRITER_LOCK, MARK_0]);
}

#[test]
fn the_writers_lock_is_not_kept_where_no_transaction_has_ended() {
    let mut sqlite = Sqlite::new();
    sqlite.lock(WRITER_LOCK, EXCLUSIVE).unwrap();
    sqlite.unlock(WRITER_LOCK, EXCLUSIVE);

    assert!(
        sqlite.host.held.is_empty(),
        "a reader has looked at the index's header"
    );
}

#[test]
fn a_statement_runs_under_no_lock_that_it_does_not_need() {
    let mut sqlite = Sqlite::new();
    sqlite.insert();
    sqlite.end(true);

    sqlite
        .locks
        .before_statement(Needs::Reads, &mut sqlite.host);
    assert_eq!(sqlite.host.index(), [MARK_1]);
    sqlite
        .locks
        .before_statement(Needs::Nothing, &mut sqlite.host);
    assert!(sqlite.host.held.is_empty());
}

#[test]
fn a_lock_of_another_database_ends_what_is_kept() {
    let mut sqlite = Sqlite::new();
    sqlite.insert();
    sqlite.end(true);

    sqlite
        .locks
        .share_file(OTHER, &mut sqlite.host)
        .expect("nobody is in the way");

    assert!(sqlite.host.index().is_empty());
}

#[test]
fn facts_hold_while_the_lock_does() {
    let mut sqlite = Sqlite::new();
    let (locks, host) = (&mut sqlite.locks, &mut sqlite.host);
    locks.share_file(DATABASE, host).unwrap();
    assert!(locks.facts(DATABASE).is_some());
    assert!(locks.is_missing(b"/x.db-journal"));
    assert!(!locks.is_missing(b"/x.db-wal"), "it may be there");
    assert!(!locks.is_missing(b"/y.db-journal"), "another database's");

    assert!(locks.unshare_file(DATABASE));
    assert!(locks.facts(DATABASE).is_none(), "no lock of SQLite's");
    locks.share_file(DATABASE, host).unwrap();
    assert_eq!(host.calls(), 1);
    assert!(locks.facts(DATABASE).is_some());

    locks.forget_facts(DATABASE);
    assert!(locks.facts(DATABASE).is_none());
    assert!(!locks.is_missing(b"/x.db-journal"));

    assert!(locks.unshare_file(DATABASE));
    locks.share_file(DATABASE, host).unwrap();
    assert!(locks.facts(DATABASE).is_some(), "asked anew");
    assert_eq!(host.calls(), 1);

    assert!(locks.unshare_file(DATABASE));
    locks.give_back(host);
    assert!(host.held.is_empty());
    assert!(!locks.is_missing(b"/x.db-journal"));
}

#[test]
fn what_the_host_does_not_take_back_is_offered_again() {
    let mut sqlite = Sqlite::new();
    sqlite.lock(MARK_1, SHARED).unwrap();
    sqlite.unlock(MARK_1, SHARED);
    sqlite.host.fails = true;
    let given_back = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| sqlite.end(false)));
    assert!(given_back.is_err(), "it is logged, and here is no log");
    sqlite.host.fails = false;

    sqlite.end(false);

    assert!(sqlite.host.held.is_empty());
}

#[test]
fn what_the_host_does_not_take_back_ends_with_its_index() {
    let mut sqlite = Sqlite::new();
    sqlite.lock(MARK_1, SHARED).unwrap();
    sqlite.unlock(MARK_1, SHARED);
    sqlite.host.held.clear();
    sqlite.locks.close_index(DATABASE);

    sqlite.lock(MARK_1, SHARED).unwrap();

    assert_eq!(sqlite.host.index(), [MARK_1]);
}

/// Any order of reads, writes, checkpoints and new logs: SQLite holds what it believes to hold, and at the end
/// nothing else is held.
#[test]
fn random_schedules_end_without_a_lock() {
    for seed in 0..500_u64 {
        let mut sqlite = Sqlite::new();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for _ in 0..60 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let chance = state >> 33;
            sqlite.host.in_the_way = [MARK_1, MARK_2][..(chance % 3) as usize].to_vec();
            sqlite.host.now += Duration::from_millis(chance % 4);
            match chance / 3 % 4 {
                0 => {
                    let mark = sqlite.read();
                    sqlite.unlock(mark, SHARED);
                }
                1 => sqlite.insert(),
                2 => {
                    sqlite.lock(MARK_0, SHARED).unwrap();
                    sqlite.lock(WRITER_LOCK, EXCLUSIVE).unwrap();
                    for flags in [LOCK | EXCLUSIVE, UNLOCK | EXCLUSIVE] {
                        if sqlite
                            .ask(LockRequest {
                                flags,
                                ..MARKS_FROM_1
                            })
                            .is_err()
                        {
                            break;
                        }
                    }
                    sqlite.unlock(WRITER_LOCK, EXCLUSIVE);
                    sqlite.unlock(MARK_0, SHARED);
                }
                _ => {
                    sqlite.lock(CHECKPOINT_LOCK, EXCLUSIVE).unwrap();
                    if sqlite.lock(MARK_2, EXCLUSIVE).is_ok() {
                        sqlite.unlock(MARK_2, EXCLUSIVE);
                    }
                    sqlite.unlock(CHECKPOINT_LOCK, EXCLUSIVE);
                    assert!(sqlite.host.held.is_empty());
                }
            }
            let queued = chance / 12 % 3 != 0;
            sqlite.end(queued);
            assert!(queued || sqlite.host.held.is_empty());
        }
    }
}

#[test]
fn a_read_with_its_lock_taken_before_makes_no_call() {
    let mut sqlite = Sqlite::new();
    sqlite.prelock(&[], &[MARK_1], false);
    sqlite.lock(MARK_1, SHARED).unwrap();
    sqlite.unlock(MARK_1, SHARED);

    assert_eq!(sqlite.end_before_waiting_host(), Some(1 << MARK_1));
    assert_eq!((sqlite.host.calls(), sqlite.host.held.len()), (0, 0));
    assert!(sqlite.locks.is_empty());
}

#[test]
fn a_file_that_was_shared_before_is_known_as_it_was_then() {
    let mut sqlite = Sqlite::new();
    sqlite.prelock(&[], &[], true);
    sqlite.locks.share_file(DATABASE, &mut sqlite.host).unwrap();
    let facts = sqlite.locks.facts(DATABASE).expect("it is locked");
    assert!(sqlite.locks.unshare_file(DATABASE));

    assert_eq!((facts.size_bytes, facts.companions), (8192, 0));
    assert_eq!(sqlite.end_before_waiting_host(), Some(abi::LOCKS_FILE));
    assert!(sqlite.locks.facts(DATABASE).is_none());
    assert_eq!((sqlite.host.calls(), sqlite.host.held.len()), (0, 0));
}

#[test]
fn the_size_is_known_while_the_first_mark_is_held() {
    let mut sqlite = Sqlite::new();
    let size_bytes = |sqlite: &mut Sqlite| Some(sqlite.locks.facts(DATABASE)?.size_bytes);
    sqlite.lock(MARK_0, SHARED).unwrap();
    assert_eq!(size_bytes(&mut sqlite), Some(4096));
    assert!(!sqlite.locks.is_missing(b"/x.db-wal"));
    assert!(!sqlite.locks.is_missing(b"/x.db-journal"));

    sqlite.lock(MARK_1, SHARED).unwrap();
    sqlite.unlock(MARK_1, SHARED);
    sqlite.unlock(MARK_0, SHARED);
    sqlite.end(true);
    sqlite.lock(MARK_0, SHARED).unwrap();
    assert_eq!(size_bytes(&mut sqlite), Some(4096), "held without a break");
    assert_eq!(sqlite.host.calls(), 2);

    sqlite.locks.forget_facts(DATABASE);
    assert_eq!(size_bytes(&mut sqlite), None, "changed by us");

    sqlite.unlock(MARK_0, SHARED);
    sqlite.end(false);
    sqlite.lock(MARK_0, SHARED).unwrap();
    assert_eq!(size_bytes(&mut sqlite), Some(4096), "asked anew");

    sqlite.unlock(MARK_0, SHARED);
    sqlite.end(false);
    sqlite.lock(MARK_1, SHARED).unwrap();
    assert_eq!(size_bytes(&mut sqlite), None, "a checkpoint may change it");
}

#[test]
fn the_size_is_known_under_a_first_mark_taken_before() {
    let mut sqlite = Sqlite::new();
    sqlite.prelock(&[], &[MARK_0], false);
    sqlite.lock(MARK_0, SHARED).unwrap();
    let facts = sqlite.locks.facts(DATABASE).expect("no checkpoint runs");
    assert_eq!(facts.size_bytes, 8192);
    sqlite.unlock(MARK_0, SHARED);

    assert_eq!(sqlite.end_before_waiting_host(), Some(1 << MARK_0));
    assert!(sqlite.locks.facts(DATABASE).is_none());
    assert_eq!(sqlite.host.calls(), 0);

    sqlite.prelock(&[], &[MARK_1], false);
    assert!(sqlite.locks.facts(DATABASE).is_none(), "of another mark");
}

#[test]
fn an_insert_with_its_locks_taken_before_asks_once_to_share_its_mark() {
    let mut sqlite = Sqlite::new();
    sqlite.prelock(&[MARK_1, WRITER_LOCK], &[], false);
    sqlite.insert();

    let dropped = sqlite.end_before_waiting_host();
    assert_eq!(dropped, Some(1 << MARK_1 | 1 << WRITER_LOCK));
    assert_eq!((sqlite.host.calls(), sqlite.host.held.len()), (1, 0));
}

#[test]
fn locks_taken_before_that_a_statement_does_not_need_go_back_before_it() {
    let mut sqlite = Sqlite::new();
    sqlite.prelock(&[WRITER_LOCK], &[MARK_1], false);
    sqlite
        .locks
        .before_statement(Needs::Reads, &mut sqlite.host);
    assert_eq!(sqlite.host.index(), [MARK_1]);

    sqlite
        .locks
        .before_statement(Needs::Nothing, &mut sqlite.host);
    assert_eq!((sqlite.host.held.len(), sqlite.locks.is_empty()), (0, true));
}

#[test]
fn locks_that_a_transaction_still_holds_stay() {
    let mut sqlite = Sqlite::new();
    sqlite.prelock(&[], &[MARK_1], false);
    sqlite.lock(MARK_1, SHARED).unwrap();

    assert_eq!(sqlite.end_before_waiting_host(), None);
    assert_eq!(sqlite.host.index(), [MARK_1]);
}

#[test]
fn locks_on_two_databases_go_back_by_calls() {
    let mut sqlite = Sqlite::new();
    sqlite.prelock(&[], &[MARK_1], false);
    sqlite.locks.share_file(OTHER, &mut sqlite.host).unwrap();
    sqlite.prelock(&[], &[MARK_1], false);
    assert!(sqlite.locks.unshare_file(OTHER));

    assert_eq!(sqlite.end_before_waiting_host(), None);
    assert_eq!(sqlite.host.held.len(), 0);
}

#[test]
fn locks_whose_release_may_block_go_back_by_calls() {
    let mut sqlite = Sqlite::new();
    sqlite.locks.share_file(OTHER, &mut sqlite.host).unwrap();
    assert!(sqlite.locks.unshare_file(OTHER));

    assert_eq!(sqlite.end_before_waiting_host(), None);
    assert_eq!(sqlite.host.held.len(), 0);
}
