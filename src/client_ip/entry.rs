//! One entry of a forwarding header: finding it from the right, reading its address.
//!
//! Searching from the right keeps the left from mattering: an opening quote that a client
//! sent can't swallow what a proxy appended after it.

use core::net::{IpAddr, Ipv6Addr};

use super::{ForwardingHeader, MAX_ENTRY_BYTES};
use crate::address::fold;

/// Longest text of an address with a port, brackets included; the longest is
/// `[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535`.
const MAX_NODE_BYTES: usize = 64;

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// An address, folded.
    Address(IpAddr),
    /// Nothing.
    Empty,
    /// `unknown` or `_hidden` of RFC 7239 §6.
    Hidden,
    /// Something else.
    Unreadable,
}

/// Splits the last entry off a field line: what stands before its comma (`None` at the start
/// of the line) and the entry itself, trimmed. `None` when the entry is longer than
/// [`MAX_ENTRY_BYTES`].
pub(super) fn split_last(line: &[u8], header: ForwardingHeader) -> Option<(Option<&[u8]>, &[u8])> {
    let floor = line.len().saturating_sub(MAX_ENTRY_BYTES + 1);
    let window = line.get(floor..)?;
    let mut quoted = false;
    for (at, byte) in window.iter().enumerate().rev() {
        match byte {
            b'"' if header == ForwardingHeader::Forwarded => {
                // A quote inside a quoted string has an odd number of backslashes before it.
                let before = window.get(..at)?;
                let escapes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
                if !quoted || escapes % 2 == 0 {
                    quoted = !quoted;
                }
            }
            b',' if !quoted => {
                return Some((line.get(..floor + at), window.get(at + 1..)?.trim_ascii()));
            }
            _ => {}
        }
    }
    (line.len() <= MAX_ENTRY_BYTES).then(|| (None, line.trim_ascii()))
}

/// Reads an entry that [`split_last`] found.
pub(super) fn read(text: &[u8], header: ForwardingHeader) -> Hop {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Hop::Empty;
    }
    match header {
        ForwardingHeader::XForwardedFor => node(text),
        ForwardingHeader::Forwarded => forwarded_for(text).unwrap_or(Hop::Unreadable),
    }
}

/// The `for` parameter of one RFC 7239 element. Other parameters are only passed over;
/// `None` when the element breaks the grammar, has no `for` or more than one.
fn forwarded_for(element: &[u8]) -> Option<Hop> {
    let mut hop = None;
    let mut rest = element;
    loop {
        rest = rest.trim_ascii_start();
        match rest {
            [] => return hop,
            [b';', tail @ ..] => rest = tail,
            _ => {
                let equals = rest.iter().position(|byte| *byte == b'=')?;
                let (name, value) = (rest.get(..equals)?, rest.get(equals + 1..)?);
                if name.is_empty() || !name.iter().all(|byte| is_token_byte(*byte)) {
                    return None;
                }
                let (value, tail) = take_value(value)?;
                if name.eq_ignore_ascii_case(b"for") && hop.replace(value.node()).is_some() {
                    return None;
                }
                rest = tail.trim_ascii_start();
                if !matches!(rest, [] | [b';', ..]) {
                    return None;
                }
            }
        }
    }
}

/// A parameter's value: as it stands, or between quotes with its escapes.
#[derive(Clone, Copy)]
enum Value<'a> {
    Plain(&'a [u8]),
    Quoted(&'a [u8]),
}

impl Value<'_> {
    fn node(self) -> Hop {
        match self {
            Self::Plain(text) => node(text),
            Self::Quoted(text) if !text.contains(&b'\\') => node(text),
            Self::Quoted(text) => {
                let mut plain = [0; MAX_NODE_BYTES];
                unescape(text, &mut plain).map_or(Hop::Unreadable, node)
            }
        }
    }
}

/// Splits a value off; an unquoted one ends at the next `;`.
fn take_value(text: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let [b'"', quoted @ ..] = text else {
        let end = text.iter().position(|byte| *byte == b';').unwrap_or(text.len());
        return Some((Value::Plain(text.get(..end)?.trim_ascii_end()), text.get(end..)?));
    };
    let mut escaped = false;
    for (at, byte) in quoted.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((Value::Quoted(quoted.get(..at)?), quoted.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

fn unescape<'a>(text: &[u8], out: &'a mut [u8; MAX_NODE_BYTES]) -> Option<&'a [u8]> {
    let mut len = 0;
    let mut escaped = false;
    for byte in text {
        if *byte == b'\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        *out.get_mut(len)? = *byte;
        len += 1;
    }
    out.get(..len)
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:55`, `2001:db8::1`,
/// `[2001:db8::1]`, `[2001:db8::1]:55`. Of RFC 7239 also the names that hide an address.
fn node(text: &[u8]) -> Hop {
    if text.len() > MAX_NODE_BYTES {
        return Hop::Unreadable;
    }
    if text.starts_with(b"_") || text.eq_ignore_ascii_case(b"unknown") {
        return Hop::Hidden;
    }
    match core::str::from_utf8(text).ok().and_then(address_of_node) {
        Some(ip) => Hop::Address(fold(ip)),
        None => Hop::Unreadable,
    }
}

fn address_of_node(text: &str) -> Option<IpAddr> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (ip, port) = bracketed.split_once(']')?;
        let ip: Ipv6Addr = ip.parse().ok()?;
        return (port.is_empty() || is_port(port.strip_prefix(':')?)).then_some(IpAddr::V6(ip));
    }
    match text.split_once(':') {
        // One colon only: a port. More of them: an IPv6 address without brackets.
        Some((ip, port)) if !port.contains(':') => {
            is_port(port).then_some(IpAddr::V4(ip.parse().ok()?))
        }
        _ => text.parse().ok(),
    }
}

/// A port of RFC 7239 §6: digits, or an obfuscated one that starts with an underscore.
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(hidden) => {
            !hidden.is_empty()
                && hidden.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }
        None => (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// A byte of an RFC 9110 token.
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}
