//! The pieces being sent, read and prepared.
//!
//! A *lane* is a piece being sent: its source symbols, then repair symbols. Datagrams are taken
//! from the lanes in turn, so that a lost burst hurts each piece a little. New pieces use at most
//! [`INTERLEAVE`] lanes, and one where nobody loses anything: what was just read is then still in
//! the cache when it is sent, and what came still is when a receiver hashes it. Repairs go first
//! and may use all lanes.

use std::collections::{BTreeMap, VecDeque};

use super::demand::{Demand, Urgency};
use super::pace::proactive;
use crate::base::random::Random;
use crate::base::{Block, Blocks, PieceIndex, Time};
use crate::fec::{Code, ESI_MAX, Esi, Shape};
use crate::image::Geometry;
use crate::machine::{DiskKind, DiskOp, FileId};
use crate::multicast::limits::{
    INTERLEAVE, LANES_MAX, PATIENT_LANES_MAX, READ_AHEAD, READ_ATTEMPTS_MAX, READY_MAX,
    REPAIR_EXTRA, REPAIR_START_RANGE, REPAIRS_AT_ONCE,
};

/// The lanes, and what is on its way into them.
pub(super) struct Lanes<C: Code> {
    code: C,
    geometry: Geometry,
    blocks: Box<dyn Blocks>,
    open: Vec<Lane>,
    /// Whose turn it is.
    turn: usize,
    reading: BTreeMap<u64, Job>,
    next_tag: u64,
    /// How many pieces are read ahead: more each time that sending had to wait for a read.
    ahead: usize,
    ready: VecDeque<(Job, Block)>,
    /// How many repair symbols of a piece were made.
    repairs_made: BTreeMap<u32, u32>,
    /// How far above K the first repair symbol of every piece is.
    repair_start: u32,
    /// The share of the datagrams that receivers lose.
    loss: f64,
    /// How many new pieces are sent at a time.
    side_by_side: usize,
}

/// What is to be done with a piece.
#[derive(Clone, Copy, Debug)]
struct Job {
    piece: u32,
    task: Task,
    attempts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Whole,
    /// So many fresh repair symbols.
    Repair(u32),
}

/// A piece being sent.
struct Lane {
    piece: u32,
    shape: Shape,
    /// Kept while source symbols are left, or repair symbols are still to be made.
    block: Option<Block>,
    /// The next source symbol; K when none is left.
    next_source: u32,
    repairs_left: u32,
    made: Repairs,
    is_whole: bool,
}

/// Repair symbols that were made together and are sent one by one.
#[derive(Default)]
struct Repairs {
    esis: Vec<Esi>,
    /// T bytes for each of them.
    symbols: Vec<u8>,
    /// How many were sent.
    sent: usize,
}

/// A symbol that was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) piece: u32,
    pub(super) esi: Esi,
    /// How many are to come of this piece.
    pub(super) remaining: u32,
    pub(super) is_source: bool,
}

/// What became of a read.
pub(super) enum ReadEnd {
    /// It can be sent.
    Ready,
    /// It is tried again.
    Again(DiskOp),
    /// The piece is given up.
    Failed(u32),
}

impl<C: Code> Lanes<C> {
    pub(super) fn new(code: C, geometry: Geometry, blocks: Box<dyn Blocks>, seed: u64) -> Self {
        Self {
            code,
            geometry,
            blocks,
            open: Vec::new(),
            turn: 0,
            reading: BTreeMap::new(),
            next_tag: 0,
            ahead: 1,
            ready: VecDeque::new(),
            repairs_made: BTreeMap::new(),
            repair_start: Random::new(seed).below(REPAIR_START_RANGE),
            loss: 0.0,
            side_by_side: INTERLEAVE,
        }
    }

    /// Tells which share of the datagrams receivers lose, and whether it is known that nobody loses
    /// any.
    pub(super) const fn set_loss(&mut self, loss: f64, is_none: bool) {
        self.loss = loss;
        self.side_by_side = if is_none { 1 } else { INTERLEAVE };
    }

    /// Whether nothing is being sent.
    pub(super) const fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether nothing is being sent or prepared.
    pub(super) fn is_idle(&self) -> bool {
        self.is_quiet() && self.reading.is_empty() && self.ready.is_empty()
    }

