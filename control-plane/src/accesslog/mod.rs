//! Access logs of other programs, line by line, as observations.
//!
//! | module | owns |
//! |---|---|
//! | [`json`] | objects of Envoy, Caddy, Traefik, nginx |
//! | [`time`] | the times that logs write |
//!
//! Reads Apache's and nginx's common and combined formats (also behind a virtual host, a
//! syslog header or the prefix of Kubernetes' container runtime), Envoy's default text and
//! Istio's, JSON, and AWS load balancers. Formats are told apart line by line, so that a file may
//! mix them with lines that are none. A request line that is no request is an observation all
//! the same, with its bytes: that is what detectors want to see. Never fails on any bytes; a
//! line that can't be read says why.

pub mod json;
pub mod time;

use std::net::IpAddr;

use ipwarden::record::{Verdict, bounds};

use crate::detect::Observation;
use crate::detect::policy::is_private;

/// Most fields of a line that are looked at.
const FIELDS_MAX: usize = 48;
/// Longest line in bytes; longer ones are refused.
pub const LINE_BYTES: usize = 64 * 1024;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Whatever each line looks like
    Auto,
    /// Apache's and nginx's combined format
    Combined,
    /// The same without referer and user agent
    Common,
    /// Envoy's default text, or Istio's
    Envoy,
    /// One object a line: Envoy, Caddy, Traefik, nginx
    Json,
    /// AWS application load balancer
    Alb,
}

/// Why a line is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// Nothing that is known here looks so.
    #[error("no access log line")]
    Unknown,
    /// Longer than [`LINE_BYTES`].
    #[error("longer than 64 KiB")]
    TooLong,
    /// No address where one is expected.
    #[error("no client address")]
    Address,
    /// No time, or one that is none.
    #[error("no time")]
    Time,
    /// No status where one is expected.
    #[error("no status")]
    Status,
    /// Starts like JSON and is none.
    #[error("not JSON")]
    Json,
    /// The quotes don't match, or fields are missing.
    #[error("cut off")]
    Truncated,
}

/// One line, read; used again for the next.
#[derive(Debug)]
pub struct Entry {
    time_us: u64,
    ip: IpAddr,
    method: Vec<u8>,
    host: Vec<u8>,
    path: Vec<u8>,
    query: Vec<u8>,
    status: u16,
    agent: Vec<u8>,
    referer: Vec<u8>,
    bytes_out: u64,
    raw: Option<Vec<u8>>,
    work: Vec<u8>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            time_us: 0,
            ip: IpAddr::from([0, 0, 0, 0]),
            method: Vec::new(),
            host: Vec::new(),
            path: Vec::new(),
            query: Vec::new(),
            status: 0,
            agent: Vec::new(),
            referer: Vec::new(),
            bytes_out: 0,
            raw: None,
            work: Vec::new(),
        }
    }
}

