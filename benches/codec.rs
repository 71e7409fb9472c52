//! What one core does to a piece: hash, compress, code, seal.
//!
//! `cargo bench --bench codec`; the unit is one piece of 1 MiB (K = 745 symbols of 1408 bytes), so
//! bytes per second are bytes of the bundle.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flashover::base::EpochId;
use flashover::fec::{Assembly, Code, Esi, Kernel, RaptorQ, Shape};
use flashover::image::Hash;
use flashover::multicast::keys::{Aes128Gcm, Cipher, Key, Secret, TAG_SIZE};
use flashover::swarm::seal::{Seal, SwarmSecret};

const PIECE: usize = 1 << 20;
const SYMBOL: u16 = 1408;

criterion_group!(
    name = codec;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = hash, compress, encode, decode, receive, seal, seal_stream
);
criterion_main!(codec);

fn hash(c: &mut Criterion) {
    let piece = text(PIECE);
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Bytes(PIECE as u64));
    group.bench_function("blake3", |b| b.iter(|| Hash::of(black_box(&piece))));
    group.finish();
}

fn compress(c: &mut Criterion) {
    let content = text(PIECE);
    let packed = zstd::bulk::compress(&content, 3).expect("memory compresses");
    let mut group = c.benchmark_group("zstd");
    group.throughput(Throughput::Bytes(PIECE as u64));
    group.bench_function("compress level 3", |b| {
        b.iter(|| zstd::bulk::compress(black_box(&content), 3).expect("memory compresses"));
    });
    group.bench_function("decompress", |b| {
        b.iter(|| zstd::bulk::decompress(black_box(&packed), PIECE).expect("it was compressed"));
    });
    group.finish();
}

/// The `raptorq` crate alone, then the dense path with each kernel of this processor.
fn codes() -> impl Iterator<Item = (String, Option<Kernel>)> {
    let kernels = Kernel::all().map(|kernel| (format!("{kernel:?}"), Some(kernel)));
    std::iter::once(("crate".to_owned(), None)).chain(kernels)
}

fn encode(c: &mut Criterion) {
    let (shape, piece) = (shape(), noise(PIECE));
    let mut group = c.benchmark_group("fec encode");
    group.throughput(Throughput::Bytes(PIECE as u64));
    for count in [1, 8, 16, 32, 64, 128] {
        for (name, kernel) in codes() {
            let mut code = RaptorQ::with(kernel);
            group.bench_function(format!("{count} repair symbols, {name}"), |b| {
                b.iter(|| repairs(&mut code, shape, black_box(&piece), count));
            });
        }
    }
    group.finish();
}

fn repairs(code: &mut RaptorQ, shape: Shape, piece: &[u8], count: u32) -> Vec<(Esi, Vec<u8>)> {
    let first = shape.source_symbols() + 1000;
    let esis: Vec<Esi> = (first..first + count).map(esi).collect();
    let mut symbols = vec![0; esis.len() * usize::from(SYMBOL)];
    code.repair(0, shape, piece, &esis, &mut symbols)
        .expect("these are repair symbols");
    let symbols = symbols.chunks(SYMBOL.into()).map(<[u8]>::to_vec);
    esis.into_iter().zip(symbols).collect()
}

