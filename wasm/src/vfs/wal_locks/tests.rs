//! Schedules as SQLite makes them, against a host that notes what it is asked.

use core::time::Duration;
use std::collections::BTreeMap;

use std::time::Instant;

use super::*;
use crate::host::{Code, Fd};

const DATABASE: Fd = Fd::new(1);
const MARK_1: c_int = FIRST_MARK + 1;
const MARK_2: c_int = FIRST_MARK + 2;

/// A host with one index: what is locked for us, and what is in our way.
struct Played {
    held: BTreeMap<c_int, c_int>,
    taken_by_others: Vec<c_int>,
    asked: Vec<Wish>,
    alone: bool,
    frames: u32,
    now: Instant,
}

impl Played {
    fn new() -> Self {
        Self {
            held: BTreeMap::new(),
            taken_by_others: Vec::new(),
            asked: Vec::new(),
            alone: true,
            frames: 10,
            now: Instant::now(),
        }
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    fn asked(&mut self) -> usize {
        core::mem::take(&mut self.asked).len()
    }
}

impl Keeper for Played {
    fn ask(&mut self, _fd: Fd, wish: Wish) -> Result<(), Code> {
        self.asked.push(wish);
        let mut locks = wish.first..wish.first + wish.count;
        if wish.flags & UNLOCK != 0 {
            locks.for_each(|lock| assert!(self.held.remove(&lock).is_some(), "{wish:?}"));
            return Ok(());
        }
        if locks.any(|lock| self.taken_by_others.contains(&lock)) {
            return Err(BUSY);
        }
        let kind = wish.flags & (SHARED | EXCLUSIVE);
        let locks = wish.first..wish.first + wish.count;
        self.held.extend(locks.map(|lock| (lock, kind)));
        Ok(())
    }

    fn is_alone(&mut self, _fd: Fd) -> bool {
        self.asked.push(Wish::one(-1, 0));
        self.alone
    }

    fn frames(&self) -> u32 {
        self.frames
    }

    fn now(&self) -> Instant {
        self.now
    }
}

fn wish(locks: &mut WalLocks, host: &mut Played, lock: c_int, flags: c_int) -> Result<(), Code> {
    locks.lock(DATABASE, Wish::one(lock, flags), host)
}

/// What SQLite asks for to read up to a mark that it has to move first; returns the mark it got.
fn read(locks: &mut WalLocks, host: &mut Played) -> c_int {
    let moved = (MARK_1..MARK_1 + 4)
        .find(|mark| wish(locks, host, *mark, EXCLUSIVE | LOCK).is_ok())
        .inspect(|mark| wish(locks, host, *mark, EXCLUSIVE | UNLOCK).unwrap());
    let mark = moved.unwrap_or(MARK_2);
    wish(locks, host, mark, SHARED | LOCK).unwrap();
    mark
}

fn end_read(locks: &mut WalLocks, host: &mut Played, mark: c_int) {
    wish(locks, host, mark, SHARED | UNLOCK).unwrap();
}

#[test]
fn reads_in_a_row_ask_once() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    let mark = read(&mut locks, &mut host);
    end_read(&mut locks, &mut host, mark);
    assert_eq!(host.asked(), 3);

    for _ in 0..10 {
        let mark = read(&mut locks, &mut host);
        assert_eq!(mark, MARK_2, "all seem busy: the best one is lent");
        end_read(&mut locks, &mut host, mark);
    }

    assert_eq!(host.asked(), 0);
    assert_eq!(host.held, BTreeMap::from([(MARK_1, SHARED)]));
    locks.give_back(&mut host);
    assert!(host.held.is_empty());
}

#[test]
fn a_mark_is_given_back_when_its_time_is_over() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    let mark = read(&mut locks, &mut host);
    host.wait(6);
    locks.give_back_old(&mut host);
    assert_eq!(host.held.len(), 1, "it is in use");

    end_read(&mut locks, &mut host, mark);
    locks.give_back_old(&mut host);

    assert!(host.held.is_empty());
}

