//! Places at the host: look-ups sent, headers of ours, requests that wait.

use core::net::IpAddr;
use core::time::Duration;

use hashbrown::HashMap;
use proxy_wasm::types::Action;

use super::abi::{self, HostShared, Map};
use super::headers::{Fields, Headers, OURS};
use super::{Judged, Plugin, Properties, client};
use crate::client_ip::Source;
use crate::engine::{Call, Judgement, Ticked, Turn};
use crate::geo::{Located, Outcome};
use crate::limits::identity;
use crate::limits::matching::Request;

/// Requests of one worker that wait at one time; further ones go on at once.
const MAX_WAITING: usize = 1_024;

/// Requests that were paused until their place is known, by their stream's context.
///
/// Each is let go by an answer, by a tick after its time (so at most [`super::TICK_MS`] late)
/// or when the plugin ends; whatever happens first takes it out of here.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    paused: HashMap<u32, Paused>,
    /// What became of those that went on, until their stream asks.
    judged: HashMap<u32, (Judgement, Option<Located>)>,
}

#[derive(Debug, Clone, Copy)]
struct Paused {
    ip: IpAddr,
    until_us: u64,
}

impl Waiting {
    /// Notes a request that is being paused; `false` where too many are.
    pub(super) fn add(&mut self, stream: u32, ip: IpAddr, until_us: u64) -> bool {
        let fits = self.paused.len() + self.judged.len() < MAX_WAITING;
        if fits {
            self.paused.insert(stream, Paused { ip, until_us });
        }
        fits
    }

    /// Tells a stream what became of its request; `false` where it still waits, which it does
    /// no longer after this.
    pub(super) fn take_verdict(&mut self, stream: u32, judged: &mut Judged) -> bool {
        self.paused.remove(&stream);
        let Some((judgement, located)) = self.judged.remove(&stream) else { return false };
        (judged.judgement, judged.located) = (judgement, located);
        true
    }
}

impl Plugin {
    pub(super) fn dispatch_lookup(&mut self, call: &Call) -> Option<u32> {
        let geo = self.engine.geo()?;
        let authorization = geo.authorization();
        let settings = geo.settings();
        let mut headers = vec![
            (":method", call.method),
            (":path", call.path.as_str()),
            (":authority", settings.authority.as_str()),
            ("accept", "application/json"),
        ];
        if let Some(authorization) = &authorization {
            headers.push(("authorization", authorization.as_str()));
        }
        let timeout = Duration::from_millis(call.timeout_ms);
        let cluster = settings.cluster.as_str();
        proxy_wasm::hostcalls::dispatch_http_call(cluster, headers, None, Vec::new(), timeout).ok()
    }

    pub(super) fn located(&mut self, outcome: Outcome) {
        let metrics = &self.metrics.geo;
        let failure = match outcome {
            Outcome::Found => {
                metrics.found.add(1);
                None
            }
            Outcome::Unknown => {
                metrics.unknown.add(1);
                None
            }
            Outcome::Failed(failure) => {
                metrics.failed.add(1);
                Some(failure)
            }
            Outcome::Unexpected => return,
        };
        // Once for each trouble, not once for each look-up.
        if failure == self.geo_trouble {
            return;
        }
        match failure {
            None => log::info!("ipwarden: the provider of places answers again"),
            Some(failure) if failure.is_refusal() => log::error!(
                "ipwarden: the provider of places {failure}: check geo.token and the account's quota; requests go on without their place"
            ),
            Some(failure) => log::warn!(
                "ipwarden: the provider of places {failure}; requests go on without their place"
            ),
        }
        self.geo_trouble = failure;
    }

    pub(super) fn note_geo(&mut self, ticked: &Ticked) {
        let Some(geo) = self.engine.geo() else { return };
        let (counts, common, (opened, closed)) = geo.take_counts();
        let gauges = geo.gauges();
        let metrics = &self.metrics.geo;
        metrics.hits.add(counts.hits);
        metrics.shared_hits.add(counts.shared_hits);
        metrics.misses.add(counts.misses);
        metrics.sent.add(counts.sent);
        metrics.dropped.add(counts.dropped);
        metrics.over_quota.add(counts.over_quota);
        metrics.failed.add(ticked.lookups_lost);
        metrics.opened.add(opened);
        metrics.closed.add(closed);
        self.metrics.damaged.add(common.damaged);
        self.metrics.host_errors.add(common.host_errors);
        // Gauges cost a call each: only when there is something new to show.
        if Some(gauges) != self.geo_gauges {
            metrics.networks.set(gauges.networks);
            metrics.in_flight.set(gauges.in_flight);
            metrics.breaker.set(gauges.breaker);
            metrics.spent.set(gauges.spent);
            self.geo_gauges = Some(gauges);
        }
    }

