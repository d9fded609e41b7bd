//! The proxy-wasm adapter: host calls in, the engine, host calls out. It decides nothing.
//!
//! Envoy makes one VM for each worker and one for its main thread; each has one [`Root`]
//! for a plugin instance and one [`Stream`] for a request. All state of an instance is in
//! its [`Plugin`], shared by reference counting: a VM is single-threaded.
//!
//! Nothing here may trap (a trapped VM answers 503 by Envoy's default): no unwrap, no
//! indexing, a state that is borrowed already lets the request pass and is counted.

mod abi;
#[cfg(feature = "figures")]
mod figures;
mod geo;
mod headers;
mod metrics;

use core::cell::RefCell;
use core::time::Duration;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

use hashbrown::HashMap;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use crate::client_ip::{self, Source};
use crate::config::{self, Token};
use crate::decisions::replica::Outcome;
use crate::decisions::{self, wire};
use crate::engine::{Call, CallId, Engine, Event, Judgement, Ticked, To, Turn, Worker};
use crate::geo::provider::MAX_ANSWER_BYTES;
use crate::geo::{Country, Failure, Gauges, Located};
use crate::limits::identity;
use crate::limits::limiter::Client;
use crate::limits::matching::{Attributes, Request};
use crate::privacy::settings::KeySource;
use crate::privacy::{self, AddressForm};
use crate::record::delivery::Answer;
use crate::record::{GEO_QUOTA_FLAG, Record, Verdict};
use abi::{Buffer, HostShared, Map};
use headers::{Facts, Fields, Headers};
use metrics::Metrics;

const TICK_MS: u32 = 100;
/// While a new decision set is loaded in steps.
const LOADING_TICK_MS: u32 = 10;
/// While something is to be sent that a request asked for.
const SOON_MS: u32 = 1;
/// Calls sent in one go; what is left follows with the next tick.
const MAX_CALLS_AT_ONCE: usize = 16;
/// How long a worker that ends waits for its last records to be taken.
const DRAIN_US: u64 = 5_000_000;
/// Name of a proxy that has none in its configuration and no node id.
const UNNAMED_PROXY: &str = "envoy";

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root { id, plugin: None }));
}}

/// One plugin instance in one VM.
struct Plugin {
    engine: Engine,
    metrics: Metrics,
    token: String,
    /// The root context.
    root: u32,
    /// Requests that wait for their place.
    waiting: geo::Waiting,
    calls: HashMap<u32, CallId>,
    tick_ms: u32,
    draining_since_us: Option<u64>,
    takeovers: u64,
    policies_refused: u64,
    /// The last trouble that was logged: each is logged once, not once a retry.
    trouble: Option<Trouble>,
    /// The same of the provider of places, and what its gauges said last.
    geo_trouble: Option<Failure>,
    /// Whether the last report of consumption failed.
    fleet_failing: bool,
    geo_gauges: Option<Gauges>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Refused,
    Unreachable,
    Bad,
}

struct Root {
    id: u32,
    plugin: Option<Rc<RefCell<Plugin>>>,
}