    /// Takes work from `demand`: opens lanes, and gives the next read that is needed.
    pub(super) fn plan(&mut self, demand: &mut Demand, now: Time) -> Option<DiskOp> {
        self.open_ready(demand);
        if self.repairs_under_way() < LANES_MAX
            && let Some(op) = self.plan_repair(demand, Urgency::Urgent, now)
        {
            return Some(op);
        }
        let ahead = self.ahead.max(self.side_by_side);
        if self.wholes_waiting() >= ahead || self.wholes_ready() >= READY_MAX {
            return None;
        }
        if demand.is_whole_next(now) {
            if !demand.has_whole() {
                return None;
            }
            let block = self.blocks.take()?;
            let piece = demand.take_whole()?;
            return Some(self.read(piece, Task::Whole, 0, block));
        }
        let is_busy = self.wholes_waiting() > 0 || self.open.iter().any(|lane| lane.is_whole);
        if is_busy || self.repairs_under_way() >= PATIENT_LANES_MAX {
            return None;
        }
        self.plan_repair(demand, Urgency::Patient, now)
    }

    /// Closes the lanes of pieces that nobody lacks any more; tells whether that ended the last
    /// one.
    pub(super) fn drop_unwanted(&mut self, demand: &mut Demand, counter: u64) -> bool {
        let had_any = !self.open.is_empty();
        while let Some(at) = self
            .open
            .iter()
            .position(|lane| !demand.is_lacked(lane.piece))
        {
            demand.note_sent(self.open[at].piece, counter);
            self.close(at);
        }
        had_any && self.open.is_empty()
    }

    /// The piece that a read under way is for.
    pub(super) fn piece_of(&self, tag: u64) -> Option<PieceIndex> {
        let job = self.reading.get(&tag)?;
        Some(PieceIndex::new(job.piece))
    }

    /// Takes the end of a read.
    pub(super) fn on_read(&mut self, tag: u64, block: Block, is_ok: bool) -> Option<ReadEnd> {
        let job = self.reading.remove(&tag)?;
        if is_ok {
            self.ready.push_back((job, block));
            return Some(ReadEnd::Ready);
        }
        if job.attempts + 1 >= READ_ATTEMPTS_MAX {
            return Some(ReadEnd::Failed(job.piece));
        }
        let op = self.read(job.piece, job.task, job.attempts + 1, block);
        Some(ReadEnd::Again(op))
    }

    /// Writes the next symbol, T bytes; `None` if there is none. A lane that ends tells `demand`
    /// that its piece was sent, `counter` being that of this symbol's datagram.
    pub(super) fn write(
        &mut self,
        demand: &mut Demand,
        counter: u64,
        symbol: &mut [u8],
    ) -> Option<Written> {
        while !self.open.is_empty() {
            self.turn = (self.turn + 1) % self.open.len();
            let written = self.write_from(self.turn, symbol);
            let lane = &self.open[self.turn];
            if lane.remaining() == 0 {
                let piece = lane.piece;
                // Without a datagram in this turn, the last one was before this counter.
                demand.note_sent(piece, counter + u64::from(written.is_some()));
                self.close(self.turn);
            }
            if written.is_some() {
                return written;
            }
        }
        if !self.reading.is_empty() {
            self.ahead = READ_AHEAD.min(2 * self.ahead);
        }
        None
    }

    fn write_from(&mut self, at: usize, symbol: &mut [u8]) -> Option<Written> {
        let lane = &mut self.open[at];
        if lane.next_source < lane.shape.source_symbols() {
            let esi = Esi::new(lane.next_source)?;
            lane.next_source += 1;
            let range = lane.shape.source_range(esi)?;
            let source = &lane.block.as_ref()?[range];
            let (content, padding) = symbol.split_at_mut(source.len());
            content.copy_from_slice(source);
            padding.fill(0);
            return Some(lane.written(esi, true));
        }
        if lane.made.is_empty() {
            lane.make_repairs(&mut self.code, &mut self.repairs_made, self.repair_start);
        }
        let esi = lane.made.take(symbol);
        // If the code failed on this piece: what receivers still lack they will report.
        lane.repairs_left = esi.map_or(0, |_| lane.repairs_left - 1);
        esi.map(|esi| lane.written(esi, false))
    }

    fn close(&mut self, at: usize) {
        drop(self.open.swap_remove(at));
    }

    fn open_ready(&mut self, demand: &mut Demand) {
        let mut at = 0;
        while at < self.ready.len() && self.open.len() < LANES_MAX {
            let is_whole = self.ready[at].0.task == Task::Whole;
            let wholes = self.open.iter().filter(|lane| lane.is_whole).count();
            if is_whole && wholes >= self.side_by_side {
                at += 1;
                continue;
            }
            if let Some((job, block)) = self.ready.remove(at) {
                self.open_lane(job, block, demand);
            }
        }
    }

