//! The pieces of a bundle under way, hashed for BitTorrent by the pool's workers, in the same pass.
//!
//! The writer copies what it writes into the piece under way. Full pieces go to the workers; while
//! as many are out as the limit allows, the writer hashes the next one itself, so it never waits
//! for workers that wait for it. Bounded by [`pieces_out_max`] pieces and the one under way.

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::swarm::hash::{BLOCK_BYTES, width_log2};
use crate::swarm::metainfo::{Forms, PieceHashes};

/// The pieces of a bundle under way.
#[derive(Debug)]
pub(super) struct Cutter {
    piece_size: usize,
    /// The piece under way.
    piece: Vec<u8>,
    jobs: Sender<PieceJob>,
    jobs_in: Receiver<PieceJob>,
    out_max: usize,
    out: usize,
    hashes: Vec<PieceHashes>,
    spare: Vec<Vec<u8>>,
}

/// A full piece that is to be hashed.
#[derive(Debug)]
pub(super) struct PieceJob {
    index: usize,
    bytes: Vec<u8>,
}

/// A piece that was hashed.
#[derive(Debug)]
pub(super) struct PieceDone {
    index: usize,
    hashes: PieceHashes,
    bytes: Vec<u8>,
}

impl PieceJob {
    /// Hashes the piece.
    pub(super) fn run(self) -> PieceDone {
        PieceDone {
            index: self.index,
            hashes: hashes(&self.bytes, self.bytes.len()),
            bytes: self.bytes,
        }
    }
}

impl Cutter {
    /// Starts a bundle in pieces of `piece_size` bytes, with `workers` to help.
    pub(super) fn new(piece_size: usize, workers: usize) -> Self {
        let out_max = pieces_out_max(workers);
        let (jobs, jobs_in) = bounded(out_max);
        Self {
            piece_size,
            piece: Vec::with_capacity(piece_size),
            jobs,
            jobs_in,
            out_max,
            out: 0,
            hashes: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Where workers find pieces to hash.
    pub(super) fn jobs(&self) -> Receiver<PieceJob> {
        self.jobs_in.clone()
    }

    /// Takes the next bytes of the bundle.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.piece_size - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == self.piece_size {
                self.hand_out();
            }
        }
    }

    /// Takes back a piece that was hashed.
    pub(super) fn put(&mut self, mut done: PieceDone) {
        self.out -= 1;
        self.hashes[done.index] = done.hashes;
        done.bytes.clear();
        self.spare.push(done.bytes);
    }

    /// Ends the bundle when all workers are done; gives the hashes of its pieces.
    pub(super) fn finish(mut self) -> Vec<PieceHashes> {
        while let Ok(job) = self.jobs_in.try_recv() {
            self.put(job.run());
        }
        assert_eq!(self.out, 0, "every piece came back");
        if !self.piece.is_empty() {
            let is_only = self.hashes.is_empty();
            let tree_size = if is_only {
                self.piece.len()
            } else {
                self.piece_size
            };
            self.hashes.push(hashes(&self.piece, tree_size));
        }
        self.hashes
    }

    fn hand_out(&mut self) {
        let empty = self.spare.pop();
        let empty = empty.unwrap_or_else(|| Vec::with_capacity(self.piece_size));
        let job = PieceJob {
            index: self.hashes.len(),
            bytes: std::mem::replace(&mut self.piece, empty),
        };
        self.hashes.push(PieceHashes::default());
        self.out += 1;
        if self.out > self.out_max {
            self.put(job.run());
        } else {
            let sent = self.jobs.try_send(job);
            sent.expect("the channel holds all that may be out, and its other end is here");
        }
    }
}

/// Hashes a piece whose tree is as wide as that of `tree_size` bytes.
fn hashes(bytes: &[u8], tree_size: usize) -> PieceHashes {
    let width = width_log2(tree_size.div_ceil(BLOCK_BYTES) as u64);
    PieceHashes::of(bytes, 0, width, Forms::Hybrid)
}

/// How many pieces may be with workers: one that each hashes, and one that waits for it.
const fn pieces_out_max(workers: usize) -> usize {
    2 * workers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::metainfo::{Draft, DraftFile, Verdict};

    #[test]
    fn whoever_hashes_them_the_pieces_are_those_of_the_torrent() {
        const PIECE: usize = 1 << 16;
        for len in [
            1,
            20_000,
            PIECE - 1,
            PIECE,
            PIECE + 1,
            9 * PIECE,
            9 * PIECE + 40_000,
        ] {
            let bytes: Vec<u8> = (0..len).map(|at| (at / 3 % 251).to_le_bytes()[0]).collect();
            let mut cutter = Cutter::new(PIECE, 2);
            let jobs = cutter.jobs();
            for (turn, step) in bytes.chunks(10_007).enumerate() {
                cutter.update(step);
                if turn % 11 == 5
                    && let Ok(job) = jobs.try_recv()
                {
                    cutter.put(job.run());
                }
            }
            let hashes = cutter.finish();
            let draft = Draft {
                name: b"x".to_vec(),
                files: vec![DraftFile {
                    len: len as u64,
                    ..DraftFile::default()
                }],
                piece_length: 1 << 16,
                forms: Forms::Hybrid,
                private: true,
                trackers: Vec::new(),
                web_seeds: Vec::new(),
                comment: None,
            };
            let torrent = draft.plan().unwrap().finish(&hashes).unwrap();
            let pieces = torrent.info().layout().pieces();
            for (piece, bytes) in pieces.zip(bytes.chunks(PIECE)) {
                assert_eq!(torrent.check_v1(piece, bytes), Verdict::Good, "{len}");
                assert_eq!(torrent.check_v2(piece, bytes), Verdict::Good, "{len}");
            }
        }
    }
}
