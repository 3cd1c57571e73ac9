//! The writer's lock, kept only by who is alone with the database: others would find it taken.

use std::time::Instant;

use super::{EXCLUSIVE, Keeper, LOCK, LONGEST, UNLOCK, WRITER, Wish, give_back, is_over};
use crate::host::{Code, Fd};

struct Held {
    fd: Fd,
    taken: Instant,
    idle: bool,
    is_kept: bool,
    epoch: u64,
}

#[derive(Default)]
pub struct Writer {
    held: Option<Held>,
    /// Somebody else used the index; not asked again before.
    crowded_until: Option<Instant>,
    epochs: u64,
}

impl Writer {
    pub const fn new() -> Self {
        Self {
            held: None,
            crowded_until: None,
            epochs: 0,
        }
    }

    /// SQLite wants to write.
    pub fn take(&mut self, fd: Fd, keeper: &mut impl Keeper) -> Result<(), Code> {
        let wish = Wish::one(WRITER, EXCLUSIVE | LOCK);
        if let Some(held) = &mut self.held {
            if held.fd == fd && held.idle && !is_over(held.taken, keeper.now()) {
                held.idle = false;
                return Ok(());
            }
            if !held.idle {
                return keeper.ask(fd, wish); // another database's, in use
            }
        }
        self.end(keeper);
        keeper.ask(fd, wish)?;
        self.epochs += 1;
        self.held = Some(Held {
            fd,
            taken: keeper.now(),
            idle: false,
            is_kept: self.is_alone(fd, keeper),
            epoch: self.epochs,
        });
        Ok(())
    }

    fn is_alone(&mut self, fd: Fd, keeper: &mut impl Keeper) -> bool {
        let now = keeper.now();
        if self.crowded_until.is_some_and(|until| now < until) {
            return false;
        }
        let alone = keeper.is_alone(fd);
        self.crowded_until = (!alone).then(|| now + LONGEST);
        alone
    }

    /// SQLite has written: whether the lock is kept, so that the host must not be told.
    pub fn keep(&mut self, fd: Fd) -> bool {
        match &mut self.held {
            Some(held) if held.fd == fd && held.is_kept => held.idle = true,
            Some(held) if held.fd == fd => {
                self.held = None;
                return false;
            }
            _ => return false,
        }
        true
    }

    /// Whether the lock's time was over and begins anew: who is still alone with the database need not give back
    /// what it would take again at once.
    pub fn renew(&mut self, fd: Fd, keeper: &mut impl Keeper) -> bool {
        let now = keeper.now();
        let is_due = |held: &&mut Held| held.fd == fd && held.idle && is_over(held.taken, now);
        if self.held.as_mut().filter(is_due).is_none() {
            return false;
        }
        if !self.is_alone(fd, keeper) {
            self.end(keeper);
            return false;
        }
        self.held.iter_mut().for_each(|held| held.taken = now);
        true
    }

    pub fn is_over(&self, now: Instant) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| is_over(held.taken, now))
    }

    /// Gives the lock back if no statement uses it.
    pub fn end(&mut self, keeper: &mut impl Keeper) {
        if let Some(held) = self.held.take_if(|held| held.idle) {
            give_back(keeper, held.fd, Wish::one(WRITER, EXCLUSIVE | UNLOCK));
        }
    }

    pub fn epoch(&self, fd: Fd) -> Option<u64> {
        let held = self.held.as_ref()?;
        (held.fd == fd && !held.idle).then_some(held.epoch)
    }
}
