//! Which address is the client, and why.
//!
//! One walk serves both [`resolve`], which runs on every request, and [`explain`], which an
//! operator reads: they can't disagree. The walk refuses to guess:
//!
//! - A header counts only when the peer that sent the request is trusted.
//! - A forwarding header is read from the right, because every proxy appends on the right:
//!   what stands left of the first untrusted address was written by that address.
//! - An entry that is no address ends the walk. Skipping it would let junk shift the result.
//!   The result is then the last good address: that of the trusted proxy which wrote the
//!   entry, or the peer's.
//! - At most [`MAX_ENTRIES`] entries of at most [`MAX_ENTRY_BYTES`] bytes are read, whatever
//!   the size of the header.
//!
//! Every address that leaves this module is folded (see [`crate::address`]).

mod entry;
mod explain;

use core::net::IpAddr;

use ipnet::IpNet;

use self::entry::Hop;
use crate::address::fold;

pub use self::explain::{Explanation, Step, explain};

/// Most entries of a forwarding header that are read, counted from the right. Empty entries
/// count.
pub const MAX_ENTRIES: u32 = 32;

/// Longest entry that is read, in bytes. A longer one ends the walk.
pub const MAX_ENTRY_BYTES: usize = 512;

/// Where the client's address comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Source {
    /// The peer as Envoy gives it (`source.address`): the connection manager has already
    /// applied `use_remote_address`, `xff_num_trusted_hops`, original-IP detection and the
    /// PROXY protocol.
    #[default]
    Envoy,
    /// The first address from the right of a forwarding header that is no trusted proxy.
    TrustedProxies {
        /// Networks of the proxies, folded. The peer must be in one of them for the header to
        /// count.
        proxies: Vec<IpNet>,
        /// The header that they append to.
        header: ForwardingHeader,
        /// Most entries read, 1 to [`MAX_ENTRIES`]; more are cut to that.
        max_hops: u32,
    },
    /// The one address in a header that a trusted peer sets, such as `cf-connecting-ip`.
    Header {
        /// Name in lower case.
        name: String,
        /// Networks of the peers that may set it, folded.
        trusted_peers: Vec<IpNet>,
    },
}

/// The headers that proxies append addresses to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForwardingHeader {
    /// `X-Forwarded-For`: addresses separated by commas, with or without ports.
    XForwardedFor,
    /// `Forwarded` of RFC 7239.
    Forwarded,
}

impl ForwardingHeader {
    /// The header's name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

impl Source {
    /// Name of the header whose lines [`resolve`] needs, in lower case; `None` where it needs
    /// none.
    #[must_use]
    pub fn header_name(&self) -> Option<&str> {
        match self {
            Self::Envoy => None,
            Self::TrustedProxies { header, .. } => Some(header.name()),
            Self::Header { name, .. } => Some(name),
        }
    }
}

/// What the walk looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The peer that sent the request.
    Peer,
    /// An entry of the forwarding header.
    Entry {
        /// Its place counted from the right, from 1.
        from_right: u32,
    },
    /// The header as a whole.
    Header,
}

/// What the walk concluded from what it looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finding {
    /// The source is Envoy's own: its address is the client.
    PeerTaken,
    /// The listener has no peer address (a pipe, an internal listener).
    PeerMissing,
    /// The peer is trusted, so the header counts.
    PeerTrusted,
    /// The peer is not trusted: it is the client and the header is not read.
    PeerUntrusted,
    /// A trusted proxy: the walk goes on.
    EntryTrusted,
    /// Not a trusted proxy: the client.
    EntryClient,
    /// Nothing between two commas: skipped, as RFC 9110 §5.6.1 asks.
    EntryEmpty,
    /// `unknown` or an obfuscated identifier of RFC 7239: legal, and no address.
    EntryHidden,
    /// No address.
    EntryUnreadable,
    /// Longer than [`MAX_ENTRY_BYTES`].
    EntryTooLong,
    /// As many entries were read as are allowed.
    HopsExhausted,
    /// Every entry is a trusted proxy.
    HeaderEnds,
    /// The header is missing.
    HeaderMissing,
    /// The one header holds the client.
    HeaderTaken,
    /// The one header came more than once.
    HeaderRepeated,
    /// The one header holds no address.
    HeaderUnreadable,
}

impl Finding {
    /// A stable word for machines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PeerTaken => "peer_taken",
            Self::PeerMissing => "peer_missing",
            Self::PeerTrusted => "peer_trusted",
            Self::PeerUntrusted => "peer_untrusted",
            Self::EntryTrusted => "entry_trusted",
            Self::EntryClient => "entry_client",
            Self::EntryEmpty => "entry_empty",
            Self::EntryHidden => "entry_hidden",
            Self::EntryUnreadable => "entry_unreadable",
            Self::EntryTooLong => "entry_too_long",
            Self::HopsExhausted => "hops_exhausted",
            Self::HeaderEnds => "header_ends",
            Self::HeaderMissing => "header_missing",
            Self::HeaderTaken => "header_taken",
            Self::HeaderRepeated => "header_repeated",
            Self::HeaderUnreadable => "header_unreadable",
        }
    }

    /// The same for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::PeerTaken => "the address as Envoy gives it: this is the client",
            Self::PeerMissing => "the listener has no peer address: the client is not known",
            Self::PeerTrusted => "a trusted peer: its header counts",
            Self::PeerUntrusted => "not a trusted peer: the header is not read, this is the client",
            Self::EntryTrusted => "a trusted proxy: skipped",
            Self::EntryClient => "not a trusted proxy: this is the client",
            Self::EntryEmpty => "empty: skipped",
            Self::EntryHidden => "a hidden address: the walk ends at the address before it",
            Self::EntryUnreadable => "not an address: the walk ends at the address before it",
            Self::EntryTooLong => "too long for an address: the walk ends at the address before it",
            Self::HopsExhausted => {
                "as many entries as allowed were read: the walk ends at the last address"
            }
            Self::HeaderEnds => "nothing is left to read: the last address is the client",
            Self::HeaderMissing => "the header is missing: the peer is the client",
            Self::HeaderTaken => "set by a trusted peer: this is the client",
            Self::HeaderRepeated => "came more than once: not used, the peer is the client",
            Self::HeaderUnreadable => "holds no single address: not used, the peer is the client",
        }
    }
}

