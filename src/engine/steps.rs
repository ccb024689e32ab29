//! Counts what the engine's searches look at, in debug builds, so that a test can tell how work grows without a clock.

/// Notes that an entry of a table was looked at. Costs nothing in a release build.
#[inline]
pub(crate) fn count() {
    #[cfg(debug_assertions)]
    counter::TAKEN.with(|taken| taken.set(taken.get() + 1));
}

/// Entries that this thread has looked at so far; 0 in a release build.
#[must_use]
pub fn taken() -> u64 {
    #[cfg(debug_assertions)]
    return counter::TAKEN.with(std::cell::Cell::get);
    #[cfg(not(debug_assertions))]
    return 0;
}

#[cfg(debug_assertions)]
mod counter {
    thread_local! {
        pub(super) static TAKEN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }
}
