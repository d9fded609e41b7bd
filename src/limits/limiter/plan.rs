//! Which buckets a request takes from: the rate that counts for a client, and its keys.

use core::net::IpAddr;

use ipnet::IpNet;

use super::Client;
use crate::address;
use crate::limits::fleet::{BucketId, Secret};
use crate::limits::gcra::{Bucket, Nanos};
use crate::limits::identity::{self, Identity, Source};
use crate::limits::matching::Request;
use crate::limits::table::{Place, PlaceHasher};
use crate::limits::{Key, Limit, Mode, Rate, Scope};

/// A limit with its arithmetic done.
#[derive(Debug)]
pub struct Rule {
    limit: Limit,
    anonymous: Option<Priced>,
    authenticated: Option<Priced>,
    tiers: Vec<(Vec<u8>, Option<Priced>)>,
    ceiling: Option<Priced>,
    needs_identity: bool,
}

type Priced = (Rate, Bucket);

/// A bucket that a request has to take tokens from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    /// Number of the rule.
    pub(super) rule: usize,
    pub(super) mode: Mode,
    pub(super) place: Place,
    /// What the fleet calls the bucket, where it shares it.
    pub(super) id: Option<BucketId>,
    pub(super) rate: Rate,
    pub(super) bucket: Bucket,
    pub(super) cost: u32,
    /// The bucket is the ceiling of an address, not the one that the limit counts by.
    pub(super) is_ceiling: bool,
    /// Somebody needs the result after the request was admitted.
    pub(super) keeps: bool,
    /// The bucket's arrival time after tokens were taken from it.
    pub(super) taken: Option<Nanos>,
}

/// The client, looked into as far as somebody asks.
pub(super) struct Who<'a> {
    sources: &'a [Source],
    client: Client,
    request: &'a Request<'a>,
    identity: Option<Option<Identity>>,
}

impl<'a> Who<'a> {
    pub(super) const fn new(
        sources: &'a [Source],
        client: Client,
        request: &'a Request<'a>,
    ) -> Self {
        Self { sources, client, request, identity: None }
    }

    fn identity(&mut self) -> Option<&Identity> {
        let Self { sources, client, request, identity } = self;
        let resolve =
            || identity::resolve(sources, request.attributes, request.headers, client.peer);
        identity.get_or_insert_with(resolve).as_ref()
    }
}

/// What a key is made of; the first part of its place, so that no two kinds meet.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Kind {
    Ip = 1,
    IpAndRoute = 2,
    Identity = 3,
    Header = 4,
    Ceiling = 5,
}

/// Clients whose identity is known and others never share a bucket: somebody without a token
/// must not be able to lock out those who have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Anonymous = 1,
    Authenticated = 2,
    /// For buckets of both.
    Any = 3,
}

impl Rule {
    pub(super) fn new(limit: Limit) -> Self {
        let priced = |rate: &Rate| match limit.scope {
            Scope::Proxy => (*rate, Bucket::new(rate)),
            Scope::Fleet => (*rate, Bucket::new(rate).of_fleet()),
        };
        let tiers = limit.tiers.iter().flat_map(|tiers| &tiers.rates);
        Self {
            anonymous: limit.anonymous.as_ref().map(priced),
            authenticated: limit.authenticated.as_ref().map(priced),
            tiers: tiers
                .map(|(name, rate)| (name.clone().into_bytes(), rate.as_ref().map(priced)))
                .collect(),
            ceiling: limit.ceiling.as_ref().map(priced),
            needs_identity: limit.anonymous != limit.authenticated
                || limit.tiers.is_some()
                || limit.key == Key::Identity
                || !limit.exempt.identities.is_empty(),
            limit,
        }
    }

    /// The limit.
    #[must_use]
    pub const fn limit(&self) -> &Limit {
        &self.limit
    }

