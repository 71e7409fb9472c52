//! What one core does to a piece: hash, compress, code, seal.
//!
//! `cargo bench --bench codec`; the unit is one piece of 1 MiB (K = 745 symbols of 1408 bytes), so
//! bytes per second are bytes of the bundle.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flashover::base::EpochId;
use flashover::fec::{Assembly, Code, Encoder, Esi, RaptorQ, Shape};
use flashover::image::Hash;
use flashover::multicast::keys::{Aes128Gcm, Cipher, Key, Secret, TAG_SIZE};

const PIECE: usize = 1 << 20;
const SYMBOL: u16 = 1408;

criterion_group!(
    name = codec;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = hash, compress, encode, decode, seal
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

fn encode(c: &mut Criterion) {
    let (shape, piece) = (shape(), noise(PIECE));
    let mut code = RaptorQ::new();
    let mut symbol = vec![0; SYMBOL.into()];
    let mut group = c.benchmark_group("fec encode");
    group.throughput(Throughput::Bytes(PIECE as u64));
    group.bench_function("prepare", |b| {
        b.iter(|| {
            code.encoder(0, shape, black_box(&piece))
                .expect("the piece has its shape")
        });
    });
    group.bench_function("prepare and 16 repair symbols", |b| {
        b.iter(|| {
            let mut encoder = code
                .encoder(0, shape, &piece)
                .expect("the piece has its shape");
            for index in 0..16 {
                let esi = esi(shape.source_symbols() + index);
                encoder
                    .repair(esi, &mut symbol)
                    .expect("it is a repair symbol");
            }
        });
    });
    group.finish();
}

fn decode(c: &mut Criterion) {
    let (shape, piece) = (shape(), noise(PIECE));
    let mut code = RaptorQ::new();
    let mut encoder = code
        .encoder(0, shape, &piece)
        .expect("the piece has its shape");
    let mut group = c.benchmark_group("fec decode");
    group.throughput(Throughput::Bytes(PIECE as u64));
    for (name, lost) in [("0 %", 0), ("0.1 %", 1), ("1 %", 7), ("5 %", 37)] {
        let repair: Vec<(Esi, Vec<u8>)> = (0..lost + 2)
            .map(|index| {
                let esi = esi(shape.source_symbols() + index);
                let mut symbol = vec![0; SYMBOL.into()];
                encoder
                    .repair(esi, &mut symbol)
                    .expect("it is a repair symbol");
                (esi, symbol)
            })
            .collect();
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || (vec![0; PIECE], RaptorQ::new().assembly(0, shape)),
                |(block, assembly)| receive(shape, &piece, lost, &repair, block, assembly),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Adds all symbols but the `lost`, which are spread over the piece, and completes the block.
fn receive(
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
    if lost > 0 {
        for (esi, symbol) in repair {
            assembly
                .add(*esi, symbol, block)
                .expect("the symbol has its size");
        }
    }
    assert!(
        assembly.complete(block).expect("nothing panics"),
        "two symbols more than needed"
    );
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