impl Root {
    fn configure(&mut self, bytes: usize) -> Result<(), Vec<String>> {
        // None at all is a valid configuration; one that can't be read must not pass for it.
        let bytes = if bytes == 0 {
            Vec::new()
        } else {
            abi::buffer(Buffer::PluginConfiguration, config::MAX_CONFIG_BYTES + 1)
                .ok()
                .flatten()
                .ok_or_else(|| vec!["Envoy did not hand over the configuration".to_owned()])?
        };
        let mut config = config::check(&bytes)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let token = read_token(config.control_plane.as_ref().map(|c| &c.token), "control_plane")
            .map_err(|error| vec![error])?;
        if let Some(geo) = &mut config.geo
            && geo.token.is_some()
        {
            let token = read_token(geo.token.as_ref(), "geo").map_err(|error| vec![error])?;
            geo.token = Some(Token::Literal(token));
        }
        if let privacy::settings::Address::Pseudonym { key, .. } = &mut config.privacy.address {
            read_key(key).map_err(|error| vec![error])?;
        }
        let proxy = config.proxy.clone().unwrap_or_else(node_id);
        let secret = (u128::from(random()) << 64 | u128::from(random())).to_le_bytes();
        let started_us = abi::now_ns() / 1_000;
        let worker = Worker { id: random(), started_us, proxy, secret };
        let mut engine = Engine::new(config, worker);
        engine.start(&mut HostShared);
        self.plugin = Some(Rc::new(RefCell::new(Plugin {
            engine,
            metrics: Metrics::define(),
            token,
            root: self.id,
            waiting: geo::Waiting::default(),
            calls: HashMap::new(),
            tick_ms: SOON_MS,
            draining_since_us: None,
            takeovers: 0,
            policies_refused: 0,
            trouble: None,
            geo_trouble: None,
            fleet_failing: false,
            geo_gauges: None,
        })));
        // The first decisions are asked for at once.
        abi::set_tick_ms(SOON_MS);
        #[cfg(feature = "figures")]
        if figures::report().is_none() {
            log::error!("figure: something is not as it must be");
        }
        Ok(())
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _: usize) {
        let Some(plugin) = &self.plugin else { return };
        let Ok(mut plugin) = plugin.try_borrow_mut() else { return };
        let Some(id) = plugin.calls.remove(&token) else { return };
        // (0, 0, 0) is a reset: there are no headers to be read.
        let status = if headers == 0 { 0 } else { status(Map::CallResponse).unwrap_or(0) };
        let body = if body == 0 || status != 200 {
            Vec::new()
        } else {
            // One byte more than may be: what is too large is seen to be.
            let most = match id {
                CallId::Geo(_) => MAX_ANSWER_BYTES,
                CallId::Poll(_) | CallId::Ship(_) | CallId::Report | CallId::Consumption(_) => {
                    wire::MAX_MESSAGE_BYTES
                }
            };
            abi::buffer(Buffer::CallResponseBody, most + 1).ok().flatten().unwrap_or_default()
        };
        plugin.answered(id, status, &body);
        plugin.go_on();
        plugin.end_drain();
    }

    fn on_done(&mut self) -> bool {
        let Some(plugin) = &self.plugin else { return true };
        let Ok(mut plugin) = plugin.try_borrow_mut() else { return true };
        let now_us = abi::now_ns() / 1_000;
        let left = plugin.engine.drain(&mut HostShared, now_us);
        plugin.metrics.handovers_left.add(left.messages);
        plugin.metrics.handovers_refused.add(left.refused);
        // What is not sent now follows with the tick.
        if !plugin.resume_waiting(true) {
            plugin.send_calls();
        }
        if plugin.engine.is_drained() {
            return true;
        }
        plugin.draining_since_us = Some(now_us);
        false
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, bytes: usize) -> bool {
        match self.configure(bytes) {
            Ok(()) => true,
            Err(errors) => {
                log::error!("ipwarden: configuration refused, {} errors:", errors.len());
                for error in errors {
                    log::error!("ipwarden: {error}");
                }
                false
            }
        }
    }

    fn on_tick(&mut self) {
        if let Some(plugin) = &self.plugin
            && let Ok(mut plugin) = plugin.try_borrow_mut()
        {
            plugin.tick();
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { id, plugin: self.plugin.clone(), state: None }))
    }
}

impl Plugin {
    fn tick(&mut self) {
        let now_us = abi::now_ns() / 1_000;
        let ticked = self.engine.tick(&mut HostShared, now_us, &mut abi::monotonic_ns);
        if ticked.damaged {
            self.metrics.damaged.add(1);
            log::warn!("ipwarden: decisions in shared data are damaged; fetching them anew");
        }
        if let Some(outcome) = ticked.polled {
            self.polled(outcome, 200, now_us);
        }
        if ticked.applied.is_some() {
            self.note_revision();
        }
        self.note_limits(&ticked);
        self.note_geo(&ticked);
        let inherited = self.engine.take_handover_counts();
        self.metrics.handovers_taken.add(inherited.taken);
        self.metrics.damaged.add(inherited.damaged);
        self.tick_ms_after(&ticked);
        self.go_on();
        let (_, takeovers) = self.engine.leads();
        self.metrics.takeovers.add(takeovers - self.takeovers);
        self.takeovers = takeovers;
        self.metrics.records_held.set(self.engine.held_bytes() as u64);
        self.end_drain();
    }

