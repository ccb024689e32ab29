//! Whether the bridge takes events: not while it starts, and not while it drains. Never because the Collector is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The state, shared between the app, which sets it, and the admin port, which shows it.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<AtomicU8>,
}

/// Where the bridge is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not every part is there yet.
    Starting,
    /// Workers are served.
    Serving,
    /// No new workers; what is open is closed and exported.
    Draining,
}

impl Readiness {
    /// A bridge that starts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says where the bridge is.
    pub fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Where the bridge is.
    #[must_use]
    pub fn state(&self) -> State {
        let state = self.state.load(Ordering::Acquire);
        [State::Starting, State::Serving, State::Draining]
            .into_iter()
            .find(|candidate| *candidate as u8 == state)
            .expect("only `set` writes it")
    }
}