impl Entry {
    /// The line as detectors see it.
    #[must_use]
    pub fn observation(&self) -> Observation<'_> {
        Observation {
            time_us: self.time_us,
            ip: self.ip,
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: &self.query,
            status: self.status,
            user_agent: &self.agent,
            referer: &self.referer,
            bytes_out: self.bytes_out,
            verdict: Verdict::Admitted,
            weight: 1,
            identity: &[],
            country: None,
            asn: None,
            raw: self.raw.as_deref(),
        }
    }

    /// Moves it in time: examples repeat lines.
    pub const fn shift(&mut self, by_us: u64) {
        self.time_us = self.time_us.saturating_add(by_us);
    }

    /// Reads a line without its end.
    ///
    /// # Errors
    /// [`Reject`]: what it lacks.
    pub fn read(&mut self, line: &[u8], format: Format) -> Result<(), Reject> {
        if line.len() > LINE_BYTES {
            return Err(Reject::TooLong);
        }
        self.clear();
        let line = without_prefix(line.trim_ascii());
        match format {
            Format::Auto => self.read_any(line),
            Format::Combined | Format::Common => self.combined(line),
            Format::Envoy => self.envoy(line),
            Format::Json => json::read(self, line),
            Format::Alb => self.alb(line),
        }
    }

    fn clear(&mut self) {
        self.method.clear();
        self.host.clear();
        self.path.clear();
        self.query.clear();
        self.agent.clear();
        self.referer.clear();
        self.status = 0;
        self.bytes_out = 0;
        self.raw = None;
    }

    fn read_any(&mut self, line: &[u8]) -> Result<(), Reject> {
        match line.first() {
            Some(b'{') => json::read(self, line),
            Some(b'[') => self.envoy(line),
            Some(_) if is_alb(line) => self.alb(line),
            // syslog's own text before an object: `… app: {"ts":…}`.
            Some(_) => match self.combined(line) {
                Err(Reject::Unknown) => {
                    let from = line.windows(2).take(200).position(|pair| matches!(pair, b"{\""));
                    match from.and_then(|from| line.get(from..)) {
                        Some(object) if object.ends_with(b"}") => json::read(self, object),
                        _ => Err(Reject::Unknown),
                    }
                }
                done => done,
            },
            None => Err(Reject::Unknown),
        }
    }

    /// `[vhost] ip ident user [time] "request" status bytes ["referer" "user agent"]`
    fn combined(&mut self, line: &[u8]) -> Result<(), Reject> {
        let open = date_at(line).ok_or(Reject::Unknown)?;
        let head = line.get(..open).unwrap_or_default();
        let rest = line.get(open + 1..).unwrap_or_default();
        let close = rest.iter().position(|byte| *byte == b']').ok_or(Reject::Time)?;
        self.time_us = time::common(rest.get(..close).unwrap_or_default()).ok_or(Reject::Time)?;
        self.client_of_head(head)?;
        let rest = rest.get(close + 1..).unwrap_or_default();
        let (request, fields) = match Fields::of(rest) {
            Ok(fields) if fields.number(1).is_some() => (fields.request()?, fields),
            first => match unescaped_request(rest) {
                Some((request, after)) => (request, Fields::after(after)?),
                None => first.and_then(|fields| Ok((fields.request()?, fields)))?,
            },
        };
        self.status = fields.number(1).filter(|code| *code < 1_000).ok_or(Reject::Status)? as u16;
        self.bytes_out = fields.number(2).unwrap_or(0);
        // Further fields of one's own come after these.
        if let (Some(referer), Some(agent)) = (fields.get(3), fields.get(4))
            && referer.quoted
            && agent.quoted
        {
            self.set_agent(agent.text);
            self.set_referer(referer.text);
            // What nginx's packages bring: the forwarded addresses come last.
            if let Some(forwarded) = fields.get(5).filter(|field| field.quoted)
                && is_private(self.ip)
                && let Some(ip) = forwarded_for(forwarded.text).filter(|ip| !is_private(*ip))
            {
                self.ip = ip;
            }
        }
        self.set_request(request);
        Ok(())
    }

    fn client_of_head(&mut self, head: &[u8]) -> Result<(), Reject> {
        let mut words = head.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let first = words.next().ok_or(Reject::Address)?;
        let second = words.next().unwrap_or_default();
        // The second field of a line without a host is identd's, which nobody has: an address
        // there means that the first is the host, even if that is an address, too.
        if let Some(ip) = address(second) {
            self.ip = ip;
            put(&mut self.host, first, bounds::HOST_BYTES);
        } else {
            self.ip = address(first).ok_or(Reject::Address)?;
        }
        Ok(())
    }

    /// `[time] "request" status flags received sent duration upstream "xff" "agent" "id"
    /// "authority" "upstream"`, and Istio's with three fields more after the flags.
    fn envoy(&mut self, line: &[u8]) -> Result<(), Reject> {
        let rest = line.strip_prefix(b"[").ok_or(Reject::Unknown)?;
        let close = rest.iter().take(48).position(|byte| *byte == b']').ok_or(Reject::Unknown)?;
        self.time_us = time::iso(rest.get(..close).unwrap_or_default()).ok_or(Reject::Unknown)?;
        let fields = Fields::of(rest.get(close + 1..).unwrap_or_default())?;
        let request = fields.request()?;
        self.status = fields.number(1).filter(|code| *code < 1_000).ok_or(Reject::Status)? as u16;
        let shift = if fields.number(3).is_some() { 0 } else { 3 };
        self.bytes_out = fields.number(4 + shift).unwrap_or(0);
        let forwarded = fields.get(7 + shift).map(|field| field.text).unwrap_or_default();
        let remote = fields.get(15 + shift).map(|field| field.text).unwrap_or_default();
        self.ip = forwarded_for(forwarded).or_else(|| address(remote)).ok_or(Reject::Address)?;
        if let Some(agent) = fields.get(8 + shift) {
            self.set_agent(agent.text);
        }
        if let Some(host) = fields.get(10 + shift).filter(|host| host.text != b"-") {
            put(&mut self.host, host.text, bounds::HOST_BYTES);
        }
        self.set_request(request);
        Ok(())
    }

    /// `type time name client:port target:port … status status received sent "request" "agent"`
    fn alb(&mut self, line: &[u8]) -> Result<(), Reject> {
        let fields = Fields::of(line)?;
        let text = |at: usize| fields.get(at).map(|field| field.text).unwrap_or_default();
        self.time_us = time::iso(text(1)).ok_or(Reject::Time)?;
        self.ip = address(text(3)).ok_or(Reject::Address)?;
        self.status = fields.number(8).unwrap_or(0).min(999) as u16;
        self.bytes_out = fields.number(11).unwrap_or(0);
        let request = fields.get(12).filter(|field| field.quoted).ok_or(Reject::Truncated)?;
        self.set_agent(text(13));
        self.set_request(request.text);
        // The load balancer writes every target in absolute form.
        if let Some(at) = self.path.windows(3).take(9).position(|window| window == b"://") {
            let after = self.path.split_off(at + 3);
            let slash = after.iter().position(|byte| *byte == b'/').unwrap_or(after.len());
            put(&mut self.host, after.get(..slash).unwrap_or_default(), bounds::HOST_BYTES);
            self.path.clear();
            self.path.extend_from_slice(after.get(slash..).unwrap_or_default());
            if self.path.is_empty() {
                self.path.push(b'/');
            }
        }
        Ok(())
    }

    pub(super) fn set_agent(&mut self, text: &[u8]) {
        self.agent.clear();
        if text != b"-" {
            unescape(text, &mut self.agent);
            self.agent.truncate(bounds::USER_AGENT_BYTES);
        }
    }

    fn set_referer(&mut self, text: &[u8]) {
        if text != b"-" {
            unescape(text, &mut self.referer);
            self.referer.truncate(bounds::QUERY_BYTES);
        }
    }

    /// A request line as the log has it, escapes and all.
    pub(super) fn set_request(&mut self, escaped: &[u8]) {
        let mut line = std::mem::take(&mut self.work);
        line.clear();
        unescape(escaped, &mut line);
        match request_line(&line) {
            Some((method, target)) => {
                put(&mut self.method, method, bounds::METHOD_BYTES);
                self.set_target(target);
            }
            None => {
                let most = line.len().min(bounds::PATH_BYTES);
                self.raw = Some(line.get(..most).unwrap_or_default().to_vec());
            }
        }
        self.work = line;
    }

    pub(super) fn set_target(&mut self, target: &[u8]) {
        let mark = target.iter().position(|byte| *byte == b'?');
        let path = target.get(..mark.unwrap_or(target.len())).unwrap_or_default();
        put(&mut self.path, path, bounds::PATH_BYTES);
        if let Some(mark) = mark {
            put(&mut self.query, target.get(mark + 1..).unwrap_or_default(), bounds::QUERY_BYTES);
        }
    }
}