    fn tick_ms_after(&mut self, ticked: &Ticked) {
        let tick_ms = if ticked.loading { LOADING_TICK_MS } else { TICK_MS };
        if tick_ms != self.tick_ms {
            self.tick_ms = tick_ms;
            abi::set_tick_ms(tick_ms);
        }
    }

    /// Sends what is to be sent, or lets waiting requests go on: a call and a reply to a
    /// request in one callback have crashed Envoy (proxy-wasm-cpp-host#326).
    fn go_on(&mut self) {
        if self.resume_waiting(false) { self.tick_soon() } else { self.send_calls() }
    }

    /// Calls can't be sent for a stream: its end would take the answer with it.
    fn tick_soon(&mut self) {
        if self.tick_ms != SOON_MS {
            self.tick_ms = SOON_MS;
            abi::set_tick_ms(SOON_MS);
        }
    }

    fn note_limits(&mut self, ticked: &Ticked) {
        let metrics = &mut self.metrics;
        for (name, counts) in self.engine.take_limit_counts() {
            metrics.count_limit(name, counts);
        }
        let counts = self.engine.take_table_counts();
        metrics.limits_evicted.add(counts.evicted_in_debt);
        metrics.limits_retries.add(counts.retries);
        metrics.limits_contended.add(counts.contended);
        metrics.damaged.add(counts.damaged);
        metrics.host_errors.add(counts.host_errors);
        if let Some(fill) = ticked.fill {
            metrics.limits_keys.set(fill.live);
            metrics.limits_slots.set(fill.slots);
        }
        let counts = self.engine.take_fleet_counts();
        metrics.fleet_taken.add(counts.taken);
        metrics.fleet_failed.add(counts.failed);
        metrics.fleet_left_out.add(counts.left_out);
        metrics.fleet_advanced.add(counts.advanced);
        let counts = self.engine.take_region_counts();
        metrics.regions_refused.add(counts.refused);
        metrics.regions_shadow.add(counts.shadow);
        metrics.regions_unknown.add(counts.unknown);
        if ticked.policy {
            metrics.policies_applied.add(1);
            if self.engine.regions_are_idle() {
                log::error!(
                    "ipwarden: the control plane blocks countries or networks by AS, but nobody here knows where clients are: they all pass; add the section 'geo'"
                );
            }
        }
        let refused = self.engine.policies_refused();
        if refused > self.policies_refused {
            metrics.policies_refused.add(refused - self.policies_refused);
            self.policies_refused = refused;
            log::error!(
                "ipwarden: the control plane's limits can't be used by this version of the filter ({}); the limits before stay in force",
                crate::VERSION
            );
        }
    }

    fn note_revision(&self) {
        if let Some(revision) = self.engine.revision() {
            self.metrics.revision.set(revision.number);
            self.metrics.entries.set(self.engine.entries() as u64);
        }
    }

    fn send_calls(&mut self) {
        for _ in 0..MAX_CALLS_AT_ONCE {
            let now_us = abi::now_ns() / 1_000;
            let Some(call) = self.engine.next_call(&mut HostShared, now_us) else { return };
            match self.dispatch(&call) {
                Some(token) => {
                    self.calls.insert(token, call.id);
                }
                // The cluster is unknown or has no healthy host: tried again with a pause.
                None => self.answered(call.id, 0, b""),
            }
        }
    }

    fn dispatch(&mut self, call: &Call) -> Option<u32> {
        if call.to == To::Geo {
            return self.dispatch_lookup(call);
        }
        let control_plane = self.engine.config().control_plane.as_ref()?;
        let authorization = format!("Bearer {}", self.token);
        let proxy = self.engine.proxy();
        let instance = format!("{:016x}", self.engine.id());
        let mut headers = vec![
            (":method", call.method),
            (":path", call.path.as_str()),
            (":authority", control_plane.authority.as_str()),
            ("authorization", authorization.as_str()),
            ("x-ipwarden-proxy", proxy),
            ("x-ipwarden-version", crate::VERSION),
            ("x-ipwarden-instance", instance.as_str()),
        ];
        if matches!(call.id, CallId::Poll(_)) {
            headers.push(("accept", decisions::ACCEPT));
        }
        let body = call.body.as_ref().map(|(content_type, body)| {
            headers.push(("content-type", content_type));
            body.as_slice()
        });
        proxy_wasm::hostcalls::dispatch_http_call(
            &control_plane.cluster,
            headers,
            body,
            Vec::new(),
            Duration::from_millis(call.timeout_ms),
        )
        .ok()
    }

