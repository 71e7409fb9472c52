//! Which frame is next: those whose pieces are all here, and the work that waits for none.
//!
//! The queue holds numbers only, at most one per frame, so announcing a piece never waits for the
//! disk. It owns the state of the whole job: open, closed, failed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::plan::Plan;
use super::{Error, Result};
use crate::base::{Bitmap, PieceIndex};

/// What a worker does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Unpack this frame.
    Frame(u32),
    /// Do these steps of the sink.
    Loose(Range<usize>),
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Pieces that were announced.
    pieces: Bitmap,
    /// How many pieces each frame still waits for.
    missing: Vec<u16>,
    ready: VecDeque<u32>,
    frames_undone: usize,
    loose: Range<usize>,
    is_closed: bool,
    failure: Option<Error>,
    has_failed: bool,
}

impl Queue {
    /// Starts with nothing ready but the loose steps.
    pub(super) fn new(plan: &Plan, loose_count: usize) -> Self {
        let frames = 0..u32::try_from(plan.frame_count()).unwrap_or(u32::MAX);
        let missing = frames
            .map(|frame| u16::try_from(plan.pieces_of(frame).len()).unwrap_or(u16::MAX))
            .collect();
        Self {
            state: Mutex::new(State {
                pieces: Bitmap::new(plan.piece_count()),
                missing,
                ready: VecDeque::new(),
                frames_undone: plan.frame_count(),
                loose: 0..loose_count,
                is_closed: false,
                failure: None,
                has_failed: false,
            }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn piece_ready(&self, plan: &Plan, piece: PieceIndex) {
        let mut state = self.state();
        if piece.as_usize() >= plan.piece_count() || !state.pieces.set(piece.as_usize()) {
            return;
        }
        for frame in plan.frames_of(piece) {
            state.missing[frame] -= 1;
            if state.missing[frame] == 0 {
                #[expect(clippy::cast_possible_truncation, reason = "frames are counted by u32")]
                state.ready.push_back(frame as u32);
                self.changed.notify_one();
            }
        }
    }

    /// Waits for the next work. `None` when there is and will be none.
    pub(super) fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if state.has_failed {
                return None;
            }
            if let Some(frame) = state.ready.pop_front() {
                return Some(Work::Frame(frame));
            }
            if !state.loose.is_empty() {
                let start = state.loose.start;
                let end = state.loose.end.min(start + LOOSE_STEPS);
                state.loose.start = end;
                return Some(Work::Loose(start..end));
            }
            if state.is_closed {
                return None;
            }
            let waited = self.changed.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn frame_done(&self) {
        self.state().frames_undone -= 1;
    }

    /// Ends the job with an error; the first one stays.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.state();
        state.has_failed = true;
        state.failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Ends the job; nobody wants to know why.
    pub(super) fn abandon(&self) {
        self.state().has_failed = true;
        self.changed.notify_all();
    }

    /// Tells that no piece will be announced any more.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    /// How the work of the ended workers went.
    pub(super) fn outcome(&self) -> Result {
        let mut state = self.state();
        match state.failure.take() {
            Some(error) => Err(error),
            None if state.frames_undone > 0 => Err(Error::Incomplete(state.frames_undone)),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A worker that panics holds no lock; the frame that it leaves undone is noticed at the
        // end.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many loose steps are taken at once.
const LOOSE_STEPS: usize = 64;
/// The longest sleep without a look around.
const PATIENCE: Duration = Duration::from_secs(1);
