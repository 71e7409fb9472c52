//! Finding a head and joining it: at the end the node has a manifest that it trusts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Want;
use crate::base::event::Phase;
use crate::deploy::announce;
use crate::deploy::control::{Client, JoinRequest, Refusal, Report, Shares};
use crate::deploy::descriptors;
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::path::MTU_EVERYWHERE;
use crate::deploy::{hex, net, random};
use crate::image::{Manifest, PublicKey, sign};

/// How long a head is looked for, and how long one is waited for that does not answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause between attempts.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How often the last report is tried.
const LAST_REPORT_ATTEMPTS: u32 = 3;

/// A node that knows its head and its manifest.
pub(super) struct Joined {
    pub(super) manifest: Arc<Manifest>,
    pub(super) sealed: Vec<u8>,
    pub(super) head: SocketAddr,
    pub(super) request: JoinRequest,
    client: Client,
}

/// Finds the head and fetches the manifest, which is signed by the head's key or the given one.
///
/// # Errors
/// If no head is found or answers in time, or it, the token or the manifest is refused.
pub(super) fn join(want: &Want) -> Result<Joined> {
    descriptors::raise_limit();
    let head = match want.head {
        Some(head) => head,
        None => {
            want.events.phase(Phase::Finding);
            let patience = want.deadline.left(PATIENCE);
            announce::find(
                &want.net,
                want.token.head,
                &want.name,
                want.serial,
                patience,
            )?
            .head
        }
    };
    want.events.phase(Phase::Joining);
    let mut client = Client::new(head, &want.token)?;
    let sealed = patiently(want, || client.manifest(want.name.as_str(), want.serial))?;
    let key = match want.key {
        Some(key) => key,
        None => client
            .head_key()
            .map(PublicKey::from_bytes)
            .ok_or_else(|| Error::text(Kind::Internal, "The head's key was not seen"))?,
    };
    let manifest = sign::open(&sealed, &key).or_kind_with(Kind::Trust, || {
        format!("The manifest of {} is refused", want.name)
    })?;
    if manifest.name != want.name || want.serial.is_some_and(|serial| serial != manifest.serial) {
        let text = format!(
            "The head gave {}@{} instead of {}",
            manifest.name, manifest.serial, want.name
        );
        return Err(Error::text(Kind::Trust, text));
    }
    let request = JoinRequest {
        node: hex(&random::<16>()?),
        host: net::host_name(),
        mtu: MTU_EVERYWHERE,
    };
    Ok(Joined {
        manifest: Arc::new(manifest),
        sealed,
        head,
        request,
        client,
    })
}

impl Joined {
    /// Tells the head what this node does now, in one attempt.
    pub(super) fn tell(&mut self, phase: Phase, shares: Shares, loss: f64, cause: &str) {
        let report = self.report(phase, shares, loss, cause);
        if let Err(error) = self.client.report(&report) {
            tracing::debug!(%error, "A report was not taken");
        }
    }

    /// Tells the head that this node is done, in a few attempts: a `cast` may wait for it.
    pub(super) fn tell_done(&mut self, shares: Shares, loss: f64) {
        let report = self.report(Phase::Done, shares, loss, "");
        for attempt in 1..=LAST_REPORT_ATTEMPTS {
            match self.client.report(&report) {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, attempt, "The last report was not taken"),
            }
            std::thread::sleep(PAUSE_MIN);
        }
    }

    fn report(&self, phase: Phase, shares: Shares, loss: f64, cause: &str) -> Report {
        Report {
            node: self.request.node.clone(),
            host: self.request.host.clone(),
            image: self.manifest.name.to_string(),
            serial: self.manifest.serial.0,
            phase,
            bytes_done: shares.total(),
            bytes_total: self.manifest.geometry.bundle_size(),
            shares,
            loss,
            cause: cause.to_owned(),
        }
    }
}

/// Tries until it works, is refused for good, or patience ends.
fn patiently<T>(
    want: &Want,
    mut attempt: impl FnMut() -> std::result::Result<T, Refusal>,
) -> Result<T> {
    let until = Instant::now() + want.deadline.left(PATIENCE);
    let mut pause = PAUSE_MIN;
    let mut is_told = false;
    loop {
        let refusal = match attempt() {
            Ok(done) => return Ok(done),
            Err(refusal) => refusal,
        };
        if !refusal.is_passing() || Instant::now() + pause >= until {
            return Err(refusal.into());
        }
        if !is_told {
            want.events.warn(format!("{refusal}; trying again"));
            is_told = true;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