    fn answered(&mut self, id: CallId, status: u16, body: &[u8]) {
        let now_us = abi::now_ns() / 1_000;
        match self.engine.answered(id, status, body, &mut HostShared, now_us) {
            Event::Polled(outcome) => self.polled(outcome, status, now_us),
            Event::Shipped { answer, lost } => {
                let handle = match answer {
                    Answer::Stored => self.metrics.batches_stored,
                    Answer::Rejected => self.metrics.batches_rejected,
                    Answer::Failed => self.metrics.batches_failed,
                };
                handle.add(1);
                self.metrics.records_lost.add(lost);
                if answer == Answer::Rejected {
                    log::warn!(
                        "ipwarden: the control plane rejected a batch of records with {status}; {lost} requests are not recorded"
                    );
                }
            }
            Event::Located(outcome) => self.located(outcome),
            Event::Counted { taken: true } => {
                self.metrics.fleet_synced.set(now_us / 1_000_000);
                self.fleet_failing = false;
            }
            Event::Counted { taken: false } => {
                if !core::mem::replace(&mut self.fleet_failing, true) {
                    log::warn!(
                        "ipwarden: the control plane does not count limits over the fleet (status {status}); this proxy counts for itself meanwhile"
                    );
                }
            }
            Event::Reported { taken } => {
                if !taken {
                    log::warn!(
                        "ipwarden: the control plane did not take the report of configured limits (status {status}); trying again"
                    );
                }
            }
        }
    }

    fn polled(&mut self, outcome: Outcome, status: u16, now_us: u64) {
        let metrics = &self.metrics;
        let (handle, trouble) = match outcome {
            Outcome::Snapshot(_) => (metrics.polls_snapshot, None),
            Outcome::Delta(_) => (metrics.polls_delta, None),
            Outcome::Unchanged => (metrics.polls_unchanged, None),
            Outcome::Unreachable { refused: true } => {
                (metrics.polls_refused, Some(Trouble::Refused))
            }
            Outcome::Unreachable { refused: false } => {
                (metrics.polls_failed, Some(Trouble::Unreachable))
            }
            Outcome::Bad(_) | Outcome::BadPolicy(_) => (metrics.polls_bad, Some(Trouble::Bad)),
            // Its end is told by a tick.
            Outcome::Importing => return,
            Outcome::Superseded | Outcome::Unexpected => {
                metrics.polls_superseded.add(1);
                return;
            }
        };
        handle.add(1);
        if trouble.is_none() {
            metrics.synced.set(now_us / 1_000_000);
        }
        if trouble != self.trouble {
            self.trouble = trouble;
            match (outcome, trouble) {
                (_, None) => log::info!("ipwarden: the control plane answers again"),
                (Outcome::Bad(error), _) => {
                    log::error!("ipwarden: {error}; the last good decisions stay in force")
                }
                (Outcome::BadPolicy(error), _) => {
                    log::error!("ipwarden: {error}; the last good limits stay in force")
                }
                (_, Some(Trouble::Refused)) => log::error!(
                    "ipwarden: the control plane refuses us with {status}: check control_plane.token; the last good decisions stay in force"
                ),
                _ => log::warn!(
                    "ipwarden: the control plane does not answer (status {status}); the last good decisions stay in force"
                ),
            }
        }
        // The leader need not wait for its own tick.
        if matches!(outcome, Outcome::Snapshot(_) | Outcome::Delta(_)) {
            let ticked = self.engine.tick(&mut HostShared, now_us, &mut abi::monotonic_ns);
            if ticked.applied.is_some() {
                self.note_revision();
            }
            self.note_limits(&ticked);
        }
    }

