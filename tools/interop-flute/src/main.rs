//! A stock FLUTE peer for tests: receiver and sender of the `flute` crate, over pipes.
//!
//! ```text
//!   interop-flute receive DIR TSI SYMBOL_SIZE SIZE...   < datagrams
//!   interop-flute send TSI FIRST_TOI SYMBOL_SIZE REPAIR FILE...   > datagrams
//! ```
//!
//! Datagrams are UDP payloads, each after its length in two bytes, big-endian. `receive` takes
//! objects of the given sizes, with TOI 1, 2, 3 ..., one source block of RaptorQ each; it writes
//! every object that the receiver completed to DIR/TOI, and prints how many datagrams the receiver
//! took and refused. What a FLUTE sender would say of the objects in its FDT, ours says over its
//! control channel; so the FDT comes from the crate's own sender, told the same sizes.

#![allow(
    clippy::disallowed_methods,
    reason = "the clock is only forbidden to machines"
)]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use flute::core::alc::parse_alc_pkt;
use flute::core::{Oti, UDPEndpoint};
use flute::error::FluteError;
use flute::receiver::Receiver;
use flute::receiver::writer::ObjectWriterBufferBuilder;
use flute::sender::{Config, ObjectDesc, PriorityQueue, Sender, TOIMaxLength, TransferConfig};
use url::Url;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["receive", dir, tsi, symbol_size, sizes @ ..] => {
            let sizes = sizes.iter().map(|size| Ok(size.parse()?));
            let sizes = sizes.collect::<Result<Vec<usize>>>()?;
            receive(Path::new(dir), tsi.parse()?, symbol_size.parse()?, &sizes)
        }
        ["send", tsi, first_toi, symbol_size, repair, files @ ..] => {
            let objects = files.iter().map(fs::read).collect::<io::Result<_>>()?;
            let (symbol_size, repair) = (symbol_size.parse()?, repair.parse()?);
            let mut sender = sender(
                tsi.parse()?,
                first_toi.parse()?,
                symbol_size,
                repair,
                objects,
            )?;
            let now = SystemTime::now();
            while let Some(datagram) = sender.read(now) {
                io::stdout().write_all(&u16::try_from(datagram.len())?.to_be_bytes())?;
                io::stdout().write_all(&datagram)?;
            }
            Ok(())
        }
        _ => Err("see the head of tools/interop-flute/src/main.rs".into()),
    }
}

fn receive(dir: &Path, tsi: u64, symbol_size: u16, sizes: &[usize]) -> Result<()> {
    let now = SystemTime::now();
    let writer = Rc::new(ObjectWriterBufferBuilder::new(false));
    let mut receiver = Receiver::new(&endpoint(), tsi, writer.clone(), None);
    // All that this sender says besides its FDT is left out.
    let blank = sizes.iter().map(|&size| vec![0; size]).collect();
    let mut description = sender(tsi, 1, symbol_size, 0, blank)?;
    while let Some(datagram) = description.read(now) {
        if parse_alc_pkt(&datagram).map_err(said)?.lct.toi == 0 {
            receiver.push_data(&datagram, now).map_err(said)?;
        }
    }

    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input)?;
    let mut rest = input.as_slice();
    let (mut taken, mut refused) = (0, 0);
    while let Some((len, tail)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes(*len));
        let (datagram, tail) = tail.split_at_checked(len).ok_or("a cut datagram")?;
        rest = tail;
        match receiver.push_data(datagram, now) {
            Ok(()) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    for object in writer.objects.borrow().iter().map(|object| object.borrow()) {
        if object.complete {
            let name = object.meta.content_location.trim_start_matches("file:///");
            fs::write(dir.join(name), &object.data)?;
        }
    }
    println!("taken {taken} refused {refused}");
    Ok(())
}

/// A sender of these objects, in order from `first_toi` on, as its FDT says them and as symbols.
fn sender(
    tsi: u64,
    first_toi: u128,
    symbol_size: u16,
    repair: u16,
    objects: Vec<Vec<u8>>,
) -> Result<Sender> {
    let longest = objects.iter().map(Vec::len).max().unwrap_or(1);
    let source_symbols = u16::try_from(longest.div_ceil(usize::from(symbol_size)))?;
    let mut oti = Oti::new_raptorq(symbol_size, source_symbols, repair, 1, 1).map_err(said)?;
    oti.inband_fti = false;
    let mut config = Config {
        toi_initial_value: Some(first_toi),
        toi_max_length: TOIMaxLength::ToiMax32,
        ..Config::default()
    };
    config.set_priority_queue(PriorityQueue::HIGHEST, PriorityQueue::new(2));
    let mut sender = Sender::new(endpoint(), tsi, &Oti::new_no_code(1400, 64), &config);
    for (object, toi) in objects.into_iter().zip(first_toi..) {
        let transfer = TransferConfig {
            oti: Some(oti.clone()),
            ..TransferConfig::default()
        };
        let name = Url::parse(&format!("file:///{toi}"))?;
        let kind = "application/octet-stream";
        let object = ObjectDesc::create_from_buffer(object, kind, &name, false, transfer);
        let object = object.map_err(said)?;
        let given = sender
            .add_object(PriorityQueue::HIGHEST, object)
            .map_err(said)?;
        assert_eq!(given, toi, "TOIs are given in order");
    }
    sender.publish(SystemTime::now()).map_err(said)?;
    Ok(sender)
}

/// Datagrams come over pipes; this name is the crate's own book-keeping.
fn endpoint() -> UDPEndpoint {
    UDPEndpoint::new(None, "239.1.2.3".to_owned(), 7080)
}

/// The crate's errors are not of the standard trait.
fn said(error: FluteError) -> String {
    format!("{error:?}")
}
