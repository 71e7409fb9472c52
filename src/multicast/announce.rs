//! Announcements: what a head serves, told to a well-known group once per second.
//!
//! ```text
//!   "FA" 2 | version 1 | part 1 | parts 1 | head 32 | control port 2 | instance 16 | count 1
//!   | count x { name len 1, name | serial 8 | root, first bytes 8 } | signature 64
//! ```
//!
//! The signature is over everything before it. Each part stands for itself: it is complete and signed.

use std::net::{Ipv4Addr, SocketAddr};

use super::GROUP;
use super::limits::{
    ANNOUNCE_INTERVAL, ANNOUNCE_PARTS_MAX, ANNOUNCED_IMAGES_MAX, HEARD_MAX, REPORT_BYTES_MAX,
};
use crate::base::bytes::{BadBytes, Reader, Writer};
use crate::base::id::{IMAGE_NAME_BYTES_MAX, ImageName};
use crate::base::{Serial, Time};
use crate::machine::{Input, Machine, Output, Transmit};

/// The well-known group.
pub const ANNOUNCE_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 70, 79);
/// The well-known port.
pub const ANNOUNCE_PORT: u16 = 7079;
/// The length of the signature at the end, in bytes.
pub const SIGNATURE_SIZE: usize = 64;

/// One datagram's worth of what a head serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Which part this is, from 0.
    pub part: u8,
    /// How many parts there are, 1 or more.
    pub parts: u8,
    /// The head's identity: the hash of its public key, or the key.
    pub head: [u8; 32],
    /// The port of its control channel, at the address that the announcement comes from.
    pub control_port: u16,
    /// Random bytes drawn at the head's start.
    pub instance: [u8; 16],
    /// What it serves.
    pub images: Vec<AnnouncedImage>,
}

/// One image on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedImage {
    /// Its name.
    pub name: ImageName,
    /// Its serial.
    pub serial: Serial,
    /// The first bytes of the bundle's root hash.
    pub root: [u8; 8],
}

impl Announcement {
    /// Spreads `images` over as few datagrams as they need, each at most [`REPORT_BYTES_MAX`] bytes
    /// with its signature. What does not fit into [`ANNOUNCE_PARTS_MAX`] parts is left out.
    #[must_use]
    pub fn split(
        head: [u8; 32],
        control_port: u16,
        instance: [u8; 16],
        images: &[AnnouncedImage],
    ) -> Vec<Self> {
        let new_part = || Self {
            part: 0,
            parts: 1,
            head,
            control_port,
            instance,
            images: Vec::new(),
        };
        let mut parts = vec![new_part()];
        for image in images {
            let last = parts.last_mut().expect("it starts with one part");
            let fits = last.buffer_len() + image_len(image) + SIGNATURE_SIZE <= REPORT_BYTES_MAX;
            if fits && last.images.len() < ANNOUNCED_IMAGES_MAX {
                last.images.push(image.clone());
            } else if parts.len() < ANNOUNCE_PARTS_MAX {
                parts.push(new_part());
                parts
                    .last_mut()
                    .expect("one was just pushed")
                    .images
                    .push(image.clone());
            } else {
                break;
            }
        }
        let count = u8::try_from(parts.len()).expect("there are at most 64 parts");
        for (index, part) in (0..count).zip(&mut parts) {
            (part.part, part.parts) = (index, count);
        }
        parts
    }

    /// How many bytes [`Announcement::encode`] gives.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        FIXED_SIZE + self.images.iter().map(image_len).sum::<usize>()
    }

    /// Gives the bytes to sign; the datagram is these and then the signature.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer
            .put(&MAGIC)
            .u8(self.part)
            .u8(self.parts)
            .put(&self.head)
            .u16(self.control_port)
            .put(&self.instance)
            .u8(self.images.len().to_be_bytes()[7]);
        for image in &self.images {
            writer
                .prefixed(image.name.as_str().as_bytes())
                .u64(image.serial.0)
                .put(&image.root);
        }
        writer.finish()
    }

    /// Reads a datagram: the announcement, the bytes that are signed, and the signature, which is
    /// the caller's to check.
    ///
    /// # Errors
    /// If the datagram is cut, too long, or no announcement of this version.
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8], &[u8; SIGNATURE_SIZE]), BadBytes> {
        if datagram.len() > REPORT_BYTES_MAX {
            return Err(BadBytes::Value);
        }
        let (signed, signature) = datagram.split_last_chunk().ok_or(BadBytes::Short)?;
        let mut reader = Reader::new(signed);
        if reader.array()? != MAGIC {
            return Err(BadBytes::Value);
        }
        let (part, parts) = (reader.u8()?, reader.u8()?);
        if part >= parts || usize::from(parts) > ANNOUNCE_PARTS_MAX {
            return Err(BadBytes::Value);
        }
        let (head, control_port, instance) = (reader.array()?, reader.u16()?, reader.array()?);
        let count = usize::from(reader.u8()?);
        if count > ANNOUNCED_IMAGES_MAX {
            return Err(BadBytes::Value);
        }
        let images = (0..count)
            .map(|_| parse_image(&mut reader))
            .collect::<Result<_, _>>()?;
        reader.finish()?;
        let announcement = Self {
            part,
            parts,
            head,
            control_port,
            instance,
            images,
        };
        Ok((announcement, signed, signature))
    }
}