    /// After `on_done` asked for time: tells the host when it is over.
    fn end_drain(&mut self) {
        if let Some(since_us) = self.draining_since_us {
            let waited_us = (abi::now_ns() / 1_000).saturating_sub(since_us);
            if self.engine.is_drained() || waited_us >= DRAIN_US {
                self.draining_since_us = None;
                abi::done();
            }
        }
    }
}

/// One request.
struct Stream {
    id: u32,
    plugin: Option<Rc<RefCell<Plugin>>>,
    /// What was seen and judged when the headers came; `None` when they never did.
    state: Option<Judged>,
}

struct Judged {
    started_us: u64,
    client: Client,
    judgement: Judgement,
    /// What was known of the client's place; `None` where nobody was to be asked.
    located: Option<Located>,
    /// The verified identity, where records name it.
    identity: Vec<u8>,
    facts: Facts,
    /// Bytes of a request that has no body; the host knows them of others when they ended.
    bytes_in: Option<u64>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        let Some(plugin) = &self.plugin else { return Action::Continue };
        let Ok(mut plugin) = plugin.try_borrow_mut() else { return Action::Continue };
        let plugin = &mut *plugin;
        let now_ns = abi::now_ns();
        let block = abi::pairs(Map::Request).unwrap_or_else(|_| {
            plugin.metrics.host_errors.add(1);
            Vec::new()
        });
        let headers = Headers::new(&block);
        let config = plugin.engine.config();
        let fields = Fields::pick(headers.clone(), &config.privacy.choices);
        let client = client(&config.client_ip, &headers, &fields);
        if client.ip.is_none() {
            plugin.metrics.address_unknown.add(1);
        }
        plugin.strip_untrusted(&client, &headers);
        let request = Request::new(fields.method, fields.host, fields.path, &headers, &Properties);
        let now_s = u32::try_from(now_ns / 1_000_000_000).unwrap_or(u32::MAX);
        let judgement = plugin.engine.judge(
            &mut HostShared,
            client,
            &request,
            now_s,
            &mut abi::monotonic_ns,
            Turn::First,
        );
        let started_us = now_ns / 1_000;
        let judged = self.state.insert(Judged {
            started_us,
            client,
            judgement,
            located: None,
            identity: plugin.identity(&request, client),
            facts: Facts::pack(&fields),
            bytes_in: end_of_stream.then(|| headers.bytes()).filter(|bytes| *bytes > 0),
        });
        if plugin.engine.has_lookups(started_us) {
            plugin.tick_soon();
        }
        if let (Judgement::Wait, Some(ip)) = (&judged.judgement, client.ip) {
            let until_us = started_us + plugin.engine.wait_us();
            if plugin.waiting.add(self.id, ip, until_us) {
                return Action::Pause;
            }
            // Too many wait already.
            judged.judgement = plugin.engine.judge(
                &mut HostShared,
                client,
                &request,
                now_s,
                &mut abi::monotonic_ns,
                Turn::Waited,
            );
        }
        judged.located = plugin.engine.tellable(client, &request);
        plugin.finish(judged, &headers)
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        let Some(judged) = &mut self.state else { return Action::Continue };
        let waited = matches!(judged.judgement, Judgement::Wait);
        if !waited && !judged.judgement.awaits_response() {
            return Action::Continue;
        }
        let Some(plugin) = &self.plugin else { return Action::Continue };
        let Ok(mut plugin) = plugin.try_borrow_mut() else { return Action::Continue };
        if waited {
            plugin.waiting.take_verdict(self.id, judged);
        }
        if !judged.judgement.awaits_response() {
            return Action::Continue;
        }
        let Some(status) = status(Map::Response) else { return Action::Continue };
        let now = abi::monotonic_ns();
        let headers = plugin.engine.responded(&mut HostShared, &mut judged.judgement, status, now);
        for (name, value) in headers.iter().flatten() {
            if abi::add_header(Map::Response, name.as_bytes(), value.as_bytes()).is_err() {
                plugin.metrics.host_errors.add(1);
            }
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        let Some(plugin) = &self.plugin else { return };
        let Ok(mut plugin) = plugin.try_borrow_mut() else { return };
        let plugin = &mut *plugin;
        if let Some(judged) = &mut self.state
            && matches!(judged.judgement, Judgement::Wait)
            && !plugin.waiting.take_verdict(self.id, judged)
        {
            // It ended while it waited.
            plugin.metrics.count_request(Verdict::Unseen);
        }
        if plugin.engine.config().control_plane.is_none() {
            return;
        }
        let now_us = abi::now_ns() / 1_000;
        match &self.state {
            Some(judged) => {
                if plugin.engine.absorb(judged.client, &judged.judgement, now_us) {
                    return;
                }
                plugin.record(judged, now_us);
            }
            None => {
                // It ended before we saw its headers: malformed, too large, timed out.
                let block = abi::pairs(Map::Request).unwrap_or_default();
                let headers = Headers::new(&block);
                let config = plugin.engine.config();
                let fields = Fields::pick(headers.clone(), &config.privacy.choices);
                let client = client(&config.client_ip, &headers, &fields);
                plugin.metrics.count_request(Verdict::Unseen);
                plugin.record_as(Verdict::Unseen, now_us, client, None, fields, now_us);
            }
        }
    }
}

