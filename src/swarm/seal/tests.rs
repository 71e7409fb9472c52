use proptest::prelude::*;

use super::*;

const TORRENT: [u8; 20] = [3; 20];

fn secret(byte: u8) -> SwarmSecret {
    SwarmSecret::new([byte; 32])
}

fn open(seal: &mut Seal, bytes: &[u8]) -> Result<Vec<Vec<u8>>, SealError> {
    let mut records = Vec::new();
    let mut input = bytes.to_vec();
    seal.open(&mut input, |plain| records.push(plain.to_vec()))
        .map(|()| records)
}

/// Both sides, hellos exchanged.
fn pair() -> (Seal, Seal) {
    let mut one = Seal::initiator(secret(7), TORRENT, [1; 16]);
    let mut other = Seal::responder(secret(7), TORRENT, [2; 16]);
    open(&mut one, &other.hello()).unwrap();
    open(&mut other, &one.hello()).unwrap();
    assert!(one.is_ready() && other.is_ready());
    assert!(!one.is_proven() && !other.is_proven());
    (one, other)
}

fn part(len: usize) -> Bytes {
    (0..len)
        .map(|at| at.to_le_bytes()[0])
        .collect::<Vec<_>>()
        .into()
}

fn sealed(seal: &mut Seal, len: usize) -> Vec<u8> {
    seal.seal(&[part(len)]).unwrap().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_is_opened_however_it_comes(
        turns in prop::collection::vec(
            prop::collection::vec(prop_oneof![0..40usize, 16_300..16_500usize, Just(70_000)], 1..6),
            1..5,
        ),
        sizes in prop::collection::vec(prop_oneof![1..30usize, 1000..100_000usize], 1..6),
    ) {
        let (mut one, _) = pair();
        let mut other = Seal::responder(secret(7), TORRENT, [2; 16]);
        let (mut stream, mut said) = (one.hello().to_vec(), Vec::new());
        for lens in turns {
            let parts: Vec<Bytes> = lens.into_iter().map(part).collect();
            let plain = parts.concat();
            match one.seal(&parts) {
                Ok(bytes) => stream.extend_from_slice(&bytes),
                Err(error) => prop_assert!(plain.is_empty() && error == SealError::Early),
            }
            said.extend_from_slice(&plain);
        }
        let (mut heard, mut rest, mut sizes) = (Vec::new(), &stream[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            rest = later;
            heard.extend(open(&mut other, now).unwrap());
            prop_assert!(other.held.len() <= PLAIN_BYTES_MAX + RECORD_OVERHEAD);
        }
        prop_assert!(heard.iter().all(|record| (1..=PLAIN_BYTES_MAX).contains(&record.len())));
        prop_assert_eq!(heard.concat(), said);
    }

    #[test]
    fn no_bytes_do_harm(bytes: Vec<u8>, cut: prop::sample::Index) {
        let (_, mut other) = pair();
        let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
        for part in [first, second] {
            let opened = open(&mut other, part).unwrap_or_default();
            prop_assert!(opened.is_empty(), "nobody can forge a record");
        }
        prop_assert!(!other.is_proven());
    }
}

#[test]
fn the_bytes_are_those_of_version_1() {
    let (mut one, mut other) = pair();
    let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let lines = [&mut one, &mut other].map(|seal| [0; 2].map(|_| hex(sealed(seal, 3))));
    // Made by another implementation of HKDF and AES-GCM.
    assert_eq!(
        lines[0][0],
        "0000001325b889637caaaa60f2e51e256f6907e10dc538"
    );
    assert_eq!(
        lines[0][1],
        "00000013c3cdbd69b5b7d9826a47c9f68c9d74cbc9a1c4"
    );
    assert_eq!(
        lines[1][0],
        "00000013bf304b9401c6fab13626c702f73539e7394839"
    );
}

#[test]
fn every_flipped_byte_is_refused() {
    let (mut one, _) = pair();
    let (first, second) = (sealed(&mut one, 40), sealed(&mut one, 40));
    // Enough bytes behind it that a record made longer comes to its end.
    let behind = sealed(&mut one, PLAIN_BYTES_MAX);
    let stream = [&one.hello()[..], &first, &second, &behind].concat();
    for at in 0..16 + first.len() + second.len() {
        for bit in [0x01, 0x80] {
            let mut damaged = stream.clone();
            damaged[at] ^= bit;
            let mut other = Seal::responder(secret(7), TORRENT, [2; 16]);
            let mut records = 0;
            let result = other.open(&mut damaged, |_| records += 1);
            assert!(result.is_err(), "byte {at}");
            assert_eq!(records, usize::from(at >= 16 + first.len()), "byte {at}");
            assert_eq!(
                open(&mut other, &second),
                Err(result.unwrap_err()),
                "it stays shut"
            );
        }
    }
}

#[test]
fn doubled_lost_and_swapped_records_are_refused() {
    let (mut one, _) = pair();
    let records = [0, 1, 2].map(|_| sealed(&mut one, 40));
    for (order, opened) in [
        (&[0, 1, 2][..], 3),
        (&[0, 0], 1),
        (&[0, 1, 0], 2),
        (&[1], 0),
        (&[0, 2], 1),
        (&[0, 2, 1], 1),
    ] {
        let (_, mut other) = pair();
        let stream = order
            .iter()
            .map(|&at: &usize| &records[at][..])
            .collect::<Vec<_>>();
        let mut count = 0;
        let result = other.open(&mut stream.concat(), |_| count += 1);
        assert_eq!(count, opened, "{order:?}");
        assert_eq!(
            result,
            if opened == order.len() {
                Ok(())
            } else {
                Err(SealError::Forged)
            }
        );
    }
}

#[test]
fn a_mirror_learns_and_proves_nothing() {
    let mut one = Seal::initiator(secret(7), TORRENT, [1; 16]);
    let hello = one.hello();
    assert_eq!(open(&mut one, &hello), Err(SealError::Mirrored));
    let (mut one, mut other) = pair();
    let record = sealed(&mut one, 40);
    assert_eq!(open(&mut one, &record), Err(SealError::Forged));
    let record = sealed(&mut other, 40);
    assert_eq!(open(&mut other, &record), Err(SealError::Forged));
}

#[test]
fn only_the_same_run_torrent_roles_and_nonces_open() {
    let (mut one, _) = pair();
    let record = sealed(&mut one, 40);
    let opens = |mut other: Seal, hello: [u8; 16]| {
        open(&mut other, &hello).unwrap();
        let opened = open(&mut other, &record);
        assert_eq!(opened.is_ok(), other.is_proven());
        opened.is_ok()
    };
    assert!(opens(Seal::responder(secret(7), TORRENT, [2; 16]), [1; 16]));
    assert!(!opens(
        Seal::responder(secret(8), TORRENT, [2; 16]),
        [1; 16]
    ));
    assert!(!opens(
        Seal::responder(secret(7), [4; 20], [2; 16]),
        [1; 16]
    ));
    assert!(!opens(
        Seal::responder(secret(7), TORRENT, [9; 16]),
        [1; 16]
    ));
    assert!(!opens(
        Seal::responder(secret(7), TORRENT, [2; 16]),
        [9; 16]
    ));
    assert!(!opens(
        Seal::initiator(secret(7), TORRENT, [2; 16]),
        [1; 16]
    ));
    assert!(!opens(
        Seal::initiator(secret(7), TORRENT, [1; 16]),
        [2; 16]
    ));
}

#[test]
fn lengths_are_bounded() {
    for (len, bad) in [
        (0, true),
        (16, true),
        (17, false),
        (16 + (64 << 10), false),
        (17 + (64 << 10), true),
        (u32::MAX, true),
    ] {
        for whole in [true, false] {
            let (_, mut other) = pair();
            let header = len.to_be_bytes();
            let result = if whole {
                open(&mut other, &header)
            } else {
                open(&mut other, &header[..2]).unwrap();
                open(&mut other, &header[2..])
            };
            let expected = if bad {
                Err(SealError::Length(len))
            } else {
                Ok(vec![])
            };
            assert_eq!(result, expected);
        }
    }
}

#[test]
fn nothing_is_sealed_without_keys_or_beyond_the_last_record() {
    let mut one = Seal::initiator(secret(7), TORRENT, [1; 16]);
    assert_eq!(one.seal(&[part(1)]), Err(SealError::Early));
    let (mut one, mut other) = pair();
    assert_eq!(one.seal(&[]), Err(SealError::Early));
    for (seal, next) in [(&mut one, 0), (&mut other, 1)] {
        let keys = seal.keys.as_mut().unwrap();
        let direction = if next == 0 { &mut keys.0 } else { &mut keys.1 };
        direction.next = RECORDS_MAX - 1;
    }
    let last = sealed(&mut one, 5);
    assert_eq!(open(&mut other, &last).unwrap(), [part(5)]);
    assert_eq!(one.seal(&[part(1)]), Err(SealError::Exhausted));
    assert_eq!(open(&mut other, &last), Err(SealError::Exhausted));
}

#[test]
fn secrets_are_not_shown() {
    let (one, _) = pair();
    let shown = format!("{one:?} {:?}", secret(7));
    assert!(shown.contains("SwarmSecret(..)") && !shown.contains("7, 7"));
}
