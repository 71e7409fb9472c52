//! What the machines are made of: the real parts, and models of them that are cheap enough for
//! thousands of receivers.

use std::collections::BTreeSet;
use std::sync::Arc;

use flashover::base::{EpochId, NodeId, PieceIndex};
use flashover::fec::{Added, Assembly, Code, Counted, Error, Esi, RaptorQ, Shape};
use flashover::image::Geometry;
use flashover::image::hash::piece_value;
use flashover::multicast::keys::{Cipher, Key, Secret, TAG_SIZE};
use flashover::multicast::{Aes128Gcm, PlainCipher};
use flashover::multicast::{PieceHashes, Verify};

/// A choice of parts.
pub(super) trait Parts: 'static {
    type Code: Code + 'static;
    type Cipher: Cipher + 'static;
    type Verify: Verify + 'static;

    fn code(bundle: &Arc<[u8]>, geometry: Geometry) -> Self::Code;
    fn cipher() -> Self::Cipher;
    fn verify(bundle: &Arc<[u8]>, geometry: Geometry) -> Self::Verify;
}

/// RaptorQ, AES-128-GCM and BLAKE3, as in the product.
pub(super) struct Real;

impl Parts for Real {
    type Code = RaptorQ;
    type Cipher = Aes128Gcm;
    type Verify = PieceHashes;

    fn code(_: &Arc<[u8]>, _: Geometry) -> RaptorQ {
        RaptorQ::new()
    }

    fn cipher() -> Aes128Gcm {
        Aes128Gcm
    }

    fn verify(bundle: &Arc<[u8]>, geometry: Geometry) -> PieceHashes {
        let hash = |piece| piece_value(geometry, piece, part(bundle, geometry, piece));
        PieceHashes::new(geometry, geometry.pieces().map(hash).collect())
            .expect("there is one hash per piece")
    }
}

/// The counting code, a checksum for a cipher, and comparison with the bundle for hashes.
pub(super) struct Modelled;

impl Parts for Modelled {
    type Code = Counted;
    type Cipher = PlainCipher;
    type Verify = Compare;

    fn code(bundle: &Arc<[u8]>, geometry: Geometry) -> Counted {
        Counted::new(Arc::clone(bundle), geometry.piece_size(), 1)
    }

    fn cipher() -> PlainCipher {
        PlainCipher
    }

    fn verify(bundle: &Arc<[u8]>, geometry: Geometry) -> Compare {
        Compare(Arc::clone(bundle), geometry)
    }
}

/// As [`Modelled`], with a decoder that fails the first time at every fifth piece.
pub(super) struct Clumsy;

impl Parts for Clumsy {
    type Code = Failing;
    type Cipher = PlainCipher;
    type Verify = Compare;

    fn code(bundle: &Arc<[u8]>, geometry: Geometry) -> Failing {
        Failing {
            code: Modelled::code(bundle, geometry),
            failed: BTreeSet::new(),
        }
    }

    fn cipher() -> PlainCipher {
        PlainCipher
    }

    fn verify(bundle: &Arc<[u8]>, geometry: Geometry) -> Compare {
        Modelled::verify(bundle, geometry)
    }
}

/// The code of [`Clumsy`].
pub(super) struct Failing {
    code: Counted,
    /// Pieces that failed once.
    failed: BTreeSet<u32>,
}

/// The assembly of [`Clumsy`].
pub(super) struct FailingAssembly {
    assembly: <Counted as Code>::Assembly,
    fails: bool,
}

impl Code for Failing {
    type Assembly = FailingAssembly;

    fn repair(
        &mut self,
        piece: u32,
        shape: Shape,
        block: &[u8],
        esis: &[Esi],
        symbols: &mut [u8],
    ) -> Result<(), Error> {
        self.code.repair(piece, shape, block, esis, symbols)
    }

    fn assembly(&mut self, piece: u32, shape: Shape) -> FailingAssembly {
        FailingAssembly {
            assembly: self.code.assembly(piece, shape),
            fails: piece.is_multiple_of(5) && self.failed.insert(piece),
        }
    }
}

impl Assembly for FailingAssembly {
    fn add(&mut self, esi: Esi, symbol: &[u8], block: &mut [u8]) -> Result<Added, Error> {
        self.assembly.add(esi, symbol, block)
    }

    fn deficit(&self) -> u32 {
        self.assembly.deficit()
    }

    fn complete(&mut self, block: &mut [u8]) -> Result<bool, Error> {
        if self.fails {
            return Err(Error::Panicked);
        }
        self.assembly.complete(block)
    }
}

/// As [`Modelled`], with the cheapest cipher that still tells keys and counters apart.
pub(super) struct Cheap;

impl Parts for Cheap {
    type Code = Counted;
    type Cipher = Stamp;
    type Verify = Compare;

    fn code(bundle: &Arc<[u8]>, geometry: Geometry) -> Counted {
        Modelled::code(bundle, geometry)
    }

    fn cipher() -> Stamp {
        Stamp
    }

    fn verify(bundle: &Arc<[u8]>, geometry: Geometry) -> Compare {
        Modelled::verify(bundle, geometry)
    }
}

/// Compares with the bundle itself.
pub(super) struct Compare(Arc<[u8]>, Geometry);

impl Verify for Compare {
    fn verify(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        bytes == part(&self.0, self.1, piece)
    }
}

/// Seals with key and counter in the clear: for worlds where no bit is wrong and nobody forges.
pub(super) struct Stamp;

pub(super) struct StampKey(u64);

impl Cipher for Stamp {
    type Key = StampKey;

    fn data_key(&self, secret: &Secret, epoch: EpochId, tsi: u32) -> StampKey {
        let start = u64::from(tsi) << 16 | u64::from(epoch.0);
        StampKey(fold(start, secret.bytes()))
    }

    fn report_key(&self, secret: &Secret, epoch: EpochId, tsi: u32, node: NodeId) -> StampKey {
        StampKey(fold(self.data_key(secret, epoch, tsi).0, &node.0))
    }
}

impl Key for StampKey {
    fn seal(&self, counter: u64, _: &[u8], _: &mut [u8]) -> [u8; TAG_SIZE] {
        let mut tag = [0; TAG_SIZE];
        tag[..8].copy_from_slice(&(self.0 ^ counter).to_be_bytes());
        tag
    }

    fn open<'a>(&self, counter: u64, header: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (body, tag) = sealed.split_at_mut_checked(sealed.len().checked_sub(TAG_SIZE)?)?;
        (self.seal(counter, header, body) == tag).then_some(body)
    }
}

fn fold(start: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, &byte: &u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(start ^ 0xcbf2_9ce4_8422_2325, step)
}

/// The bytes of a piece.
pub(super) fn part(bundle: &[u8], geometry: Geometry, piece: PieceIndex) -> &[u8] {
    let range = geometry.range(piece);
    let index = |at| usize::try_from(at).expect("test bundles fit in memory");
    &bundle[index(range.start)..index(range.end)]
}
