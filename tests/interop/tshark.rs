//! Stock tshark reads our datagrams as LCT and ALC, every field as we sent it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use flashover::multicast::wire::lct::{Codepoint, HEADER_SIZE, Header};

use crate::sim::clear;

#[test]
fn stock_tshark_reads_every_field_as_we_sent_it() {
    let cast = clear::cast();
    let read = dissect(&cast.datagrams);
    assert_eq!(read.len(), cast.datagrams.len());
    for (datagram, read) in cast.datagrams.iter().zip(&read) {
        assert_eq!(*read, expected(datagram));
    }
    let headers = cast.datagrams.iter().map(|datagram| parse(datagram));
    let headers: Vec<Header> = headers.collect();
    let has = |what: fn(&Header) -> bool| headers.iter().any(what);
    assert!(has(|header| header.codepoint == Codepoint::Control));
    assert!(has(|header| header.toi == 1 && header.esi.get() == 0));
    assert!(has(|header| header.esi.get() > 46), "a repair symbol");
    assert!(has(|header| header.closes_session));
}

/// The twin: a wrong bit in any byte of the header is seen.
#[test]
fn stock_tshark_sees_every_damaged_byte_of_a_header() {
    let cast = clear::cast();
    let good = cast
        .datagrams
        .iter()
        .find(|datagram| parse(datagram).toi > 0);
    let good = good.expect("data is sent");
    let damaged: Vec<Vec<u8>> = (0..HEADER_SIZE)
        .map(|at| {
            let mut bad = good.clone();
            bad[at] ^= if at == 0 { 0x40 } else { 0x02 };
            bad
        })
        .collect();
    let read = dissect(&damaged);
    assert_eq!(read.len(), HEADER_SIZE);
    for (at, read) in read.iter().enumerate() {
        assert_ne!(*read, expected(good), "byte {at}");
    }
}

/// What is asked of tshark, and what a datagram has there.
const FIELDS: [&str; 21] = [
    "udp.length",
    "rmt-lct.version",
    "rmt-lct.fsize.cci",
    "rmt-lct.fsize.tsi",
    "rmt-lct.fsize.toi",
    "rmt-lct.flags.close_session",
    "rmt-lct.flags.close_object",
    "rmt-lct.hlen",
    "rmt-lct.codepoint",
    "rmt-lct.cci",
    "rmt-lct.tsi",
    "rmt-lct.toi",
    "rmt-lct.ext",
    "rmt-lct.hec.type",
    "rmt-lct.hec.len",
    "rmt-lct.hec.data",
    "rmt-fec.encoding_id",
    "rmt-fec.sbn",
    "rmt-fec.esi",
    "alc.payload",
    "_ws.expert.message",
];

fn expected(datagram: &[u8]) -> String {
    let header = parse(datagram);
    let fec_encoding_id = match header.codepoint {
        Codepoint::RaptorQ => 6,
        Codepoint::Control => 0,
    };
    [
        (8 + datagram.len()).to_string(),
        "1|4|4|4".to_owned(),
        format!("{}|0|28", u8::from(header.closes_session)),
        fec_encoding_id.to_string(),
        format!("{:08x}", header.remaining),
        header.tsi.to_string(),
        header.toi.to_string(),
        "1|1|3".to_owned(),
        format!("{:04x}{:016x}", header.epoch.0, header.counter),
        format!("{fec_encoding_id}|0|0x{:08x}", header.esi.get()),
        hex(&datagram[HEADER_SIZE..]),
        String::new(),
    ]
    .join("|")
}

fn parse(datagram: &[u8]) -> Header {
    Header::parse(datagram).expect("the sender sends what parses")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _always_fits = write!(text, "{byte:02x}");
        text
    })
}

/// What tshark reads in each datagram, in the order of [`FIELDS`].
fn dissect(datagrams: &[Vec<u8>]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let capture = folder.path().join("capture.pcap");
    write_capture(&capture, datagrams);
    let output = Command::new("tshark")
        // Nobody's preferences, and no look-up of names.
        .env("WIRESHARK_CONFIG_DIR", folder.path())
        .args(["-n", "-d", &format!("udp.port=={PORT},alc"), "-r"])
        .arg(&capture)
        .args(["-T", "fields", "-E", "separator=|"])
        .args(FIELDS.iter().flat_map(|field| ["-e", field]))
        .output()
        .expect("tshark is installed: tools/test does it");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("fields are text");
    text.lines().map(str::to_owned).collect()
}

/// Writes datagrams as a capture of IPv4 packets. Source: the pcap format, link type 101 (RAW).
fn write_capture(path: &Path, datagrams: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    let words = |bytes: &mut Vec<u8>, words: &[u32]| {
        bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    };
    words(&mut bytes, &[0xa1b2_c3d4, 2 << 16 | 4, 0, 0, 65_535, 101]);
    for datagram in datagrams {
        let udp = u16::try_from(8 + datagram.len()).expect("a datagram is short");
        let ip = u32::from(20 + udp);
        words(&mut bytes, &[0, 0, ip, ip]);
        // Version 4, 5 words; TTL 1, UDP; from 192.0.2.1 to 239.1.2.3; no checksums.
        words(
            &mut bytes,
            &[0x4500_0000 | ip, 0, 0x0111_0000, 0xc000_0201, 0xef01_0203],
        );
        bytes.extend([9001, PORT, udp, 0].map(u16::to_be_bytes).as_flattened());
        bytes.extend(datagram);
    }
    std::fs::write(path, bytes).expect("the temporary directory has room");
}

const PORT: u16 = 7080;