/// One observation of the walk; borrowed, so that nothing is allocated where nobody listens.
#[derive(Debug, Clone, Copy)]
struct Event<'a> {
    place: Place,
    text: &'a [u8],
    address: Option<IpAddr>,
    finding: Finding,
}

/// The client's address, folded; `None` where the listener has no peer address.
///
/// `lines` are the values of [`Source::header_name`]'s field lines in the order in which they
/// came; it may be empty where that is `None`.
#[must_use]
pub fn resolve(source: &Source, peer: Option<IpAddr>, lines: &[&[u8]]) -> Option<IpAddr> {
    walk(source, peer, lines, &mut |_| {})
}

fn walk<'a>(
    source: &Source,
    peer: Option<IpAddr>,
    lines: &[&'a [u8]],
    see: &mut impl FnMut(Event<'a>),
) -> Option<IpAddr> {
    let at_peer =
        |finding| Event { place: Place::Peer, text: b"", address: peer.map(fold), finding };
    let Some(peer) = peer.map(fold) else {
        see(at_peer(Finding::PeerMissing));
        return None;
    };
    let trusted = match source {
        Source::Envoy => {
            see(at_peer(Finding::PeerTaken));
            return Some(peer);
        }
        Source::TrustedProxies { proxies, .. } => covers(proxies, peer),
        Source::Header { trusted_peers, .. } => covers(trusted_peers, peer),
    };
    if !trusted {
        see(at_peer(Finding::PeerUntrusted));
        return Some(peer);
    }
    see(at_peer(Finding::PeerTrusted));
    Some(match source {
        Source::Envoy => peer,
        Source::TrustedProxies { proxies, header, max_hops } => {
            walk_entries(proxies, *header, *max_hops, peer, lines, see)
        }
        Source::Header { .. } => single_header(lines, see).unwrap_or(peer),
    })
}

fn walk_entries<'a>(
    proxies: &[IpNet],
    header: ForwardingHeader,
    max_hops: u32,
    peer: IpAddr,
    lines: &[&'a [u8]],
    see: &mut impl FnMut(Event<'a>),
) -> IpAddr {
    let about_header = |finding| Event { place: Place::Header, text: b"", address: None, finding };
    if lines.is_empty() {
        see(about_header(Finding::HeaderMissing));
        return peer;
    }
    let mut last_good = peer;
    let mut from_right = 0;
    for line in lines.iter().rev() {
        let mut unread = Some(*line);
        while let Some(line) = unread {
            if from_right == max_hops.min(MAX_ENTRIES) {
                see(about_header(Finding::HopsExhausted));
                return last_good;
            }
            from_right += 1;
            let place = Place::Entry { from_right };
            let Some((before, text)) = entry::split_last(line, header) else {
                let text = line.get(line.len().saturating_sub(MAX_ENTRY_BYTES)..).unwrap_or(line);
                see(Event { place, text, address: None, finding: Finding::EntryTooLong });
                return last_good;
            };
            unread = before;
            let hop = entry::read(text, header);
            let (address, finding) = match hop {
                Hop::Empty => (None, Finding::EntryEmpty),
                Hop::Hidden => (None, Finding::EntryHidden),
                Hop::Unreadable => (None, Finding::EntryUnreadable),
                Hop::Address(ip) if covers(proxies, ip) => (Some(ip), Finding::EntryTrusted),
                Hop::Address(ip) => (Some(ip), Finding::EntryClient),
            };
            see(Event { place, text, address, finding });
            last_good = address.unwrap_or(last_good);
            if !matches!(finding, Finding::EntryTrusted | Finding::EntryEmpty) {
                return last_good;
            }
        }
    }
    see(about_header(Finding::HeaderEnds));
    last_good
}

/// Exactly one line with exactly one address; anything else is ambiguous and not used.
fn single_header<'a>(lines: &[&'a [u8]], see: &mut impl FnMut(Event<'a>)) -> Option<IpAddr> {
    let (text, address, finding) = match lines {
        [] => (&b""[..], None, Finding::HeaderMissing),
        [line] if line.len() > MAX_ENTRY_BYTES => {
            (line.get(..MAX_ENTRY_BYTES).unwrap_or(line), None, Finding::HeaderUnreadable)
        }
        [line] => match entry::read(line, ForwardingHeader::XForwardedFor) {
            Hop::Address(ip) => (*line, Some(ip), Finding::HeaderTaken),
            Hop::Empty | Hop::Hidden | Hop::Unreadable => (*line, None, Finding::HeaderUnreadable),
        },
        [..] => (&b""[..], None, Finding::HeaderRepeated),
    };
    see(Event { place: Place::Header, text, address, finding });
    address
}

fn covers(nets: &[IpNet], ip: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&ip))
}

#[cfg(test)]
mod tests;
