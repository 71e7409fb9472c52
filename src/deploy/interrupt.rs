//! SIGINT and SIGTERM become something that a job can wait for.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::error::{Kind, OrKind as _, Result};
use super::runtime::Runtime;

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
        let runtime = Runtime::start("signals")?;
        let listening = runtime.run(async move || listen(&heard))?;
        listening.or_kind(Kind::Internal)?;
        runtime.leave();
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

/// Takes the signals over and hears them in a task of its own.
fn listen(heard: &Interrupt) -> std::io::Result<()> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terms = signal(SignalKind::terminate())?;
    let heard = heard.clone();
    drop(tokio::task::spawn_local(async move {
        loop {
            let stop = tokio::select! {
                _ = interrupts.recv() => Stop::Interrupt,
                _ = terms.recv() => Stop::Terminate,
            };
            heard.raise(stop);
        }
    }));
    Ok(())
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
