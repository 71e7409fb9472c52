//! A receiver's report: what it has seen and what it lacks.
//!
//! ```text
//!   header  magic "FR" 2 | version 1 | 0 1 | tsi 4 | epoch 2 | 0 2 | node 16 | counter 8
//!   body    flags 1 | ack 8 | expected 4 | received 4 | dropped 4 | done 4 | skipped 4
//!   sealed  | buffer KiB 4 | host len 1, host | from 4 | span 4 | items
//!   tag     16
//!   item    gap varint (pieces that are complete) | deficit varint | deficit = 0: length varint
//! ```
//!
//! The report speaks for `span` pieces from `from` on, going round at the end of the bundle. Items
//! name what is not complete there, in order: a run of pieces of which nothing is here (deficit 0), or
//! one piece that lacks `deficit` symbols. What no item names is complete.

use crate::base::bytes::{BadBytes, Reader, Writer};
use crate::base::{EpochId, NodeId};

use crate::multicast::limits::{HOST_BYTES_MAX, REPORT_ITEMS_MAX};

/// The length of the clear header, in bytes.
pub const REPORT_HEADER_SIZE: usize = 36;

/// The clear header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportHeader {
    /// The session.
    pub tsi: u32,
    /// The sender's start.
    pub epoch: EpochId,
    /// Who reports.
    pub node: NodeId,
    /// The number of this report.
    pub counter: u64,
}

impl ReportHeader {
    /// Reads the header at the front of a datagram, and says nothing about its authenticity.
    ///
    /// # Errors
    /// If the datagram is cut or no report of this version.
    pub fn parse(datagram: &[u8]) -> Result<Self, BadBytes> {
        let mut reader = Reader::new(datagram);
        if reader.array()? != MAGIC {
            return Err(BadBytes::Value);
        }
        let (tsi, epoch) = (reader.u32()?, EpochId(reader.u16()?));
        if reader.u16()? != 0 {
            return Err(BadBytes::Value);
        }
        Ok(Self {
            tsi,
            epoch,
            node: NodeId(reader.array()?),
            counter: reader.u64()?,
        })
    }

    /// Gives the header's bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; REPORT_HEADER_SIZE] {
        let mut bytes = [0; REPORT_HEADER_SIZE];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.tsi.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[12..28].copy_from_slice(&self.node.0);
        bytes[28..36].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }
}

/// The body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The receiver has everything, verified and stored.
    pub done: bool,
    /// The receiver leaves; nothing more will come from it.
    pub leaving: bool,
    /// The highest counter seen in this epoch, plus 1; 0 for none.
    pub ack: u64,
    /// Datagrams that the sender numbered since the last report.
    pub expected: u32,
    /// How many of them arrived.
    pub received: u32,
    /// Datagrams that the receiver's kernel dropped since it started.
    pub dropped: u32,
    /// Pieces that are complete.
    pub pieces_done: u32,
    /// Pieces that came by while no memory was free for them, since the receiver started.
    pub pieces_skipped: u32,
    /// The receive buffer, in KiB; 0 if it is not known.
    pub buffer_kib: u32,
    /// The host name for people, cut to [`HOST_BYTES_MAX`].
    pub host: String,
    /// The first piece that the report speaks for.
    pub from: u32,
    /// How many pieces it speaks for.
    pub span: u32,
    /// What is not complete there.
    pub items: Vec<Item>,
}

/// Something that is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// How many pieces before this one, since `from` or the end of the last item, are complete.
    pub gap: u32,
    /// What is lacking.
    pub lack: Lack,
}

/// What is lacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// All of so many pieces in a row.
    Whole(u32),
    /// So many symbols of one piece.
    Symbols(u32),
}

impl Lack {
    /// How many pieces it is about.
    #[must_use]
    pub const fn piece_count(self) -> u32 {
        match self {
            Self::Whole(count) => count,
            Self::Symbols(_) => 1,
        }
    }
}

impl Report {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is cut, claims more than the limits, or its items leave its span.
    pub fn parse(body: &[u8]) -> Result<Self, BadBytes> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        if flags & !(FLAG_DONE | FLAG_LEAVING) != 0 {
            return Err(BadBytes::Value);
        }
        let mut report = Self {
            done: flags & FLAG_DONE != 0,
            leaving: flags & FLAG_LEAVING != 0,
            ack: reader.u64()?,
            expected: reader.u32()?,
            received: reader.u32()?,
            dropped: reader.u32()?,
            pieces_done: reader.u32()?,
            pieces_skipped: reader.u32()?,
            buffer_kib: reader.u32()?,
            host: parse_host(&mut reader)?,
            from: reader.u32()?,
            span: reader.u32()?,
            items: Vec::new(),
        };
        let mut left = report.span;
        while !reader.rest().is_empty() {
            let item = parse_item(&mut reader)?;
            let used = u64::from(item.gap) + u64::from(item.lack.piece_count());
            left = u32::try_from(u64::from(left).checked_sub(used).ok_or(BadBytes::Value)?)
                .map_err(|_| BadBytes::Value)?;
            if report.items.len() == REPORT_ITEMS_MAX {
                return Err(BadBytes::Value);
            }
            report.items.push(item);
        }
        Ok(report)
    }

    /// How many bytes [`Report::emit`] gives.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        let items: usize = self.items.iter().map(|item| item_len(*item)).sum();
        FIXED_SIZE + self.host.len() + items
    }

    /// Gives the body's bytes.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        let done = if self.done { FLAG_DONE } else { 0 };
        let leaving = if self.leaving { FLAG_LEAVING } else { 0 };
        writer
            .u8(done | leaving)
            .u64(self.ack)
            .u32(self.expected)
            .u32(self.received)
            .u32(self.dropped)
            .u32(self.pieces_done)
            .u32(self.pieces_skipped)
            .u32(self.buffer_kib)
            .prefixed(self.host.as_bytes())
            .u32(self.from)
            .u32(self.span);
        for item in &self.items {
            writer.varint(u64::from(item.gap));
            match item.lack {
                Lack::Whole(count) => writer.varint(0).varint(u64::from(count)),
                Lack::Symbols(deficit) => writer.varint(u64::from(deficit)),
            };
        }
        writer.finish()
    }
}

