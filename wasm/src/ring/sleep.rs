//! How the guest sleeps when there is nothing to do, and how it tells the host that something was done.
//!
//! Both are imports, and wait for the GIL, unless the host knows something better: then it puts a function that runs no
//! Python into the table, to sleep, and makes the standard output a pipe, to ring by writing to it.

use crate::host::{self, Parked};
use crate::ring::Control;

/// Sleeps until there is news; `false` if the host wants the guest to leave.
///
/// The host writes its news and then looks whether the guest is parked, the guest says that it is parked and then
/// looks for news: one of the two sees the other.
pub fn park(control: &Control, reason: i32, has_news: impl Fn() -> bool) -> bool {
    let Some(sleep) = host::table_function(control.sleep_function()) else {
        return host::park(reason) != Parked::Leave;
    };
    control.set_parked(true);
    if !control.is_stopped() && !has_news() {
        sleep(); // it may end without news: whoever calls looks again
    }
    control.set_parked(false);
    !control.is_stopped()
}

/// Tells the host that a reply is there.
pub fn ring(control: &Control) {
    if !(control.rings_by_writing() && host::write_output(&[1])) {
        host::bell();
    }
}

/// Writes nothing: the host's WASI then has what it needs to write, and does not look for it when there is none.
pub fn prepare_bell() {
    // Where that fails, ringing fails, and the import is called instead.
    host::write_output(&[]);
}