fn parse_image(reader: &mut Reader<'_>) -> Result<AnnouncedImage, BadBytes> {
    let name = reader.prefixed(IMAGE_NAME_BYTES_MAX)?;
    let name = std::str::from_utf8(name).map_err(|_| BadBytes::Value)?;
    Ok(AnnouncedImage {
        name: name.parse().map_err(|_| BadBytes::Value)?,
        serial: Serial(reader.u64()?),
        root: reader.array()?,
    })
}

fn image_len(image: &AnnouncedImage) -> usize {
    1 + image.name.as_str().len() + 16
}

/// "FA", version 1.
const MAGIC: [u8; 3] = [b'F', b'A', 1];
/// The bytes before the list.
const FIXED_SIZE: usize = 3 + 2 + 32 + 2 + 16 + 1;

/// Sends announcements once per second, and at once when they change.
#[derive(Debug)]
pub struct Announcer {
    to: SocketAddr,
    datagrams: Vec<Vec<u8>>,
    /// The next of `datagrams` to send in this round.
    next: usize,
    round_at: Time,
}

impl Announcer {
    /// Makes an announcer to the group `to`; it is silent until it is given datagrams.
    #[must_use]
    pub const fn new(to: SocketAddr) -> Self {
        Self {
            to,
            datagrams: Vec::new(),
            next: 0,
            round_at: Time::ZERO,
        }
    }
}

impl Machine for Announcer {
    /// The signed datagrams to send from now on, at most [`ANNOUNCE_PARTS_MAX`]; more are left out.
    type Command = Vec<Vec<u8>>;
    type Event = std::convert::Infallible;

    fn handle(&mut self, input: Input<'_, Self::Command>, now: Time) {
        if let Input::Command(mut datagrams) = input {
            datagrams.truncate(ANNOUNCE_PARTS_MAX);
            datagrams.retain(|datagram| datagram.len() <= REPORT_BYTES_MAX);
            self.datagrams = datagrams;
            (self.next, self.round_at) = (0, now);
        }
    }

    fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        if now < self.round_at {
            return None;
        }
        let Some(datagram) = self.datagrams.get(self.next) else {
            (self.next, self.round_at) = (0, now + ANNOUNCE_INTERVAL);
            return None;
        };
        let len = datagram.len();
        buffer.get_mut(..len)?.copy_from_slice(datagram);
        self.next += 1;
        Some(Transmit {
            channel: GROUP,
            to: self.to,
            len,
            segment_size: len,
        })
    }

    fn poll_output(&mut self) -> Option<Output<Self::Event>> {
        None
    }

    fn poll_timeout(&self) -> Option<Time> {
        (!self.datagrams.is_empty()).then_some(self.round_at)
    }
}

/// A checked announcement, and who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The head's address; its control channel is at this IP.
    pub from: SocketAddr,
    /// What it said.
    pub announcement: Announcement,
}

/// Says whether the signature (third) over the signed bytes (second) is that of the announcement's head.
pub type Check = Box<dyn Fn(&Announcement, &[u8], &[u8; SIGNATURE_SIZE]) -> bool + Send>;

/// Hears announcements; tells each distinct one once.
pub struct Listener {
    check: Check,
    /// Who said what lately, the newest last, at most [`HEARD_MAX`].
    heard: std::collections::VecDeque<(SocketAddr, [u8; 32])>,
    outputs: std::collections::VecDeque<Heard>,
}

impl Listener {
    /// Makes a listener that drops what `check` does not approve.
    #[must_use]
    pub fn new(check: Check) -> Self {
        Self {
            check,
            heard: std::collections::VecDeque::new(),
            outputs: std::collections::VecDeque::new(),
        }
    }

    fn hear(&mut self, from: SocketAddr, datagram: &[u8]) {
        let hash = *blake3::hash(datagram).as_bytes();
        if self.heard.contains(&(from, hash)) || self.outputs.len() >= HEARD_MAX {
            return;
        }
        let Ok((announcement, signed, signature)) = Announcement::parse(datagram) else {
            return;
        };
        if (self.check)(&announcement, signed, signature) {
            if self.heard.len() == HEARD_MAX {
                self.heard.pop_front();
            }
            self.heard.push_back((from, hash));
            self.outputs.push_back(Heard { from, announcement });
        }
    }
}

