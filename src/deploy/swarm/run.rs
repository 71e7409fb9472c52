//! The swarm of a run: head and nodes exchange the pieces of one bundle, sealed by a secret that
//! the head gives to whom it has admitted.

use crate::base::Bitmap;
use crate::deploy::error::Result;
use crate::image::Manifest;
use crate::swarm::cut::Cut;
use crate::swarm::lsd;
use crate::swarm::seal::SwarmSecret;
use crate::swarm::torrent::Config;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct RunSwarm {
    secret: SwarmSecret,
    cut: Cut,
}

impl RunSwarm {
    /// The swarm of a bundle; `None` if BitTorrent cannot cut it as the manifest does.
    pub(crate) fn new(manifest: &Manifest, secret: [u8; 32]) -> Option<Self> {
        let geometry = manifest.geometry;
        Some(Self {
            secret: SwarmSecret::new(secret),
            cut: Cut::new(
                geometry.bundle_size(),
                u32::try_from(geometry.piece_size()).ok()?,
            )?,
        })
    }

    /// What its members call it: who does not have the secret cannot tell which bundle it is.
    pub(crate) fn name(&self) -> [u8; 20] {
        name_of(self.secret.bytes())
    }

    /// What it is called where everybody hears it.
    pub(crate) fn veiled_name(&self) -> [u8; 20] {
        lsd::veiled_name(self.secret.bytes(), &self.name())
    }

    /// How a member of it starts.
    ///
    /// # Errors
    /// If the kernel gives no randomness.
    pub(crate) fn config(&self, have: Bitmap, is_first_seed: bool) -> Result<Config> {
        Ok(Config {
            names: vec![self.name()],
            peer_id: crate::deploy::random()?,
            cut: self.cut,
            have,
            is_first_seed,
            secret: Some(self.secret.clone()),
            nonces: crate::deploy::random()?,
            seed: u64::from_be_bytes(crate::deploy::random()?),
            listen_port: None,
            info: None,
            metainfo: None,
            is_private: false,
            blocks_max: 0,
            up_max: None,
            down_max: None,
        })
    }
}

/// What nodes with a swarm's secret call it.
pub(crate) fn name_of(secret: &[u8; 32]) -> [u8; 20] {
    let mut name = [0; 20];
    blake3::Hasher::new_derive_key("flashover 1 swarm name in the tracker")
        .update(secret)
        .finalize_xof()
        .fill(&mut name);
    name
}
