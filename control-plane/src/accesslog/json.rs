//! Lines that are JSON objects, whoever wrote them: fields are known by their names, whatever
//! their case and punctuation.

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Entry, Reject, address, forwarded_for, put, time};
use crate::detect::policy::is_private;
use ipwarden::record::bounds;

/// Objects inside objects that are looked into (Caddy: request, headers).
const DEPTH: u8 = 3;

/// What a field is. Of several that mean the same, the first in this order that has a value
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Time,
    Address(u8),
    Forwarded,
    Method,
    Target(u8),
    Request,
    Status(u8),
    Agent,
    Referer,
    Host,
    Bytes,
    Message,
    Nothing,
}

fn meaning(name: &str) -> Meaning {
    let mut buffer = [0_u8; 32];
    let mut len = 0;
    for byte in name.bytes().filter(u8::is_ascii_alphanumeric) {
        let Some(place) = buffer.get_mut(len) else { return Meaning::Nothing };
        *place = byte.to_ascii_lowercase();
        len += 1;
    }
    match buffer.get(..len).unwrap_or_default() {
        b"time" | b"ts" | b"timestamp" | b"starttime" | b"startutc" | b"timelocal"
        | b"timeiso8601" | b"msec" | b"date" => Meaning::Time,
        b"clientip" | b"clientaddress" => Meaning::Address(0),
        b"clienthost"
        | b"remoteaddr"
        | b"remoteip"
        | b"downstreamremoteaddress"
        | b"remoteaddress"
        | b"ip" => Meaning::Address(1),
        b"clientaddr" | b"client" | b"downstreamdirectremoteaddress" => Meaning::Address(2),
        b"xforwardedfor" | b"forwardedfor" | b"httpxforwardedfor" => Meaning::Forwarded,
        b"method" | b"requestmethod" | b"reqmethod" => Meaning::Method,
        b"requesturi" | b"uri" | b"xenvoyoriginalpath" => Meaning::Target(0),
        b"requestpath" | b"path" | b"url" | b"reqpath" => Meaning::Target(1),
        b"request" | b"requestline" => Meaning::Request,
        b"downstreamstatus" | b"responsecode" | b"status" | b"statuscode" => Meaning::Status(0),
        b"originstatus" => Meaning::Status(1),
        b"useragent" | b"httpuseragent" | b"requestuseragent" => Meaning::Agent,
        b"referer" | b"httpreferer" | b"requestreferer" => Meaning::Referer,
        b"host" | b"authority" | b"requesthost" | b"httphost" | b"vhost" => Meaning::Host,
        b"bytessent" | b"bodybytessent" | b"size" | b"downstreamcontentsize" => Meaning::Bytes,
        b"log" | b"message" | b"msg" => Meaning::Message,
        _ => Meaning::Nothing,
    }
}

/// What was found; texts are copied, most hold no escapes but some do.
#[derive(Default)]
struct Found {
    time_us: Option<u64>,
    address: Option<(u8, std::net::IpAddr)>,
    method: Vec<u8>,
    target: Option<(u8, Vec<u8>)>,
    request: Vec<u8>,
    status: Option<(u8, u16)>,
    agent: Vec<u8>,
    referer: Vec<u8>,
    forwarded: Option<std::net::IpAddr>,
    host: Vec<u8>,
    bytes: u64,
    message: Vec<u8>,
}

/// Reads an object.
///
/// # Errors
/// [`Reject`]: what it lacks.
pub(super) fn read(entry: &mut Entry, line: &[u8]) -> Result<(), Reject> {
    let mut found = Found::default();
    let mut reader = serde_json::Deserializer::from_slice(line);
    reader.deserialize_map(Object { found: &mut found, depth: 0 }).map_err(|_| Reject::Json)?;
    if found.status.is_none() && !found.message.is_empty() && found.message.first() != Some(&b'{') {
        // Docker's json-file: the line itself is a text of the object.
        let line = found.message.trim_ascii().to_vec();
        return entry.read_any(&line);
    }
    entry.time_us = found.time_us.ok_or(Reject::Time)?;
    // A proxy of the house, and what it was told about its client.
    let direct = found.address.map(|(_, ip)| ip).filter(|ip| !is_private(*ip));
    let forwarded = || found.forwarded.or_else(|| found.address.map(|(_, ip)| ip));
    entry.ip = direct.or_else(forwarded).ok_or(Reject::Address)?;
    entry.status = found.status.map(|(_, status)| status).ok_or(Reject::Status)?;
    entry.bytes_out = found.bytes;
    put(&mut entry.host, &found.host, bounds::HOST_BYTES);
    if found.agent != b"-" {
        entry.agent.extend(found.agent.iter().take(bounds::USER_AGENT_BYTES));
    }
    entry.referer.extend(found.referer.iter().take(bounds::QUERY_BYTES));
    match found.target {
        Some((_, target)) if !found.method.is_empty() => {
            put(&mut entry.method, &found.method, bounds::METHOD_BYTES);
            entry.set_target(&target);
        }
        _ => entry.set_request(&found.request),
    }
    Ok(())
}