/// What is left to do when the last symbol has come, with as few repair symbols as will do.
fn decode(c: &mut Criterion) {
    let (shape, piece) = (shape(), noise(PIECE));
    let mut group = c.benchmark_group("fec decode");
    group.throughput(Throughput::Bytes(PIECE as u64));
    for lost in [1, 3, 7, 15, 37, 64, 128] {
        let repair = repairs(&mut RaptorQ::new(), shape, &piece, lost);
        for (name, kernel) in codes() {
            let mut code = RaptorQ::with(kernel);
            group.bench_function(format!("{lost} missing, {name}"), |b| {
                b.iter_batched_ref(
                    || {
                        let (mut block, mut assembly) = (vec![0; PIECE], code.assembly(0, shape));
                        add(shape, &piece, lost, &repair, &mut block, &mut assembly);
                        (block, assembly)
                    },
                    |(block, assembly)| {
                        assert!(assembly.complete(block).expect("nothing panics"));
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

/// All of a receiver's work on the symbols of a piece.
fn receive(c: &mut Criterion) {
    let (shape, piece) = (shape(), noise(PIECE));
    let mut code = RaptorQ::new();
    let mut block = vec![0; PIECE];
    let mut group = c.benchmark_group("fec receive");
    group.throughput(Throughput::Bytes(PIECE as u64));
    for (name, lost) in [("0 %", 0), ("0.1 %", 1), ("1 %", 7), ("5 %", 37)] {
        let repair = repairs(&mut code, shape, &piece, lost);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut assembly = code.assembly(0, shape);
                add(shape, &piece, lost, &repair, &mut block, &mut assembly);
                assert!(assembly.complete(&mut block).expect("nothing panics"));
            });
        });
    }
    group.finish();
}

/// Adds all symbols but the `lost`, which are spread over the piece.
fn add(
    shape: Shape,
    piece: &[u8],
    lost: u32,
    repair: &[(Esi, Vec<u8>)],
    block: &mut [u8],
    assembly: &mut impl Assembly,
) {
    let every = shape.source_symbols().checked_div(lost).unwrap_or(u32::MAX);
    let mut last = vec![0; SYMBOL.into()];
    for index in 0..shape.source_symbols() {
        if index % every == every - 1 && index / every < lost {
            continue;
        }
        let esi = esi(index);
        let range = shape.source_range(esi).expect("it is a source symbol");
        let symbol = if range.len() < last.len() {
            last[..range.len()].copy_from_slice(&piece[range]);
            &last
        } else {
            &piece[range]
        };
        assembly
            .add(esi, symbol, block)
            .expect("the symbol has its size");
    }
    for (esi, symbol) in repair {
        assembly
            .add(*esi, symbol, block)
            .expect("the symbol has its size");
    }
}

fn seal(c: &mut Criterion) {
    let key = Aes128Gcm.data_key(&Secret::new([7; 32]), EpochId(1), 2);
    let (header, mut body) = ([0; 32], noise(SYMBOL.into()));
    let mut sealed = body.clone();
    let tag = key.seal(1, &header, &mut sealed);
    sealed.extend_from_slice(&tag);
    let mut group = c.benchmark_group("aes-128-gcm");
    group.throughput(Throughput::Bytes(SYMBOL.into()));
    group.bench_function("seal a symbol", |b| {
        b.iter(|| key.seal(1, &header, black_box(&mut body)));
    });
    group.bench_function("open a symbol", |b| {
        let mut datagram = vec![0; usize::from(SYMBOL) + TAG_SIZE];
        b.iter(|| {
            datagram.copy_from_slice(&sealed);
            assert!(key.open(1, &header, &mut datagram).is_some());
        });
    });
    group.finish();
}

/// Blocks of 16 KiB as a peer sends them, header and bytes apart, and as it receives them.
fn seal_stream(c: &mut Criterion) {
    const BLOCKS: usize = 16;
    let torrent = [3; 20];
    let side = |nonce| (SwarmSecret::new([7; 32]), torrent, [nonce; 16]);
    let pair = || {
        let ((a, b, c), (d, e, f)) = (side(1), side(2));
        let (mut one, mut other) = (Seal::initiator(a, b, c), Seal::responder(d, e, f));
        let (mut hello, mut answer) = (one.hello().to_vec(), other.hello().to_vec());
        one.open(&mut answer, |_| {}).expect("it is a hello");
        other.open(&mut hello, |_| {}).expect("it is a hello");
        (one, other)
    };
    let block = [Bytes::from(vec![0; 13]), Bytes::from(noise(16 << 10))];
    let parts: Vec<Bytes> = block.iter().cycle().take(2 * BLOCKS).cloned().collect();
    let mut group = c.benchmark_group("sealed stream");
    group.throughput(Throughput::Bytes((BLOCKS * (13 + (16 << 10))) as u64));
    let (mut one, _) = pair();
    group.bench_function("seal 16 blocks", |b| {
        b.iter(|| one.seal(black_box(&parts)).expect("it is ready"));
    });
    for (name, read) in [("at once", usize::MAX), ("in reads of 64 KiB", 64 << 10)] {
        group.bench_function(format!("open 16 blocks {name}"), |b| {
            let fresh = || {
                let (mut one, other) = pair();
                (one.seal(&parts).expect("it is ready").to_vec(), other)
            };
            let open = |(mut sealed, mut other): (Vec<u8>, Seal)| {
                let mut count = 0;
                let size = read.min(sealed.len());
                for part in sealed.chunks_mut(size) {
                    let opened = other.open(part, |plain| count += plain.len());
                    opened.expect("it was sealed");
                }
                count
            };
            b.iter_batched(fresh, open, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn shape() -> Shape {
    Shape::new(PIECE, SYMBOL).expect("a mebibyte is 745 symbols")
}

fn esi(value: u32) -> Esi {
    Esi::new(value).expect("benches stay in 24 bits")
}

/// Bytes without structure.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// Bytes that compress about as system files do: words in some order.
fn text(len: usize) -> Vec<u8> {
    let dice = noise(len);
    let words: Vec<Vec<u8>> = (0..200)
        .map(|at| dice[at * 7..at * 7 + 3 + at % 9].to_vec())
        .collect();
    let mut bytes: Vec<u8> = dice
        .iter()
        .flat_map(|&at| words[usize::from(at) % words.len()].iter().copied())
        .collect();
    bytes.truncate(len);
    bytes
}
