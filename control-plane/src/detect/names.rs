//! Verified names: whether an address belongs to a crawler, as its operator says it can be known.
//!
//! The name of the address is looked up, and then the addresses of that name, because anybody can
//! give his own address any name. Only asked of addresses that are about to be flagged, and only
//! where `detect.resolver` says whom to ask. Everything is bounded: names of an address, questions
//! at once and of one occasion, time, and what is remembered. Whatever can't be answered in time is
//! no crawler.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};

use super::Flag;
use super::feed::InForce;
use super::rules::Rules;
use crate::metrics::Metrics;

/// One question is answered within this time, or not at all.
const TIMEOUT: Duration = Duration::from_secs(1);
/// All questions of one occasion are.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses asked about at once, and on one occasion.
const AT_ONCE: usize = 16;
/// See [`AT_ONCE`].
const MOST: usize = 64;
/// Names of one address that are looked at: more than one is rare, and anybody may give many.
const NAMES: usize = 4;
/// Answers remembered, as long as they say, but at least and at most so long.
const REMEMBERED: u64 = 4_096;
const AT_LEAST: Duration = Duration::from_secs(600);
const AT_MOST: Duration = Duration::from_secs(86_400);

/// Whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Those of the system (`/etc/resolv.conf`).
    System,
    /// This one.
    At(SocketAddr),
}

impl Server {
    /// The server of a word of the configuration: `system`, or an address, perhaps with a port.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        if word == "system" {
            return Some(Self::System);
        }
        let at = word.parse().ok();
        at.or_else(|| word.parse().ok().map(|ip: IpAddr| (ip, 53).into())).map(Self::At)
    }
}

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
#[error("names can't be looked up (detect.resolver): {0}")]
pub struct NamesError(NetError);

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// A name of it lies in a crawler's domain, and is its own.
    Crawler,
    /// It has no such name.
    Other,
    /// Nobody answered.
    Unknown,
}

/// Looks names up. Cheap to clone; all clones remember together.
#[derive(Clone)]
pub struct Names {
    resolver: Arc<TokioResolver>,
    rules: InForce,
    metrics: Arc<Metrics>,
}

impl Names {
    /// Asks `server`.
    ///
    /// # Errors
    /// [`NamesError`] when the system's configuration can't be used.
    pub fn new(server: Server, rules: InForce, metrics: Arc<Metrics>) -> Result<Self, NamesError> {
        let runtime = TokioRuntimeProvider::default();
        let mut builder = match server {
            Server::System => Resolver::builder(runtime).map_err(NamesError)?,
            Server::At(at) => {
                let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
                (udp.port, tcp.port) = (at.port(), at.port());
                let server = NameServerConfig::new(at.ip(), true, vec![udp, tcp]);
                let config = ResolverConfig::from_name_servers(vec![server]);
                Resolver::builder_with_config(config, runtime)
            }
        };
        let options: &mut ResolverOpts = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = 1;
        options.cache_size = REMEMBERED;
        (options.positive_min_ttl, options.negative_min_ttl) = (Some(AT_LEAST), Some(AT_LEAST));
        (options.positive_max_ttl, options.negative_max_ttl) = (Some(AT_MOST), Some(AT_MOST));
        // A hosts file is no proof of anything.
        options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
        let resolver = Arc::new(builder.build().map_err(NamesError)?);
        Ok(Self { resolver, rules, metrics })
    }