fn put(place: &mut Vec<u8>, text: &[u8], most: usize) {
    place.clear();
    place.extend_from_slice(text.get(..text.len().min(most)).unwrap_or_default());
}

/// `METHOD target HTTP/x`; spaces inside the target are the client's.
fn request_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let last = line.iter().rposition(|byte| *byte == b' ')?;
    let method = line.get(..space)?;
    let target = line.get(space + 1..last)?;
    let version = line.get(last + 1..)?.strip_prefix(b"HTTP/")?;
    let is_method = (1..=bounds::METHOD_BYTES).contains(&method.len())
        && method
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_!#$&'*+.^`|~".contains(byte));
    let is_version = matches!(version, [b'0'..=b'9'] | [b'0'..=b'9', b'.', b'0'..=b'9']);
    let is_target = !target.is_empty()
        && (matches!(target.first(), Some(b'/' | b'*'))
            || method == b"CONNECT"
            || target.windows(3).take(9).any(|window| window == b"://"));
    (is_method && is_version && is_target).then_some((method, target))
}

/// An address, perhaps with a port; IPv4 in IPv6 is folded.
pub(super) fn address(text: &[u8]) -> Option<IpAddr> {
    if text.len() < 2 || text.len() > 64 {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let ip = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(ip.to_canonical())
}

/// The client of a list of forwarded addresses: the last entry is what the proxy that wrote the
/// log appended, and those before it are others' word; proxies of the house are passed over.
pub(super) fn forwarded_for(list: &[u8]) -> Option<IpAddr> {
    let mut entries = list.rsplit(|byte| *byte == b',').map(|entry| address(entry.trim_ascii()));
    let last = entries.next()??;
    if !is_private(last) {
        return Some(last);
    }
    // An entry that is none ends the walk: what is before it is worth nothing.
    let first = entries.map_while(|entry| entry).find(|ip| !is_private(*ip));
    Some(first.unwrap_or(last))
}

/// A request whose own quotes were not escaped, and what comes after its last one.
fn unescaped_request(line: &[u8]) -> Option<(&[u8], &[u8])> {
    const END: &[u8] = b" HTTP/";
    let line = line.trim_ascii_start().strip_prefix(b"\"")?;
    let at = line.windows(END.len()).position(|window| window == END)?;
    let quote = at + line.get(at..)?.iter().position(|byte| *byte == b'"')?;
    // "HTTP/1.1" and the like.
    (quote - at <= END.len() + 3).then_some((line.get(..quote)?, line.get(quote + 1..)?))
}

/// Where the bracket of `[22/Nov/2026:16:00:00 +0000]` is.
fn date_at(line: &[u8]) -> Option<usize> {
    let looks = |at: usize| {
        let at = line.get(at + 1..at + 13)?;
        (at[2] == b'/' && at[6] == b'/' && at[11] == b':' && at[0].is_ascii_digit()).then_some(())
    };
    let mut from = 0;
    loop {
        let at = from + line.get(from..)?.iter().position(|byte| *byte == b'[')?;
        if looks(at).is_some() {
            return Some(at);
        }
        from = at + 1;
    }
}

fn is_alb(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    matches!(words.next(), Some(b"http" | b"https" | b"h2" | b"grpcs" | b"ws" | b"wss"))
        && words.next().is_some_and(|word| time::iso(word).is_some())
}

/// Takes away what syslog and container runtimes write before a line.
fn without_prefix(line: &[u8]) -> &[u8] {
    let mut rest = line;
    // Priority of syslog: <134>, perhaps with a version.
    if let Some(after) = rest.strip_prefix(b"<") {
        let digits = after.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        if let Some(after) = after.get(digits..).and_then(|after| after.strip_prefix(b">")) {
            rest = after.strip_prefix(b"1 ").unwrap_or(after);
        }
    }
    let mut words = rest.splitn(4, |byte| *byte == b' ');
    let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if time::iso(first).is_some() {
        if matches!(second, b"stdout" | b"stderr") {
            // Kubernetes: time, stream, F for a full line or P for a part.
            words.next();
            return words.next().unwrap_or_default();
        }
        return after_tag(rest.get(first.len()..).unwrap_or_default()).unwrap_or(rest);
    }
    // "Nov 22 16:00:00 host program[123]: "
    let is_month = first.len() == 3 && time::month(first).is_some();
    if is_month { after_tag(rest).unwrap_or(rest) } else { rest }
}

/// What comes after `program[123]: ` or RFC 5424's structured data.
fn after_tag(line: &[u8]) -> Option<&[u8]> {
    let head = line.get(..line.len().min(256))?;
    let colon = head.windows(2).position(|pair| pair == b": ");
    let data = head.windows(3).position(|three| three == b" - ");
    match (colon, data) {
        (Some(colon), _) if date_at(line).is_none_or(|date| colon < date) => line.get(colon + 2..),
        (_, Some(data)) => {
            // host program pid - - message
            let after = line.get(data + 3..)?;
            Some(after.strip_prefix(b"- ").unwrap_or(after))
        }
        _ => None,
    }
}

/// Undoes the escapes of Apache and nginx.
fn unescape(text: &[u8], out: &mut Vec<u8>) {
    if !text.contains(&b'\\') {
        out.extend_from_slice(text);
        return;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        match after {
            [b'x', a, b, tail @ ..] if digit(*a).is_some() && digit(*b).is_some() => {
                out.push(digit(*a).unwrap_or(0) << 4 | digit(*b).unwrap_or(0));
                rest = tail;
            }
            [letter, tail @ ..] => {
                out.push(match letter {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'b' => 8,
                    b'v' => 11,
                    other => *other,
                });
                rest = tail;
            }
            [] => out.push(b'\\'),
        }
    }
}

/// One field of a line.
#[derive(Debug, Clone, Copy, Default)]
struct Field<'a> {
    text: &'a [u8],
    quoted: bool,
}

