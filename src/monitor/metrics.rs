//! Counters and gauges as Prometheus text (exposition format 0.0.4).

use std::fmt::Write as _;

use crate::base::counter::{Counter, Counters};

/// A value that is no counter of the hot path.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The metric's name without prefix.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// The value.
    pub value: f64,
}

/// Writes all counters, then `samples`.
#[must_use]
pub fn prometheus(counters: &Counters, samples: &[Sample]) -> String {
    let mut text = String::new();
    for &counter in Counter::ALL {
        let help = counter.help().trim();
        let value = counters.get(counter);
        put(&mut text, counter.label(), help, "counter", &value);
    }
    for sample in samples {
        put(
            &mut text,
            sample.name,
            sample.help,
            sample.kind,
            &sample.value,
        );
    }
    text
}

fn put(text: &mut String, name: &str, help: &str, kind: &str, value: &dyn std::fmt::Display) {
    let written = write!(
        text,
        "# HELP flashover_{name} {help}\n# TYPE flashover_{name} {kind}\nflashover_{name} {value}\n"
    );
    written.expect("a string takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_help_type_and_value() {
        let counters = Counters::default();
        counters.add(Counter::PacketsOut, 3);
        let sample = Sample {
            name: "nodes",
            help: "Nodes known",
            kind: "gauge",
            value: 2.0,
        };
        let text = prometheus(&counters, &[sample]);
        assert!(text.contains(
            "# HELP flashover_packets_out_total Datagrams sent.\n\
             # TYPE flashover_packets_out_total counter\n\
             flashover_packets_out_total 3\n"
        ));
        assert!(text.ends_with("# TYPE flashover_nodes gauge\nflashover_nodes 2\n"));
        assert_eq!(text.matches("# TYPE").count(), Counter::ALL.len() + 1);
    }
}