    /// Takes back the flags of crawlers.
    pub async fn spare(&self, flags: &mut Vec<Flag>) {
        let rules = self.rules.rules();
        if !rules.known().iter().any(|known| !known.domains.is_empty()) {
            return;
        }
        let mut counts: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for flag in flags.iter() {
            let Some(ip) = address(flag) else { continue };
            let count = counts.entry(ip).or_default();
            *count = (*count).max(flag.count);
        }
        let mut asked: Vec<(IpAddr, u64)> = counts.into_iter().collect();
        // Who asks for much: crawlers do.
        asked.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        self.metrics.names("skipped", asked.len().saturating_sub(MOST));
        let asked: Vec<IpAddr> = asked.into_iter().take(MOST).map(|(ip, _)| ip).collect();
        let mut addresses: BTreeMap<IpAddr, Known> = BTreeMap::new();
        let rules = &rules;
        let answers = futures_util::stream::iter(asked.clone())
            .map(|ip| async move { (ip, self.look_up(ip, rules).await) })
            .buffer_unordered(AT_ONCE);
        tokio::pin!(answers);
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                answer = answers.next() => match answer {
                    Some((ip, known)) => {
                        addresses.insert(ip, known);
                    }
                    None => break,
                },
                () = &mut patience => break,
            }
        }
        for ip in &asked {
            let known = addresses.get(ip).unwrap_or(&Known::Unknown);
            self.metrics.names(
                match known {
                    Known::Crawler => "verified",
                    Known::Other => "other",
                    Known::Unknown => "unknown",
                },
                1,
            );
        }
        flags.retain(|flag| {
            address(flag).and_then(|ip| addresses.get(&ip)) != Some(&Known::Crawler)
        });
    }

    async fn look_up(&self, ip: IpAddr, rules: &Rules) -> Known {
        let lies_in_one = |name: &str| {
            rules
                .known()
                .iter()
                .flat_map(|known| &known.domains)
                .any(|domain| lies_in(name, domain))
        };
        let names = match self.resolver.reverse_lookup(ip).await {
            Ok(names) => names,
            Err(error) if error.is_no_records_found() => return Known::Other,
            Err(_) => return Known::Unknown,
        };
        let names = names.answers().iter().filter_map(|record| match &record.data {
            RData::PTR(name) => Some(name.0.clone()),
            _ => None,
        });
        let mut known = Known::Other;
        for name in names.take(NAMES).filter(|name| lies_in_one(&name.to_ascii())) {
            match self.resolver.lookup_ip(name).await {
                Ok(back) if back.iter().any(|found| found == ip) => return Known::Crawler,
                Err(error) if !error.is_no_records_found() => known = Known::Unknown,
                _ => {}
            }
        }
        known
    }
}

/// The one address that a flag is about: names are of addresses, not of networks.
fn address(flag: &Flag) -> Option<IpAddr> {
    let is_one = flag.target.prefix_len() == flag.target.max_prefix_len();
    (is_one && flag.veil.is_none()).then(|| flag.target.addr())
}