    /// Adds the buckets that a request takes from.
    pub(super) fn plan(
        &self,
        index: usize,
        hashers: &Hashers<'_>,
        who: &mut Who<'_>,
        plan: &mut Vec<Planned>,
    ) {
        let limit = &self.limit;
        let ip = who.client.ip;
        if ip.is_some_and(|ip| limit.exempt.addresses.iter().any(|net| net.contains(&ip))) {
            return;
        }
        let (request, sources) = (who.request, who.sources);
        let identity = if self.needs_identity { who.identity() } else { None };
        let is_exempt = |identity: &Identity| {
            limit.exempt.identities.iter().any(|exempt| exempt.as_bytes() == identity.value)
        };
        if identity.is_some_and(is_exempt) {
            return;
        }
        let class = if identity.is_some() { Class::Authenticated } else { Class::Anonymous };
        let rate = match identity {
            None => self.anonymous,
            Some(identity) => self.rate_of(identity, request, sources),
        };
        let mut hashed = hashers.start(limit);
        let mut add = |hashed: Hashed, (rate, bucket): Priced, is_ceiling| {
            plan.push(Planned {
                rule: index,
                mode: limit.mode,
                place: hashed.place.finish(),
                id: hashed.id(),
                rate,
                bucket,
                cost: limit.cost.default,
                is_ceiling,
                keeps: limit.headers || !limit.cost.status.is_empty(),
                taken: None,
            });
        };
        let mut has_own_key = false;
        match (&limit.key, identity) {
            (Key::Identity, Some(identity)) => {
                put_identity(&mut hashed, identity);
                has_own_key = true;
            }
            (Key::Header(name), _) => {
                let mut value = None;
                request.headers.each(name.as_bytes(), &mut |line| {
                    value.get_or_insert_with(|| line.to_vec());
                });
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    hashed.part(&[Kind::Header as u8, class as u8]);
                    hashed.part(&value);
                    has_own_key = true;
                }
            }
            _ => {}
        }
        if has_own_key {
            let Some(rate) = rate else { return };
            // The ceiling comes first: it is what refuses whoever makes up keys.
            if let (Some(ip), Some(ceiling)) = (ip, self.ceiling) {
                let mut hashed = hashers.start(limit);
                put_ip(&mut hashed, limit, Kind::Ceiling, Class::Any, ip);
                add(hashed, ceiling, true);
            }
            add(hashed, rate, false);
            return;
        }
        // Who has no address (a pipe, an internal listener) can't be counted by it.
        let (Some(ip), Some(rate)) = (ip, rate) else { return };
        if limit.key == Key::IpAndRoute {
            put_ip(&mut hashed, limit, Kind::IpAndRoute, class, ip);
            hashed.part(request.route().unwrap_or_default());
        } else {
            put_ip(&mut hashed, limit, Kind::Ip, class, ip);
        }
        add(hashed, rate, false);
    }

    fn rate_of(
        &self,
        identity: &Identity,
        request: &Request<'_>,
        sources: &[Source],
    ) -> Option<Priced> {
        let claim =
            self.limit.tiers.as_ref().and_then(|tiers| {
                identity::claim(sources, identity, request.attributes, &tiers.claim)
            });
        claim
            .and_then(|claim| self.tiers.iter().find(|(name, _)| *name == claim))
            .map_or(self.authenticated, |(_, rate)| *rate)
    }
}

/// The hashers of an Envoy: of places in its table, and of what the fleet calls a bucket.
pub(super) struct Hashers<'a> {
    pub(super) place: PlaceHasher,
    pub(super) namespace: &'a str,
    /// Where it is known.
    pub(super) secret: Option<Secret>,
}

impl Hashers<'_> {
    fn start(&self, limit: &Limit) -> Hashed {
        let mut place = self.place.clone();
        place.part(self.namespace.as_bytes());
        place.part(limit.name.as_bytes());
        let secret = self.secret.filter(|_| limit.scope == Scope::Fleet);
        Hashed { place, id: secret.map(|secret| start_id(&secret, limit)) }
    }
}