/// The fields of a line: words, and texts in quotes.
struct Fields<'a> {
    list: [Field<'a>; FIELDS_MAX],
    len: usize,
}

impl<'a> Fields<'a> {
    fn of(line: &'a [u8]) -> Result<Self, Reject> {
        let mut fields = Self { list: [Field::default(); FIELDS_MAX], len: 0 };
        let mut rest = line.trim_ascii_start();
        while let Some(first) = rest.first() {
            let Some(place) = fields.list.get_mut(fields.len) else { break };
            if *first == b'"' {
                let inner = rest.get(1..).unwrap_or_default();
                let end = closing_quote(inner).ok_or(Reject::Truncated)?;
                *place = Field { text: inner.get(..end).unwrap_or_default(), quoted: true };
                rest = inner.get(end + 1..).unwrap_or_default();
            } else {
                let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
                *place = Field { text: rest.get(..end).unwrap_or_default(), quoted: false };
                rest = rest.get(end..).unwrap_or_default();
            }
            fields.len += 1;
            rest = rest.trim_ascii_start();
        }
        Ok(fields)
    }

    /// The request line, which comes first.
    fn request(&self) -> Result<&'a [u8], Reject> {
        let first = self.get(0).filter(|field| field.quoted);
        first.map(|field| field.text).ok_or(Reject::Truncated)
    }

    /// The fields after one that was read.
    fn after(line: &'a [u8]) -> Result<Self, Reject> {
        let rest = Self::of(line)?;
        let mut fields = Self { list: [Field::default(); FIELDS_MAX], len: 1 };
        for field in rest.list.iter().take(rest.len.min(FIELDS_MAX - 1)) {
            if let Some(place) = fields.list.get_mut(fields.len) {
                *place = *field;
                fields.len += 1;
            }
        }
        Ok(fields)
    }

    fn get(&self, at: usize) -> Option<Field<'a>> {
        self.list.get(..self.len)?.get(at).copied()
    }

    fn number(&self, at: usize) -> Option<u64> {
        let field = self.get(at).filter(|field| !field.quoted && !field.text.is_empty())?;
        field.text.iter().try_fold(0_u64, |value, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            value.checked_mul(10)?.checked_add(digit)
        })
    }
}

fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