impl Plugin {
    /// Removes headers that only trusted peers may set: what stands behind us takes them for
    /// verified.
    fn strip_untrusted(&self, client: &Client, headers: &Headers<'_>) {
        let sources = &self.engine.config().identity;
        for name in identity::untrusted_headers(sources, client.peer) {
            let came = headers.clone().any(|(found, _)| found == name.as_bytes());
            // Each removal clears Envoy's choice of a route: only where there is something.
            if came && abi::remove_header(Map::Request, name.as_bytes()).is_err() {
                self.metrics.host_errors.add(1);
            }
        }
    }

    fn record(&mut self, judged: &Judged, now_us: u64) {
        let verdict = judged.judgement.verdict();
        let fields = judged.facts.fields();
        self.record_as(verdict, judged.started_us, judged.client, Some(judged), fields, now_us);
    }

    /// The client's verified identity, where records name it.
    fn identity(&self, request: &Request<'_>, client: Client) -> Vec<u8> {
        let config = self.engine.config();
        let wanted = config.records.identity && !client.opted_out;
        if !wanted || config.control_plane.is_none() {
            return Vec::new();
        }
        let sources = &config.identity;
        identity::resolve(sources, request.attributes, request.headers, client.peer)
            .map(|identity| identity.value)
            .unwrap_or_default()
    }

    /// Ends what a judgement leads to: the request goes on, with the place in its headers, or
    /// is answered here.
    fn finish(&mut self, judged: &Judged, headers: &Headers<'_>) -> Action {
        self.metrics.count_request(judged.judgement.verdict());
        if !judged.judgement.replies() {
            self.tell_upstream(judged.located.as_ref(), headers);
            return Action::Continue;
        }
        let (mut accept, mut content_type): (&[u8], &[u8]) = (b"", b"");
        for (name, value) in headers.clone() {
            match name {
                b"accept" if accept.is_empty() => accept = value,
                b"content-type" => content_type = value,
                _ => {}
            }
        }
        let Some(response) = self.engine.reply(&judged.judgement, accept, content_type) else {
            return Action::Continue;
        };
        let sent = abi::reply(
            u32::from(response.status),
            &headers::serialise(response.headers),
            response.body,
            response.grpc_status.map(|status| status as u8),
        );
        if sent.is_err() {
            self.metrics.host_errors.add(1);
        }
        // Even if the host would not send the reply, a refused request goes no further.
        Action::Pause
    }