    fn open_lane(&mut self, job: Job, block: Block, demand: &mut Demand) {
        let Some(shape) = demand
            .shape(job.piece)
            .filter(|_| demand.is_lacked(job.piece))
        else {
            return demand.note_sent(job.piece, 0);
        };
        let (next_source, repairs_left) = match job.task {
            Task::Whole => (0, proactive(self.loss, shape.source_symbols())),
            Task::Repair(count) => (shape.source_symbols(), count),
        };
        self.open.push(Lane {
            piece: job.piece,
            shape,
            block: Some(block),
            next_source,
            repairs_left,
            made: Repairs::default(),
            is_whole: job.task == Task::Whole,
        });
    }

    /// Takes the next repair: gives the read of its piece.
    fn plan_repair(&mut self, demand: &mut Demand, urgency: Urgency, now: Time) -> Option<DiskOp> {
        if self.open.len() >= LANES_MAX {
            return None;
        }
        let piece = demand.next_repair(urgency, now)?;
        let block = self.blocks.take()?;
        let count = demand.take_repair(urgency, piece) + REPAIR_EXTRA;
        Some(self.read(piece, Task::Repair(count), 0, block))
    }

    fn read(&mut self, piece: u32, task: Task, attempts: u8, block: Block) -> DiskOp {
        let index = PieceIndex::new(piece);
        let tag = self.next_tag;
        self.next_tag += 1;
        self.reading.insert(
            tag,
            Job {
                piece,
                task,
                attempts,
            },
        );
        DiskOp {
            tag,
            kind: DiskKind::Read,
            file: FileId(0),
            offset: self.geometry.offset(index),
            len: self.geometry.len(index),
            block,
        }
    }

    fn repairs_under_way(&self) -> usize {
        let waiting = self
            .reading
            .values()
            .chain(self.ready.iter().map(|(job, _)| job));
        let waiting = waiting.filter(|job| job.task != Task::Whole).count();
        waiting + self.open.iter().filter(|lane| !lane.is_whole).count()
    }

    fn wholes_waiting(&self) -> usize {
        let reading = self.reading.values();
        let reading = reading.filter(|job| job.task == Task::Whole).count();
        reading + self.wholes_ready()
    }

    fn wholes_ready(&self) -> usize {
        let ready = self.ready.iter();
        ready.filter(|(job, _)| job.task == Task::Whole).count()
    }
}

impl Lane {
    const fn remaining(&self) -> u32 {
        self.shape.source_symbols() - self.next_source + self.repairs_left
    }

    const fn written(&self, esi: Esi, is_source: bool) -> Written {
        Written {
            piece: self.piece,
            esi,
            remaining: self.remaining(),
            is_source,
        }
    }

    /// Makes the next repair symbols, all that are left or [`REPAIRS_AT_ONCE`]; none if the code
    /// fails. `made` counts those of each piece, `start` is how far above K their first is.
    fn make_repairs<C: Code>(&mut self, code: &mut C, made: &mut BTreeMap<u32, u32>, start: u32) {
        let Some(block) = &self.block else {
            return;
        };
        let count = self.repairs_left.min(REPAIRS_AT_ONCE);
        let mut fresh = || next_repair(made, start, self.piece, self.shape);
        let Repairs {
            esis,
            symbols,
            sent,
        } = &mut self.made;
        *sent = 0;
        esis.clear();
        esis.extend((0..count).map_while(|_| fresh()));
        symbols.resize(esis.len() * usize::from(self.shape.symbol_size()), 0);
        let block = &block[..self.shape.block_size()];
        if code
            .repair(self.piece, self.shape, block, esis, symbols)
            .is_err()
        {
            esis.clear();
        }
        if count == self.repairs_left {
            self.block = None;
        }
    }
}

impl Repairs {
    fn is_empty(&self) -> bool {
        self.sent == self.esis.len()
    }

    /// Writes the next one into `symbol`.
    fn take(&mut self, symbol: &mut [u8]) -> Option<Esi> {
        let esi = self.esis.get(self.sent)?;
        let start = self.sent * symbol.len();
        symbol.copy_from_slice(&self.symbols[start..start + symbol.len()]);
        self.sent += 1;
        Some(*esi)
    }
}

/// The next repair symbol of a piece that was never sent in this epoch; `None` if all were.
fn next_repair(made: &mut BTreeMap<u32, u32>, start: u32, piece: u32, shape: Shape) -> Option<Esi> {
    let range = ESI_MAX + 1 - shape.source_symbols();
    let made = made.entry(piece).or_default();
    if *made >= range {
        return None;
    }
    let esi = shape.source_symbols() + (start + *made) % range;
    *made += 1;
    Esi::new(esi)
}