#[test]
fn nothing_is_lent_where_the_wal_waits_for_a_checkpoint() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    let mark = read(&mut locks, &mut host);
    end_read(&mut locks, &mut host, mark);
    host.frames = marks::LONG_WAL_FRAMES;
    host.asked();

    assert_eq!(read(&mut locks, &mut host), MARK_1);

    assert!(host.asked() >= 3);
}

#[test]
fn mark_0_stands_in_for_no_other() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    wish(&mut locks, &mut host, FIRST_MARK, SHARED | LOCK).unwrap();
    end_read(&mut locks, &mut host, FIRST_MARK);

    let mark = read(&mut locks, &mut host);

    assert_eq!(host.held, BTreeMap::from([(mark, SHARED)]));
}

#[test]
fn a_checkpoint_finds_our_own_marks_free() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    let mark = read(&mut locks, &mut host);
    end_read(&mut locks, &mut host, mark);
    wish(&mut locks, &mut host, CHECKPOINT, EXCLUSIVE | LOCK).unwrap();

    wish(&mut locks, &mut host, MARK_1, EXCLUSIVE | LOCK).unwrap();

    assert_eq!(
        host.held,
        BTreeMap::from([(CHECKPOINT, EXCLUSIVE), (MARK_1, EXCLUSIVE)])
    );
}

#[test]
fn starting_the_wal_anew_keeps_what_sqlite_believes_to_hold() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    let mark = read(&mut locks, &mut host);
    end_read(&mut locks, &mut host, mark);
    wish(&mut locks, &mut host, FIRST_MARK, SHARED | LOCK).unwrap();
    assert!(
        !host.held.contains_key(&FIRST_MARK),
        "another one stands in"
    );

    let all = Wish {
        first: MARK_1,
        count: 4,
        flags: EXCLUSIVE | LOCK,
    };
    locks.lock(DATABASE, all, &mut host).unwrap();
    let flags = EXCLUSIVE | UNLOCK;
    locks
        .lock(DATABASE, Wish { flags, ..all }, &mut host)
        .unwrap();

    assert_eq!(host.held, BTreeMap::from([(FIRST_MARK, SHARED)]));
}

fn write(locks: &mut WalLocks, host: &mut Played) -> Result<Option<u64>, Code> {
    wish(locks, host, WRITER, EXCLUSIVE | LOCK)?;
    let epoch = locks.writer_epoch(DATABASE);
    wish(locks, host, WRITER, EXCLUSIVE | UNLOCK).map(|()| epoch)
}

#[test]
fn who_is_alone_keeps_the_writers_lock() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    let first = write(&mut locks, &mut host);
    host.asked();

    for _ in 0..10 {
        assert_eq!(write(&mut locks, &mut host), first);
    }

    assert_eq!(host.asked(), 0);
    assert_eq!(locks.writer_epoch(DATABASE), None, "no statement holds it");
    locks.give_back(&mut host);
    assert!(host.held.is_empty());
    assert_ne!(write(&mut locks, &mut host), first);
}

#[test]
fn who_stays_alone_asks_for_nothing_else() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    let first = write(&mut locks, &mut host);
    host.wait(6);
    host.asked();

    assert_eq!(write(&mut locks, &mut host), first);

    assert_eq!(host.asked(), 1);
}

#[test]
fn who_is_not_alone_gives_the_writers_lock_back_at_once() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    write(&mut locks, &mut host).unwrap();
    host.alone = false;
    host.wait(6);

    for _ in 0..3 {
        write(&mut locks, &mut host).unwrap();
        assert!(host.held.is_empty());
    }

    host.alone = true;
    host.wait(6);
    write(&mut locks, &mut host).unwrap();
    assert_eq!(host.held.len(), 1);
}

#[test]
fn a_lock_of_others_is_in_the_way() {
    let (mut locks, mut host) = (WalLocks::new(), Played::new());
    host.taken_by_others.push(WRITER);

    assert_eq!(write(&mut locks, &mut host), Err(BUSY));

    host.taken_by_others.clear();
    assert!(write(&mut locks, &mut host).is_ok());
}