struct Object<'a> {
    found: &'a mut Found,
    depth: u8,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            map.next_value_seed(Value {
                found: &mut *self.found,
                meaning: name,
                depth: self.depth,
            })?;
        }
        Ok(())
    }
}

/// A name, understood without being kept.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Meaning;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Meaning, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Meaning;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Meaning, E> {
        Ok(meaning(name))
    }
}

struct Value<'a> {
    found: &'a mut Found,
    meaning: Meaning,
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl Value<'_> {
    fn text(self, text: &[u8]) {
        let found = self.found;
        let fill = |place: &mut Vec<u8>| {
            if place.is_empty() && text != b"-" {
                place.extend_from_slice(text);
            }
        };
        match self.meaning {
            Meaning::Time => {
                let read = time::iso(text)
                    .or_else(|| time::common(text))
                    .or_else(|| std::str::from_utf8(text).ok()?.parse().ok().and_then(time::epoch));
                found.time_us = found.time_us.or(read);
            }
            Meaning::Address(rank) => {
                // Of a list of forwarders the last was appended by the proxy that wrote this.
                let last = text.rsplit(|byte| *byte == b',').next().unwrap_or_default();
                if let Some(ip) = address(last.trim_ascii())
                    && found.address.is_none_or(|(known, _)| rank < known)
                {
                    found.address = Some((rank, ip));
                }
            }
            Meaning::Forwarded => found.forwarded = found.forwarded.or(forwarded_for(text)),
            Meaning::Target(rank) => {
                if text != b"-" && found.target.as_ref().is_none_or(|(known, _)| rank < *known) {
                    found.target = Some((rank, text.to_vec()));
                }
            }
            Meaning::Status(_) => {
                if let Some(status) =
                    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok())
                {
                    self_number(found, self.meaning, status);
                }
            }
            Meaning::Bytes => {
                if let Some(bytes) =
                    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok())
                {
                    found.bytes = bytes;
                }
            }
            Meaning::Method => fill(&mut found.method),
            Meaning::Request => fill(&mut found.request),
            Meaning::Agent => fill(&mut found.agent),
            Meaning::Referer => fill(&mut found.referer),
            Meaning::Host => fill(&mut found.host),
            Meaning::Message => fill(&mut found.message),
            Meaning::Nothing => {}
        }
    }
}

fn self_number(found: &mut Found, meaning: Meaning, number: f64) {
    match meaning {
        Meaning::Time => found.time_us = found.time_us.or(time::epoch(number)),
        Meaning::Status(rank) => {
            let status = (0.0..1_000.0).contains(&number).then_some(number as u16);
            if let Some(status) = status
                && found.status.is_none_or(|(known, _)| rank < known)
            {
                found.status = Some((rank, status));
            }
        }
        Meaning::Bytes => found.bytes = number.max(0.0) as u64,
        _ => {}
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.text(text.as_bytes());
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self_number(self.found, self.meaning, number as f64);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self_number(self.found, self.meaning, number as f64);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self_number(self.found, self.meaning, number);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.depth >= DEPTH {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        Object { found: self.found, depth: self.depth + 1 }.visit_map(map)
    }

    /// Of a list (Caddy's headers) the first text counts.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { found, meaning, depth } = self;
        let mut meaning = meaning;
        while list
            .next_element_seed(Value { found: &mut *found, meaning, depth: DEPTH.max(depth) })?
            .is_some()
        {
            meaning = Meaning::Nothing;
        }
        Ok(())
    }
}
