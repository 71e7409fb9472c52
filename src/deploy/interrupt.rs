//! SIGINT and SIGTERM become something that a job can wait for.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::error::{Kind, OrKind as _, Result};

/// The user's wish to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: the service manager.
    Terminate,
}

/// Remembers the first signal and wakes who waits for it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<(Mutex<Option<Stop>>, Condvar)>);

impl Interrupt {
    /// Starts to listen, on a thread that lasts as long as the process.
    ///
    /// # Errors
    /// If the handlers or the thread cannot be had.
    pub fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let heard = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .or_kind(Kind::Internal)?;
        let guard = runtime.enter();
        let mut interrupts = signal(SignalKind::interrupt()).or_kind(Kind::Internal)?;
        let mut terms = signal(SignalKind::terminate()).or_kind(Kind::Internal)?;
        drop(guard);
        let listen = move || {
            runtime.block_on(async {
                loop {
                    let stop = tokio::select! {
                        _ = interrupts.recv() => Stop::Interrupt,
                        _ = terms.recv() => Stop::Terminate,
                    };
                    heard.raise(stop);
                }
            });
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(listen)
            .or_kind(Kind::Internal)?;
        Ok(interrupt)
    }

    fn raise(&self, stop: Stop) {
        let mut first = self.0.0.lock().unwrap_or_else(|broken| broken.into_inner());
        first.get_or_insert(stop);
        self.0.1.notify_all();
    }

    /// The signal, if there was one.
    #[must_use]
    pub fn get(&self) -> Option<Stop> {
        self.wait(Duration::ZERO)
    }

    /// Waits for a signal, `patience` at most.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Option<Stop> {
        let until = Instant::now() + patience;
        let mut first = self.0.0.lock().unwrap_or_else(|broken| broken.into_inner());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if first.is_some() || left.is_zero() {
                return *first;
            }
            first = self
                .0
                .1
                .wait_timeout(first, left)
                .unwrap_or_else(|broken| broken.into_inner())
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_is_remembered() {
        let interrupt = Interrupt::default();
        assert_eq!(interrupt.get(), None);
        interrupt.raise(Stop::Terminate);
        interrupt.raise(Stop::Interrupt);
        assert_eq!(
            interrupt.wait(Duration::from_secs(9)),
            Some(Stop::Terminate)
        );
    }
}
