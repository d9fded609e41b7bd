//! Where a ClickHouse log is: one URL.

use std::fmt;

use reqwest::Url;

/// Control planes that may write into one log.
const WRITERS: u8 = 8;
/// What is expected, for error messages.
pub const EXPECTED: &str = "sqlite, or a URL such as clickhouse://user:password@host:8123/database (?secure=true for HTTPS, ?writer=1 to 7 for further control planes, ?cluster=NAME)";

/// The address of a ClickHouse log. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct ClickHouseUrl {
    pub(super) base: Url,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) database: String,
    pub(super) cluster: Option<String>,
    pub(super) writer: u8,
}

impl ClickHouseUrl {
    /// Reads `clickhouse://user:password@host:port/database`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("clickhouse://")?;
        // A scheme that the library knows, so that hosts are read as hosts of the web are.
        let url = Url::parse(&format!("http://{rest}")).ok()?;
        let mut secure = false;
        let mut cluster = None;
        let mut writer = 0;
        for (name, value) in url.query_pairs() {
            match (name.as_ref(), value.as_ref()) {
                ("secure", "true") => secure = true,
                ("secure", "false") => secure = false,
                ("cluster", name) if is_name(name) => cluster = Some(name.to_owned()),
                ("writer", number) => {
                    writer = number.parse().ok().filter(|writer| *writer < WRITERS)?;
                }
                _ => return None,
            }
        }
        let database = url.path().trim_matches('/');
        let database = if database.is_empty() { "default" } else { database };
        if !is_name(database) || url.fragment().is_some() {
            return None;
        }
        let scheme = if secure { "https" } else { "http" };
        let port = url.port().unwrap_or(if secure { 8443 } else { 8123 });
        let base = Url::parse(&format!("{scheme}://{}:{port}/", url.host_str()?)).ok()?;
        let user = decoded(url.username())?;
        Some(Self {
            base,
            user: if user.is_empty() { "default".to_owned() } else { user },
            password: decoded(url.password().unwrap_or_default())?,
            database: database.to_owned(),
            cluster,
            writer,
        })
    }

    /// The same with another password.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        Self { password: password.to_owned(), ..self }
    }

    /// Whether the password travels in the clear to another machine.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_near = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        self.base.scheme() == "http" && !is_near
    }
}

/// What may be written into a statement as it is.
fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Percent-encoding taken away.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for ClickHouseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.base.host_str().unwrap_or_default();
        let port = self.base.port_or_known_default().unwrap_or_default();
        write!(f, "clickhouse://{host}:{port}/{}", self.database)
    }
}

impl fmt::Debug for ClickHouseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_shown_without_its_password() {
        let url = ClickHouseUrl::parse(
            "clickhouse://ip%40warden:se%2Fcret@db.example:9000/logs?secure=true&writer=3&cluster=main",
        )
        .unwrap();
        assert_eq!(url.base.as_str(), "https://db.example:9000/");
        assert_eq!((url.user.as_str(), url.password.as_str()), ("ip@warden", "se/cret"));
        assert_eq!((url.cluster.as_deref(), url.writer), (Some("main"), 3));
        assert_eq!(
            format!("{url} {url:?}").matches("clickhouse://db.example:9000/logs").count(),
            2
        );
        assert!(!format!("{url:?}").contains("cret"));
        let plain = ClickHouseUrl::parse("clickhouse://[::1]").unwrap();
        assert_eq!(plain.base.as_str(), "http://[::1]:8123/");
        assert_eq!((plain.user.as_str(), plain.database.as_str()), ("default", "default"));
        assert!(!plain.is_exposed());
        assert!(ClickHouseUrl::parse("clickhouse://db.example/x").unwrap().is_exposed());
    }

    #[test]
    fn what_is_no_url_of_a_log_is_refused() {
        for text in [
            "http://localhost:8123",
            "clickhouse://",
            "clickhouse://h/a-b",
            "clickhouse://h/a'b",
            "clickhouse://h/a?writer=8",
            "clickhouse://h/a?cluster=x)",
            "clickhouse://h/a?secure=yes",
            "clickhouse://h/a?readonly=1",
        ] {
            assert_eq!(ClickHouseUrl::parse(text), None, "{text}");
        }
    }
}
