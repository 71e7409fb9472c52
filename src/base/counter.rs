//! Counters: the facts of the hot path, one doc line each; sinks read them, nothing logs them.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident => $label:literal,)+) => {
        /// What is counted. The label is the metric's name without prefix.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])+ $name,)+ }

        impl Counter {
            /// Every counter, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The metric's name.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// What it counts, for people.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+),)+ }
            }
        }
    };
}

counters! {
    /// Datagrams sent.
    PacketsOut => "packets_out_total",
    /// Datagrams that the kernel refused to send; they are lost, as on a network.
    PacketsUnsent => "packets_unsent_total",
    /// Datagrams received, whatever they held.
    PacketsIn => "packets_in_total",
    /// Bytes of datagrams sent, without IP and UDP headers.
    BytesOut => "bytes_out_total",
    /// Bytes of datagrams received, without IP and UDP headers.
    BytesIn => "bytes_in_total",
    /// Entries into the kernel made to send.
    KernelEntriesOut => "kernel_entries_out_total",
    /// Entries into the kernel made to receive.
    KernelEntriesIn => "kernel_entries_in_total",
    /// Sockets that went over to a slower way to send, because the kernel refused the faster one.
    SendFallbacks => "send_fallbacks_total",
    /// Datagrams that the kernel dropped because our receive buffer was full.
    DroppedByKernel => "dropped_by_kernel_total",
    /// TCP connections opened, by either side.
    StreamsOpened => "streams_opened_total",
    /// TCP connections that ended.
    StreamsClosed => "streams_closed_total",
    /// TCP connections turned away because too many were open, or no descriptor was left.
    StreamsRefused => "streams_refused_total",
    /// Bytes that the kernel took to send on TCP connections.
    StreamBytesOut => "stream_bytes_out_total",
    /// Bytes received on TCP connections.
    StreamBytesIn => "stream_bytes_in_total",
    /// Sends made on TCP connections, each of many parts.
    StreamSends => "stream_sends_total",
    /// Receives made on TCP connections that brought bytes.
    StreamReceives => "stream_receives_total",
    /// Sends on TCP connections that were to be made without a copy.
    StreamZeroCopies => "stream_zero_copies_total",
    /// Those of them that the kernel copied after all.
    StreamZeroCopiesCopied => "stream_zero_copies_copied_total",
    /// Datagrams that failed to parse.
    RejectedMalformed => "rejected_malformed_total",
    /// Datagrams that failed authentication: forged, damaged, or under another epoch's key.
    RejectedForged => "rejected_forged_total",
    /// Authentic datagrams seen before.
    RejectedReplayed => "rejected_replayed_total",
    /// Authentic datagrams under a number that had another content: an insider sends.
    RejectedTwoContents => "rejected_two_contents_total",
    /// Authentic reports under the id of a receiver that is served at another address.
    RejectedTwin => "rejected_twin_total",
    /// Symbols that were already known or not wanted.
    SymbolsUseless => "symbols_useless_total",
    /// Source symbols that arrived and were wanted.
    SymbolsSource => "symbols_source_total",
    /// Repair symbols that arrived and were wanted.
    SymbolsRepair => "symbols_repair_total",
    /// Source symbols sent.
    SentSource => "sent_source_total",
    /// Repair symbols sent.
    SentRepair => "sent_repair_total",
    /// Times that the sender lowered its rate because of loss or drops.
    RateLowered => "rate_lowered_total",
    /// Datagrams missing in the sequence of the sender.
    PacketsLost => "packets_lost_total",
    /// Pieces that decoded and verified.
    PiecesVerified => "pieces_verified_total",
    /// Pieces that decoded to wrong bytes and were discarded.
    PiecesPoisoned => "pieces_poisoned_total",
    /// Pieces that needed the decoder, because source symbols were missing.
    PiecesDecoded => "pieces_decoded_total",
    /// Pieces that came by while no block of memory was free for them.
    PiecesSkipped => "pieces_skipped_total",
    /// Symbols ignored because no block of memory was free for their piece.
    SymbolsWithoutMemory => "symbols_without_memory_total",
    /// Deficit reports sent.
    ReportsOut => "reports_out_total",
    /// Deficit reports received.
    ReportsIn => "reports_in_total",
}

/// One value per [`Counter`], shared between threads.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, by: u64) {
        self.0[counter as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Reads a counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }

    /// Reads all counters, with their labels.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Counter::ALL
            .iter()
            .map(|&counter| (counter.label(), self.get(counter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_unique_and_values_are_apart() {
        let labels: BTreeSet<_> = Counter::ALL.iter().map(|counter| counter.label()).collect();
        assert_eq!(labels.len(), Counter::ALL.len());
        let counters = Counters::default();
        counters.add(Counter::PacketsIn, 2);
        assert_eq!(counters.get(Counter::PacketsIn), 2);
        assert_eq!(counters.get(Counter::PacketsOut), 0);
    }
}
