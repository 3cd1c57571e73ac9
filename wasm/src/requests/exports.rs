//! The functions that the host calls (docs/abi.md, "Exports").

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::panic;

use crate::abi;
use crate::callbacks::argument_block;
use crate::host;
use crate::requests::service;
use crate::ring::Rings;
use crate::ring::sleep;

static RINGS: AtomicPtr<Rings> = AtomicPtr::new(ptr::null_mut());

/// The rings of this instance, allocated by the first call.
fn rings() -> &'static Rings {
    let mut rings = RINGS.load(Ordering::Relaxed);
    if rings.is_null() {
        rings = Box::leak(Box::new(Rings::allocate(
            abi::REQUEST_RING_BYTES,
            abi::REPLY_RING_BYTES,
            argument_block::address(),
        )));
        RINGS.store(rings, Ordering::Relaxed);
    }
    // SAFETY: leaked above, never changed or freed, and an instance runs on one thread.
    unsafe { &*rings }
}

#[unsafe(no_mangle)]
pub extern "C" fn rapsqlite_abi_version() -> u32 {
    abi::ABI_VERSION
}

/// The address of the control block.
#[unsafe(no_mangle)]
pub extern "C" fn rapsqlite_control() -> u32 {
    ptr::from_ref(rings().control) as usize as u32
}

/// Called once per process, by a guest whose standard output is a pipe.
#[unsafe(no_mangle)]
pub extern "C" fn rapsqlite_prepare_bell() {
    sleep::prepare_bell();
}

/// Returns 0 once `CLOSE` was answered or the host wants the guest to stop.
#[unsafe(no_mangle)]
pub extern "C" fn rapsqlite_run() -> i32 {
    // The trap that follows a panic carries no message.
    panic::set_hook(Box::new(|info| {
        host::log(format!("the guest panicked: {info}").as_bytes())
    }));
    service::serve(rings());
    0
}
