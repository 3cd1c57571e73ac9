//! How the guest sleeps when it is idle, and how it notifies the host.
//!
//! Both are imports, which wait for the GIL, unless the host provides something better: a function in the table
//! that sleeps without running Python, and a pipe as the standard output, so that the guest rings by writing.

use crate::host::{self, Parked};
use crate::ring::Control;

/// Sleeps until there is news; `false` if the host wants the guest to stop.
///
/// The host writes its news and then checks whether the guest is parked; the guest announces that it is parked and
/// then checks for news. So one of the two sees the other.
pub fn park(control: &Control, reason: i32, has_news: impl Fn() -> bool) -> bool {
    let Some(sleep) = host::table_function(control.sleep_function()) else {
        return host::park(reason) != Parked::Stop;
    };
    control.set_parked(true);
    if !control.is_stopped() && !has_news() {
        sleep(); // it may end without news: the caller checks again
    }
    control.set_parked(false);
    !control.is_stopped()
}

/// Notifies the host that a reply is ready.
pub fn ring(control: &Control) {
    if !(control.rings_by_writing() && host::write_output(&[1])) {
        host::bell();
    }
}

/// Writes zero bytes, so that the host's WASI sets up its output early, before resources may run out.
pub fn prepare_bell() {
    // If this fails, ringing fails too, and the import is called instead.
    host::write_output(&[]);
}