fn start_id(secret: &Secret, limit: &Limit) -> PlaceHasher {
    let mut id = PlaceHasher::with_key(secret);
    id.part(limit.name.as_bytes());
    id
}

/// The names of a bucket in the making.
struct Hashed {
    place: PlaceHasher,
    id: Option<PlaceHasher>,
}

impl Parts for Hashed {
    fn part(&mut self, bytes: &[u8]) {
        self.place.part(bytes);
        if let Some(id) = &mut self.id {
            id.part(bytes);
        }
    }
}

impl Hashed {
    fn id(&self) -> Option<BucketId> {
        self.id.as_ref().map(|id| BucketId(id.digest()))
    }
}

/// What the name of a bucket is made into.
trait Parts {
    fn part(&mut self, bytes: &[u8]);
}

impl Parts for PlaceHasher {
    fn part(&mut self, bytes: &[u8]) {
        Self::part(self, bytes);
    }
}

/// The places of every bucket that belongs to what an operator calls `key`: an address or
/// CIDR, `identity:…` or `header:…`. Buckets by address and route are not among them: which
/// routes there are is not known here.
pub(super) fn places_of(
    rule: &Rule,
    hashers: &Hashers<'_>,
    key: &str,
    sources: &[Source],
) -> Vec<Place> {
    let limit = &rule.limit;
    let mut places = Vec::new();
    each_of(limit, key, sources.len(), &mut |fill| {
        let mut hashed = hashers.start(limit).place;
        fill(&mut hashed);
        places.push(hashed.finish());
    });
    places
}

/// The same as the fleet calls them, for `sources` sources of identities.
pub(super) fn ids_of(limit: &Limit, secret: &Secret, key: &str, sources: usize) -> Vec<BucketId> {
    let mut ids = Vec::new();
    each_of(limit, key, sources, &mut |fill| {
        let mut hashed = start_id(secret, limit);
        fill(&mut hashed);
        ids.push(BucketId(hashed.digest()));
    });
    ids
}

type Fill<'a> = &'a dyn Fn(&mut PlaceHasher);

fn each_of(limit: &Limit, key: &str, sources: usize, add: &mut dyn FnMut(Fill<'_>)) {
    if let Some(value) = key.strip_prefix("identity:") {
        for source in 0..sources {
            let identity = Identity { value: value.as_bytes().to_vec(), source };
            add(&|hashed| put_identity(hashed, &identity));
        }
    } else if let Some(value) = key.strip_prefix("header:") {
        for class in [Class::Anonymous, Class::Authenticated] {
            add(&|hashed| {
                hashed.part(&[Kind::Header as u8, class as u8]);
                hashed.part(value.as_bytes());
            });
        }
    } else if let Ok(net) = address::parse_target(key) {
        let ip = net.addr();
        for class in [Class::Anonymous, Class::Authenticated] {
            add(&|hashed| put_ip(hashed, limit, Kind::Ip, class, ip));
        }
        add(&|hashed| put_ip(hashed, limit, Kind::Ceiling, Class::Any, ip));
    }
}

fn put_identity(hashed: &mut impl Parts, identity: &Identity) {
    let source = u8::try_from(identity.source).unwrap_or(u8::MAX);
    hashed.part(&[Kind::Identity as u8, source]);
    hashed.part(&identity.value);
}

fn put_ip(hashed: &mut impl Parts, limit: &Limit, kind: Kind, class: Class, ip: IpAddr) {
    let prefix = match ip {
        IpAddr::V4(_) => limit.ipv4_prefix,
        IpAddr::V6(_) => limit.ipv6_prefix,
    };
    // A prefix beyond the family's length can't come through the configuration.
    let net = IpNet::new(ip, prefix).map_or(ip, |net| net.network());
    hashed.part(&[kind as u8, class as u8, prefix]);
    match net {
        IpAddr::V4(ip) => hashed.part(&ip.octets()),
        IpAddr::V6(ip) => hashed.part(&ip.octets()),
    }
}
