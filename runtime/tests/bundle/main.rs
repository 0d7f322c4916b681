//! The bundle file from outside: what is written comes back, and whatever else a file holds gives an error that names the wrong field.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod attacks;
mod damage;
mod fixture;
mod round_trip;
mod writer;

#[path = "../support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};

/// Ends the test program when code asks for more memory at once than any file here could justify.
struct Capped;

#[global_allocator]
static ALLOCATOR: Capped = Capped;

/// Largest single allocation; the longest header is a quarter of it.
const CAP: usize = 64 << 20;

// SAFETY: forwards to the system allocator; a refusal is a null pointer, as the trait demands.
unsafe impl GlobalAlloc for Capped {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > CAP {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about `ptr` and `layout` is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}
