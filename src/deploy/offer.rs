//! What a head offers its nodes, and how that is written: `auto`, or a list of transports.

use std::fmt;
use std::str::FromStr;

/// The transports by which nodes may have pieces; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The head casts.
    pub multicast: bool,
    /// The head seeds, and tells nodes of each other.
    pub swarm: bool,
    /// The head gives byte ranges.
    pub http: bool,
}

impl Offer {
    /// Everything: each node takes what serves it best.
    pub const AUTO: Self = Self {
        multicast: true,
        swarm: true,
        http: true,
    };

    const NONE: Self = Self {
        multicast: false,
        swarm: false,
        http: false,
    };
}

impl Default for Offer {
    fn default() -> Self {
        Self::AUTO
    }
}

/// What is no offer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, multicast, swarm and http")]
pub struct BadOffer(String);

impl FromStr for Offer {
    type Err = BadOffer;

    fn from_str(text: &str) -> Result<Self, BadOffer> {
        let mut offer = Self::NONE;
        for word in text.split(',') {
            match word.trim() {
                "auto" => offer = Self::AUTO,
                "multicast" => offer.multicast = true,
                "swarm" => offer.swarm = true,
                "http" => offer.http = true,
                other => return Err(BadOffer(other.to_owned())),
            }
        }
        Ok(offer)
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::AUTO {
            return f.write_str("auto");
        }
        let all = [
            (self.multicast, "multicast"),
            (self.swarm, "swarm"),
            (self.http, "http"),
        ];
        let words: Vec<&str> = all
            .iter()
            .filter(|(is_in, _)| *is_in)
            .map(|(_, w)| *w)
            .collect();
        f.write_str(&words.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_written_as_they_are_read() {
        for text in ["auto", "multicast", "swarm,http", "multicast,http"] {
            assert_eq!(text.parse::<Offer>().unwrap().to_string(), text);
        }
        let all: Offer = "http, swarm,multicast".parse().unwrap();
        assert_eq!(all, Offer::AUTO);
        for text in ["", "udp", "swarm,", "Swarm"] {
            assert!(text.parse::<Offer>().is_err(), "{text:?}");
        }
    }
}