    fn record_as(
        &mut self,
        verdict: Verdict,
        started_us: u64,
        client: Client,
        judged: Option<&Judged>,
        fields: Fields<'_>,
        now_us: u64,
    ) {
        let judgement = judged.map(|judged| &judged.judgement);
        let located = judged.and_then(|judged| judged.located.as_ref());
        let place = located.and_then(Located::place);
        let over_quota = matches!(located, Some(Located::OverQuota));
        let status = abi::integer(b"response\0code").and_then(|code| u16::try_from(code).ok());
        let record = Record {
            time_us: started_us,
            ip: client.ip,
            // As it came: the engine disguises it.
            form: AddressForm::Full,
            opted_out: client.opted_out,
            verdict,
            weight: 1,
            decision: judgement.map_or(0, Judgement::decision),
            rule: judgement.map_or(b"", Judgement::rule),
            method: fields.method,
            host: fields.host,
            path: fields.path,
            query: fields.query,
            status: status.unwrap_or(0),
            flags: abi::integer(b"response\0flags").unwrap_or(0)
                | if over_quota { GEO_QUOTA_FLAG } else { 0 },
            duration_us: now_us.saturating_sub(started_us),
            bytes_in: (judged.and_then(|judged| judged.bytes_in))
                .or_else(|| abi::integer(b"request\0total_size"))
                .unwrap_or(0),
            bytes_out: abi::integer(b"response\0total_size").unwrap_or(0),
            user_agent: fields.user_agent,
            request_id: fields.request_id,
            country: place.and_then(|place| place.country()).map(Country::code),
            city: place.map_or(b"", |place| place.city().as_bytes()),
            asn: place.and_then(|place| place.asn()),
            identity: judged.map_or(b"", |judged| &judged.identity),
        };
        let dropped = self.engine.record(&record, now_us);
        self.metrics.records_lost.add(dropped);
    }
}

/// Envoy's properties of the request at hand.
struct Properties;

impl Attributes for Properties {
    fn attribute(&self, path: &[u8]) -> Option<Vec<u8>> {
        abi::property(path).ok().flatten()
    }
}

fn client(source: &Source, headers: &Headers<'_>, fields: &Fields<'_>) -> Client {
    let peer = abi::property(b"source\0address").ok().flatten();
    let peer = peer.and_then(|peer| crate::address::parse_peer(&peer));
    let ip = match source.header_name() {
        None => client_ip::resolve(source, peer, &[]),
        Some(wanted) => {
            let lines: Vec<&[u8]> = headers
                .clone()
                .filter(|(name, _)| *name == wanted.as_bytes())
                .map(|(_, value)| value)
                .collect();
            client_ip::resolve(source, peer, &lines)
        }
    };
    Client { ip, peer, opted_out: fields.opted_out }
}

fn status(map: Map) -> Option<u16> {
    let status = abi::header(map, b":status").ok().flatten()?;
    core::str::from_utf8(&status).ok()?.parse().ok()
}

/// The token itself; `section` is where the configuration names it.
fn read_token(token: Option<&Token>, section: &str) -> Result<String, String> {
    match token {
        None => Ok(String::new()),
        Some(Token::Literal(token)) => Ok(token.clone()),
        Some(Token::Env(name)) => variable(name)
            .map(|value| value.trim().to_owned())
            .ok_or_else(|| format!("{section}.token_env: {}", missing(name))),
    }
}

/// Puts the key itself in the place of the variable that holds it. No message repeats it.
fn read_key(source: &mut KeySource) -> Result<(), String> {
    let KeySource::Env(name) = source else { return Ok(()) };
    let text = variable(name)
        .ok_or_else(|| format!("privacy.key_env: {}, or set privacy.key", missing(name)))?;
    let key = privacy::Key::from_hex(&text)
        .map_err(|error| format!("privacy.key_env: in the environment variable {name}: {error}"))?;
    *source = KeySource::Given(key);
    Ok(())
}

/// A variable of the VM, if it is set to something.
fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the configuration names this variable")]
    let value = std::env::var(name);
    value.ok().filter(|value| !value.trim().is_empty())
}

fn missing(name: &str) -> String {
    format!(
        "the VM has no environment variable {name}: pass it with vm_config.environment_variables (host_env_keys or key_values)"
    )
}

fn node_id() -> String {
    let id = abi::property(b"xds\0node\0id").ok().flatten().unwrap_or_default();
    match String::from_utf8(id) {
        Ok(id) if !id.is_empty() => id,
        _ => UNNAMED_PROXY.to_owned(),
    }
}

/// The standard library seeds its hash maps from the host's random numbers; this is the way
/// to one of them without another dependency.
fn random() -> u64 {
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u64(abi::now_ns());
    hasher.finish()
}