    /// Removes what the client sent under names of ours and adds the place. Each change clears
    /// Envoy's choice of a route, so nothing is changed where there is nothing to say.
    pub(super) fn tell_upstream(&mut self, located: Option<&Located>, headers: &Headers<'_>) {
        let config = self.engine.config();
        let names = config.geo.as_ref().map(|geo| &geo.headers);
        // A header that a trusted peer may set has a rule of its own.
        let is_trusted = |name: &[u8]| {
            let is_identity = |source: &identity::Source| matches!(source, identity::Source::Header { name: known, .. } if known.as_bytes() == name);
            matches!(&config.client_ip, Source::Header { name: known, .. } if known.as_bytes() == name)
                || config.identity.iter().any(is_identity)
        };
        let is_ours = |name: &[u8]| {
            name.starts_with(OURS)
                || names.is_some_and(|names| {
                    names.iter().flatten().any(|known| known.as_bytes() == name)
                })
        };
        for (name, _) in headers.clone() {
            if is_ours(name) && !is_trusted(name) {
                self.metrics.geo.spoofed.add(1);
                if abi::remove_header(Map::Request, name).is_err() {
                    self.metrics.host_errors.add(1);
                }
            }
        }
        if let (Some(names), Some(Located::Known(place))) = (names, located) {
            for (name, value) in names.iter().zip(place.headers()) {
                if let Some(name) = name
                    && !value.is_empty()
                    && abi::add_header(Map::Request, name.as_bytes(), value.as_bytes()).is_err()
                {
                    self.metrics.host_errors.add(1);
                }
            }
        }
    }

    /// Lets every request go on that has nothing to wait for any more (or `all`). `true` where
    /// one was answered here: then nothing may be sent in the same callback.
    pub(super) fn resume_waiting(&mut self, all: bool) -> bool {
        if self.waiting.paused.is_empty() {
            return false;
        }
        let now_ns = abi::now_ns();
        let engine = &self.engine;
        let is_due = |paused: &Paused| {
            all || now_ns / 1_000 >= paused.until_us || !engine.awaits_place(paused.ip)
        };
        let due: Vec<(u32, Paused)> = self
            .waiting
            .paused
            .iter()
            .filter(|(_, paused)| is_due(paused))
            .map(|(stream, paused)| (*stream, *paused))
            .collect();
        let mut replied = false;
        for (stream, paused) in &due {
            self.waiting.paused.remove(stream);
            let metrics = &self.metrics.geo;
            let in_time = !self.engine.awaits_place(paused.ip);
            if in_time {
                metrics.waited.add(1)
            } else {
                metrics.timed_out.add(1)
            }
            // A stream that is gone needs nothing.
            if abi::speak_for(*stream).is_ok() {
                replied |= self.resume(*stream, now_ns);
            }
        }
        if !due.is_empty() && abi::speak_for(self.root).is_err() {
            self.metrics.host_errors.add(1);
        }
        replied
    }

    /// Judges the request of the stream that is spoken for once more and lets it go on, or
    /// answers it.
    fn resume(&mut self, stream: u32, now_ns: u64) -> bool {
        let block = abi::pairs(Map::Request).unwrap_or_else(|_| {
            self.metrics.host_errors.add(1);
            Vec::new()
        });
        let headers = Headers::new(&block);
        let config = self.engine.config();
        let fields = Fields::pick(headers.clone(), &config.privacy.choices);
        let client = client(&config.client_ip, &headers, &fields);
        let request = Request::new(fields.method, fields.host, fields.path, &headers, &Properties);
        let now_s = u32::try_from(now_ns / 1_000_000_000).unwrap_or(u32::MAX);
        let judgement = self.engine.judge(
            &mut HostShared,
            client,
            &request,
            now_s,
            &mut abi::monotonic_ns,
            Turn::Waited,
        );
        let judged = Judged {
            started_us: 0,
            client,
            judgement,
            located: self.engine.tellable(client, &request),
            identity: Vec::new(),
            facts: Default::default(),
            bytes_in: None,
        };
        let action = self.finish(&judged, &headers);
        let Judged { judgement, located, .. } = judged;
        self.waiting.judged.insert(stream, (judgement, located));
        let goes_on = action == Action::Continue;
        if goes_on && abi::resume_request().is_err() {
            self.metrics.host_errors.add(1);
        }
        !goes_on
    }
}
