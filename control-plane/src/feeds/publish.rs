//! Our decisions as lists of other programs.
//!
//! Each list is what is refused now, allows taken off. Lists of text can't say when an entry
//! ends: whoever uses one fetches it again, which costs nothing while it is the same (`etag`).

use std::fmt::Write as _;

use ipwarden::address::display_target;
use ipwarden::decisions::{NEVER, Revision, UnixSeconds};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::effective::Refused;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ListFormat {
    /// A network a line, nothing else.
    Plain,
    /// The same with a head of comments, as `ipset` and FireHOL read it.
    Netset,
    /// One document, with the end of each network.
    Json,
    /// Lines for nginx' `geo` (and the `map` that uses it): `203.0.113.0/24 1;`.
    Nginx,
    /// A file for HAProxy's `acl … src -f`.
    Haproxy,
}

impl ListFormat {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Plain, Self::Netset, Self::Json, Self::Nginx, Self::Haproxy];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Netset => "netset",
            Self::Json => "json",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// The inverse.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == word)
    }

    /// `content-type` of the list.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            _ => "text/plain; charset=utf-8",
        }
    }
}

#[derive(Serialize)]
struct Document {
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<Timestamp>,
    networks: Vec<Network>,
}

#[derive(Serialize)]
struct Network {
    network: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

/// Writes a list. The same set gives the same bytes.
#[must_use]
pub fn write(refused: &Refused, revision: Revision, format: ListFormat) -> String {
    if format == ListFormat::Json {
        return json(refused, revision);
    }
    let mut out = String::with_capacity(refused.nets.len() * 18 + 400);
    let until = time(refused.valid_until);
    if format != ListFormat::Plain {
        let _ = writeln!(out, "# ipwarden: what is refused, {} networks", refused.nets.len());
        let _ = writeln!(out, "# revision {}", revision.number);
        if let Some(until) = until {
            let _ = writeln!(out, "# an entry ends at {until}: fetch it again by then");
        }
    }
    match format {
        ListFormat::Nginx => out.push_str("# geo $refused { default 0; include THIS_FILE; }\n"),
        ListFormat::Haproxy => {
            out.push_str("# http-request deny if { src -f THIS_FILE }\n");
        }
        _ => {}
    }
    for net in &refused.nets {
        let target = display_target(&net.net);
        let _ = match format {
            ListFormat::Nginx => writeln!(out, "{target} 1;"),
            _ => writeln!(out, "{target}"),
        };
    }
    out
}

fn json(refused: &Refused, revision: Revision) -> String {
    let networks = refused
        .nets
        .iter()
        .map(|net| Network { network: display_target(&net.net), expires_at: time(net.expires_at) });
    let document = Document {
        revision: revision.number,
        valid_until: time(refused.valid_until),
        networks: networks.collect(),
    };
    // Made of texts and numbers: it can't fail.
    let mut text = serde_json::to_string(&document).unwrap_or_default();
    text.push('\n');
    text
}

fn time(seconds: UnixSeconds) -> Option<Timestamp> {
    (seconds != NEVER).then(|| Timestamp::from_second(seconds.into()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::effective::refused;
    use super::*;
    use ipwarden::decisions::{Entry, Tier};

    fn list(format: ListFormat) -> String {
        let entry = |id, target, expires_at| Entry {
            target: ipwarden::address::parse_target(target).unwrap(),
            tier: Tier::Manual,
            id,
            expires_at,
        };
        let entries = [
            entry(1, "203.0.113.0/24", 1_795_363_200),
            entry(2, "192.0.2.7", NEVER),
            entry(3, "2001:db8::/32", NEVER),
        ];
        write(&refused(&entries, true), Revision { epoch: 1, number: 9 }, format)
    }

    #[test]
    fn every_format_is_what_its_program_reads() {
        assert_eq!(list(ListFormat::Plain), "192.0.2.7\n203.0.113.0/24\n2001:db8::/32\n");
        let head = "# ipwarden: what is refused, 3 networks\n# revision 9\n# an entry ends at 2026-11-22T16:00:00Z: fetch it again by then\n";
        assert_eq!(
            list(ListFormat::Netset),
            format!("{head}192.0.2.7\n203.0.113.0/24\n2001:db8::/32\n")
        );
        assert_eq!(
            list(ListFormat::Nginx),
            format!(
                "{head}# geo $refused {{ default 0; include THIS_FILE; }}\n192.0.2.7 1;\n203.0.113.0/24 1;\n2001:db8::/32 1;\n"
            )
        );
        assert_eq!(
            list(ListFormat::Haproxy),
            format!(
                "{head}# http-request deny if {{ src -f THIS_FILE }}\n192.0.2.7\n203.0.113.0/24\n2001:db8::/32\n"
            )
        );
        assert_eq!(
            list(ListFormat::Json),
            "{\"revision\":9,\"valid_until\":\"2026-11-22T16:00:00Z\",\"networks\":[{\"network\":\"192.0.2.7\"},{\"network\":\"203.0.113.0/24\",\"expires_at\":\"2026-11-22T16:00:00Z\"},{\"network\":\"2001:db8::/32\"}]}\n"
        );
    }

    #[test]
    fn words_are_read_back() {
        for format in ListFormat::ALL {
            assert_eq!(ListFormat::from_word(format.as_str()), Some(format));
        }
        assert_eq!(ListFormat::from_word("xml"), None);
    }
}