/// Whether a name is a domain or lies below it.
fn lies_in(name: &str, domain: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, PTR};
    use hickory_resolver::proto::rr::{Name, Record};
    use ipwarden::privacy::AddressForm;

    use super::*;
    use crate::detect::{Severity, Source};
    use crate::metrics::Kind;
    use crate::privacy::Veil;

    #[test]
    fn whom_to_ask_is_a_word_or_an_address() {
        let at = |text: &str| Some(Server::At(text.parse().unwrap()));
        assert_eq!(Server::from_word("system"), Some(Server::System));
        assert_eq!(Server::from_word("127.0.0.1:5353"), at("127.0.0.1:5353"));
        assert_eq!(Server::from_word("192.0.2.1"), at("192.0.2.1:53"));
        assert_eq!(Server::from_word("2001:db8::1"), at("[2001:db8::1]:53"));
        assert_eq!(Server::from_word("dns.example"), None);
    }

    type Zone = Vec<(&'static str, RData)>;

    /// A server of some names on this machine, and how many questions it was asked. What it does
    /// not know does not exist; about `192.0.2.9` it keeps silent.
    async fn server(zone: Zone) -> (SocketAddr, Arc<AtomicUsize>) {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::Relaxed);
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let query = question.queries[0].clone();
                let name = query.name.to_ascii().to_ascii_lowercase();
                if name.starts_with("9.2.0.192.") {
                    continue;
                }
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                answer.add_query(query.clone());
                for (known, data) in &zone {
                    if *known == name && data.record_type() == query.query_type {
                        answer.add_answer(Record::from_rdata(query.name.clone(), 60, data.clone()));
                    }
                }
                if !zone.iter().any(|(known, _)| *known == name) {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        (at, asked)
    }

    fn ptr(name: &str) -> RData {
        RData::PTR(PTR(Name::from_ascii(name).unwrap()))
    }

    fn a(ip: &str) -> RData {
        RData::A(A(ip.parse().unwrap()))
    }

    fn flag(target: &str) -> Flag {
        Flag {
            time_us: 1,
            target: target.parse().unwrap(),
            veil: Veil::NONE,
            rule: "crawling".to_owned(),
            severity: Severity::Low,
            detail: String::new(),
            count: 1,
            evidence: Vec::new(),
            source: Source::Streaming,
            score: 0.2,
            features: Vec::new(),
        }
    }

    #[tokio::test]
    async fn who_has_a_crawlers_name_that_leads_back_is_spared_and_nobody_else() {
        let (at, asked) = server(vec![
            ("1.2.0.192.in-addr.arpa.", ptr("crawl-1.googlebot.com.")),
            ("crawl-1.googlebot.com.", a("192.0.2.1")),
            // Forged: the name is somebody else's.
            ("2.2.0.192.in-addr.arpa.", ptr("crawl-1.googlebot.com.")),
            ("3.2.0.192.in-addr.arpa.", ptr("host.example.")),
            ("host.example.", a("192.0.2.3")),
        ])
        .await;
        let metrics = Arc::new(Metrics::new());
        let rules = InForce::new(Rules::default_rules());
        let names = Names::new(Server::At(at), rules, Arc::clone(&metrics)).unwrap();
        let targets =
            ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32", "2001:db8::/64"];
        let spare = async || {
            let mut flags: Vec<Flag> = targets.iter().map(|target| flag(target)).collect();
            // A pseudonym only looks like an address.
            let form = AddressForm::Pseudonym;
            flags.push(Flag { veil: Veil { form, ..Veil::NONE }, ..flag("192.0.2.1/32") });
            names.spare(&mut flags).await;
            flags.iter().map(|flag| flag.target.to_string()).collect::<Vec<_>>()
        };
        let kept =
            ["192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32", "2001:db8::/64", "192.0.2.1/32"];
        assert_eq!(spare().await, kept);
        let first = asked.load(Ordering::Relaxed);
        assert_eq!(spare().await, kept);
        assert_eq!(asked.load(Ordering::Relaxed), first, "answers are remembered");
        let count = |kind| metrics.detect.names.get_or_create(&Kind(kind)).get();
        assert_eq!((count("verified"), count("other"), count("unknown")), (2, 6, 0));
    }

    #[tokio::test]
    async fn who_cannot_be_asked_about_in_time_is_no_crawler() {
        let (at, _) = server(Vec::new()).await;
        let metrics = Arc::new(Metrics::new());
        let rules = InForce::new(Rules::default_rules());
        let names = Names::new(Server::At(at), rules, Arc::clone(&metrics)).unwrap();
        let mut flags = vec![flag("192.0.2.9/32")];
        let start = tokio::time::Instant::now();
        names.spare(&mut flags).await;
        assert!(start.elapsed() < 2 * PATIENCE, "{:?}", start.elapsed());
        assert_eq!(flags.len(), 1);
        assert_eq!(metrics.detect.names.get_or_create(&Kind("unknown")).get(), 1);
        // No more are asked about on one occasion than the bound.
        let mut many: Vec<Flag> = (0..100).map(|n| flag(&format!("198.51.100.{n}/32"))).collect();
        names.spare(&mut many).await;
        assert_eq!(many.len(), 100);
        let count = |kind| metrics.detect.names.get_or_create(&Kind(kind)).get();
        assert_eq!((count("skipped"), count("other")), (36, 64));
    }

    #[test]
    fn a_name_lies_in_a_domain_at_a_dot_only() {
        for (name, yes) in [
            ("crawl-66-249-66-1.googlebot.com.", true),
            ("Crawl.GoogleBot.com", true),
            ("googlebot.com", true),
            ("evilgooglebot.com", false),
            ("googlebot.com.evil.example", false),
        ] {
            assert_eq!(lies_in(name, "googlebot.com"), yes, "{name}");
        }
    }
}