/// How many bytes an item takes.
pub(crate) fn item_len(item: Item) -> usize {
    varint_len(item.gap)
        + match item.lack {
            Lack::Whole(count) => 1 + varint_len(count),
            Lack::Symbols(deficit) => varint_len(deficit),
        }
}

/// Cuts a host name to what a report carries: printable characters, at most [`HOST_BYTES_MAX`] bytes.
#[must_use]
pub fn clean_host(host: &str) -> String {
    let mut clean = String::new();
    for c in host.chars().filter(|c| !c.is_control()) {
        if clean.len() + c.len_utf8() > HOST_BYTES_MAX {
            break;
        }
        clean.push(c);
    }
    clean
}

fn parse_host(reader: &mut Reader<'_>) -> Result<String, BadBytes> {
    let bytes = reader.prefixed(HOST_BYTES_MAX)?;
    let host = std::str::from_utf8(bytes).map_err(|_| BadBytes::Value)?;
    if host.chars().any(char::is_control) {
        return Err(BadBytes::Value);
    }
    Ok(host.to_owned())
}

fn parse_item(reader: &mut Reader<'_>) -> Result<Item, BadBytes> {
    let mut number = || u32::try_from(reader.varint()?).map_err(|_| BadBytes::Value);
    let gap = number()?;
    let lack = match number()? {
        0 => match number()? {
            0 => return Err(BadBytes::Value),
            count => Lack::Whole(count),
        },
        deficit => Lack::Symbols(deficit),
    };
    Ok(Item { gap, lack })
}

const fn varint_len(value: u32) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        0x20_0000..=0xfff_ffff => 4,
        _ => 5,
    }
}

/// "FR", version 1, 0.
const MAGIC: [u8; 4] = [b'F', b'R', 1, 0];
const FLAG_DONE: u8 = 1;
const FLAG_LEAVING: u8 = 2;
/// The bytes of a body without host and items.
const FIXED_SIZE: usize = 1 + 8 + 6 * 4 + 1 + 2 * 4;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_item() -> impl Strategy<Value = Item> {
        let lack = prop_oneof![
            (1u32..1 << 20).prop_map(Lack::Whole),
            (1u32..60_000).prop_map(Lack::Symbols)
        ];
        (0u32..1 << 20, lack).prop_map(|(gap, lack)| Item { gap, lack })
    }

    proptest! {
        #[test]
        fn reports_round_trip(numbers: [u32; 7], ack: u64, flags: (bool, bool), host in "[a-zé-]{0,20}",
            items in prop::collection::vec(any_item(), 0..60)) {
            let span = items.iter().map(|item| item.gap + item.lack.piece_count()).sum::<u32>() + 5;
            let [expected, received, dropped, pieces_done, pieces_skipped, buffer_kib, from] = numbers;
            let report = Report { done: flags.0, leaving: flags.1, ack, expected, received, dropped,
                pieces_done, pieces_skipped, buffer_kib, host, from, span, items };
            let body = report.emit();
            prop_assert_eq!(body.len(), report.buffer_len());
            prop_assert_eq!(Report::parse(&body), Ok(report));
        }

        #[test]
        fn arbitrary_bodies_never_panic(mut tail: Vec<u8>, plain: bool) {
            let mut body = Report { span: 100, ..Report::default() }.emit();
            body.append(&mut tail);
            let body = if plain { tail } else { body };
            if let Ok(report) = Report::parse(&body) {
                prop_assert_eq!(report.emit(), body);
            }
        }

        #[test]
        fn headers_round_trip(tsi: u32, epoch: u16, node: [u8; 16], counter: u64) {
            let header = ReportHeader { tsi, epoch: EpochId(epoch), node: NodeId(node), counter };
            prop_assert_eq!(ReportHeader::parse(&header.emit()), Ok(header));
            prop_assert!(ReportHeader::parse(&header.emit()[..35]).is_err());
        }
    }

    #[test]
    fn items_that_leave_the_span_are_refused() {
        let item = Item {
            gap: 2,
            lack: Lack::Whole(3),
        };
        let report = |span| Report {
            span,
            items: vec![item],
            ..Report::default()
        };
        assert!(Report::parse(&report(5).emit()).is_ok());
        assert_eq!(Report::parse(&report(4).emit()), Err(BadBytes::Value));
    }

    #[test]
    fn host_names_are_cut_at_a_character_and_hold_no_control_codes() {
        assert_eq!(clean_host("node\n1\u{1b}[2J"), "node1[2J");
        assert_eq!(clean_host(&"é".repeat(40)).len(), 64);
    }
}