impl Machine for Listener {
    type Command = std::convert::Infallible;
    type Event = Heard;

    fn handle(&mut self, input: Input<'_, Self::Command>, _now: Time) {
        if let Input::Datagrams(mut datagrams) = input {
            let from = datagrams.from;
            for datagram in datagrams.segments() {
                self.hear(from, datagram);
            }
        }
    }

    fn poll_transmit(&mut self, _now: Time, _buffer: &mut [u8]) -> Option<Transmit> {
        None
    }

    fn poll_output(&mut self) -> Option<Output<Heard>> {
        self.outputs.pop_front().map(Output::Event)
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Datagrams;
    use proptest::prelude::*;
    use std::time::Duration;

    fn images(count: usize) -> Vec<AnnouncedImage> {
        (0..count)
            .map(|index| AnnouncedImage {
                name: format!("image-{index:058}").parse().unwrap(),
                serial: Serial(index as u64),
                root: [7; 8],
            })
            .collect()
    }

    fn signed(part: &Announcement) -> Vec<u8> {
        let mut datagram = part.encode();
        datagram.extend([9; SIGNATURE_SIZE]);
        datagram
    }

    fn group() -> SocketAddr {
        SocketAddr::new(ANNOUNCE_GROUP.into(), ANNOUNCE_PORT)
    }

    proptest! {
        #[test]
        fn any_list_is_split_into_datagrams_that_give_it_back(count in 0usize..100) {
            let parts = Announcement::split([1; 32], 7080, [2; 16], &images(count));
            let mut back = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                let datagram = signed(part);
                prop_assert!(datagram.len() <= REPORT_BYTES_MAX);
                prop_assert_eq!(part.buffer_len(), part.encode().len());
                let (parsed, bytes, signature) = Announcement::parse(&datagram).unwrap();
                prop_assert_eq!(&parsed, part);
                prop_assert_eq!((bytes.len(), signature), (part.buffer_len(), &[9; 64]));
                prop_assert_eq!((usize::from(parsed.part), usize::from(parsed.parts)), (index, parts.len()));
                back.extend(parsed.images);
            }
            prop_assert_eq!(back, images(count));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if bytes.len() > 5 {
                bytes[..5].copy_from_slice(&[b'F', b'A', 1, 0, 1]);
            }
            if let Ok((announcement, signed, _)) = Announcement::parse(&bytes) {
                prop_assert_eq!(announcement.encode(), signed);
            }
        }
    }

    #[test]
    fn announcements_go_out_at_once_and_then_each_second() {
        let mut announcer = Announcer::new(group());
        let mut buffer = [0; REPORT_BYTES_MAX];
        assert_eq!(announcer.poll_timeout(), None);
        let start = Time::from_nanos(5);
        announcer.handle(Input::Command(vec![vec![1; 10], vec![2; 20]]), start);
        for now in [start, start + ANNOUNCE_INTERVAL] {
            assert_eq!(announcer.poll_timeout(), Some(now));
            assert_eq!(
                announcer
                    .poll_transmit(now, &mut buffer)
                    .map(|sent| sent.len),
                Some(10)
            );
            assert_eq!(
                announcer
                    .poll_transmit(now, &mut buffer)
                    .map(|sent| sent.len),
                Some(20)
            );
            assert_eq!(announcer.poll_transmit(now, &mut buffer), None);
        }
        let early = start + ANNOUNCE_INTERVAL + Duration::from_millis(999);
        assert_eq!(announcer.poll_transmit(early, &mut buffer), None);
    }

    #[test]
    fn a_listener_tells_each_approved_announcement_once() {
        let mut listener = Listener::new(Box::new(|_, _, signature| signature == &[9; 64]));
        let part = &Announcement::split([1; 32], 7080, [2; 16], &images(2))[0];
        let mut hear = |mut datagram: Vec<u8>, port| {
            let segment_size = datagram.len();
            let datagrams = Datagrams {
                channel: GROUP,
                from: SocketAddr::new([10, 0, 0, 1].into(), port),
                bytes: &mut datagram,
                segment_size,
                dropped_total: 0,
            };
            listener.handle(Input::Datagrams(datagrams), Time::ZERO);
            std::iter::from_fn(|| listener.poll_output()).count()
        };
        assert_eq!(hear(signed(part), 1), 1);
        assert_eq!(hear(signed(part), 1), 0);
        assert_eq!(hear(signed(part), 2), 1);
        let mut unsigned = signed(part);
        *unsigned.last_mut().unwrap() ^= 1;
        assert_eq!(hear(unsigned, 3), 0);
    }
}
