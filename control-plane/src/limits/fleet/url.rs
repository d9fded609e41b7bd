//! Where the fleet's buckets are: one URL.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, RedisConnectionInfo};
use reqwest::Url;

/// What is expected, for error messages.
pub const EXPECTED: &str = "memory, or a URL such as redis://user:password@host:6379/0 (rediss:// for TLS, redis+unix:///path for a socket, ?cluster=true, ?sentinel=NAME, &node=host:port for further nodes)";
/// Further nodes that may be named: enough to find the others.
const MAX_NODES: usize = 16;
const PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;

/// The address of a Redis or Valkey. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct FleetUrl {
    pub(super) kind: Kind,
    nodes: Vec<Node>,
    is_secure: bool,
    user: Option<String>,
    password: Option<String>,
    database: i64,
}

/// How it is deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Cluster,
    /// The name of the primary that sentinels watch.
    Sentinel(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl FleetUrl {
    /// Reads a URL; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (is_secure, is_unix) = match scheme {
            "redis" | "valkey" => (false, false),
            "rediss" | "valkeys" => (true, false),
            "redis+unix" | "valkey+unix" => (false, true),
            _ => return None,
        };
        if is_unix {
            let is_path = rest.starts_with('/') && !rest.contains(['?', '#', '\0']);
            return is_path.then(|| Self {
                kind: Kind::Single,
                nodes: vec![Node::Unix(PathBuf::from(rest))],
                is_secure,
                user: None,
                password: None,
                database: 0,
            });
        }
        // A scheme that the library knows, so that hosts are read as hosts of the web are.
        let url = Url::parse(&format!("http://{rest}")).ok()?;
        let mut kind = Kind::Single;
        let mut further = Vec::new();
        for (name, value) in url.query_pairs() {
            match (name.as_ref(), value.as_ref()) {
                ("cluster", "true") if kind == Kind::Single => kind = Kind::Cluster,
                ("sentinel", name) if kind == Kind::Single && !name.is_empty() => {
                    kind = Kind::Sentinel(name.to_owned());
                }
                ("node", node) => further.push(node.to_owned()),
                _ => return None,
            }
        }
        let default = if matches!(kind, Kind::Sentinel(_)) { SENTINEL_PORT } else { PORT };
        let mut nodes = vec![node(&url, rest, default)?];
        for text in &further {
            nodes.push(node(&Url::parse(&format!("http://{text}")).ok()?, text, default)?);
        }
        let is_alone = kind == Kind::Single && nodes.len() > 1;
        if is_alone || nodes.len() > MAX_NODES || url.fragment().is_some() {
            return None;
        }
        let database = match url.path().trim_start_matches('/') {
            "" => 0,
            // A cluster has the first alone.
            _ if kind == Kind::Cluster => return None,
            number => number.parse::<u16>().ok()?.into(),
        };
        let decoded =
            |text: &str| (!text.is_empty()).then(|| crate::store::clickhouse::decoded(text));
        let user = match decoded(url.username()) {
            Some(user) => Some(user?),
            None => None,
        };
        let password = match decoded(url.password().unwrap_or_default()) {
            Some(password) => Some(password?),
            None => None,
        };
        Some(Self { kind, nodes, is_secure, user, password, database })
    }

    /// The same with another password.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        Self { password: Some(password.to_owned()), ..self }
    }

    /// Whether the password travels in the clear to another machine.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let is_near = |node: &Node| match node {
            Node::Unix(_) => true,
            Node::Tcp(host, _) => {
                host == "localhost"
                    || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        };
        !self.is_secure && !self.nodes.iter().all(is_near)
    }

    pub(super) const fn is_secure(&self) -> bool {
        self.is_secure
    }

    pub(super) fn addresses(&self) -> Vec<ConnectionAddr> {
        let address = |node: &Node| match node {
            Node::Unix(path) => ConnectionAddr::Unix(path.clone()),
            Node::Tcp(host, port) if self.is_secure => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
            Node::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
        };
        self.nodes.iter().map(address).collect()
    }

    pub(super) fn settings(&self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default().set_db(self.database);
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        settings
    }
}

/// The node of a URL that was written as `text`.
fn node(url: &Url, text: &str, default: u16) -> Option<Node> {
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    let port = match url.port() {
        Some(port) => port,
        // The library leaves out the port that HTTP has by default.
        None if text.split(['/', '?']).next()?.ends_with(":80") => 80,
        None => default,
    };
    Some(Node::Tcp(host, port))
}

impl fmt::Display for FleetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secure = if self.is_secure { "s" } else { "" };
        match self.nodes.first() {
            Some(Node::Unix(path)) => write!(f, "redis+unix://{}", path.display())?,
            Some(Node::Tcp(host, port)) if host.contains(':') => {
                write!(f, "redis{secure}://[{host}]:{port}")?;
            }
            Some(Node::Tcp(host, port)) => write!(f, "redis{secure}://{host}:{port}")?,
            None => {}
        }
        match &self.kind {
            Kind::Single if self.database == 0 => Ok(()),
            Kind::Single => write!(f, "/{}", self.database),
            Kind::Cluster => f.write_str("?cluster=true"),
            Kind::Sentinel(name) => write!(f, "/{}?sentinel={name}", self.database),
        }
    }
}

impl fmt::Debug for FleetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_shown_without_its_password() {
        let url = FleetUrl::parse("rediss://ip%40warden:se%2Fcret@cache.example:7000/3").unwrap();
        assert_eq!(
            format!("{url} {url:?}"),
            "rediss://cache.example:7000/3 rediss://cache.example:7000/3"
        );
        let settings = url.settings();
        assert_eq!(
            (settings.username(), settings.password()),
            (Some("ip@warden"), Some("se/cret"))
        );
        assert_eq!(settings.db(), 3);
        assert!(!url.is_exposed());
        let plain = FleetUrl::parse("valkey://[::1]").unwrap();
        assert_eq!(plain.addresses(), [ConnectionAddr::Tcp("::1".to_owned(), 6379)]);
        assert_eq!((plain.to_string().as_str(), plain.is_exposed()), ("redis://[::1]:6379", false));
        assert!(FleetUrl::parse("redis://cache.example").unwrap().is_exposed());
        let other = plain.with_password("x");
        assert_eq!(other.settings().password(), Some("x"));
        assert_eq!(
            FleetUrl::parse("redis://h:80").unwrap().addresses(),
            [ConnectionAddr::Tcp("h".to_owned(), 80)]
        );
    }

    #[test]
    fn sockets_clusters_and_sentinels_have_urls_too() {
        let socket = FleetUrl::parse("redis+unix:///run/redis.sock").unwrap();
        assert_eq!(socket.addresses(), [ConnectionAddr::Unix("/run/redis.sock".into())]);
        let cluster =
            FleetUrl::parse("redis://a:1?cluster=true&node=b:2&node=c&node=d:80").unwrap();
        let tcp = |host: &str, port| ConnectionAddr::Tcp(host.to_owned(), port);
        assert_eq!(cluster.addresses(), [tcp("a", 1), tcp("b", 2), tcp("c", 6379), tcp("d", 80)]);
        assert_eq!(
            (cluster.kind.clone(), cluster.to_string()),
            (Kind::Cluster, "redis://a:1?cluster=true".to_owned())
        );
        let sentinel = FleetUrl::parse("redis://a/2?sentinel=main&node=b").unwrap();
        assert_eq!(sentinel.addresses(), [tcp("a", 26_379), tcp("b", 26_379)]);
        assert_eq!(sentinel.to_string(), "redis://a:26379/2?sentinel=main");
    }

    #[test]
    fn what_is_no_url_of_a_store_is_refused() {
        for text in [
            "http://localhost:6379",
            "redis://",
            "redis://h/a",
            "redis://h/99999",
            "redis://h/1?cluster=true",
            "redis://h?cluster=yes",
            "redis://h?sentinel=",
            "redis://h?sentinel=a&cluster=true",
            "redis://h?node=b",
            "redis://h?tls=true",
            "redis://h#x",
            "redis+unix://run/redis.sock",
            "redis+unix:///run/redis.sock?db=1",
        ] {
            assert_eq!(FleetUrl::parse(text), None, "{text}");
        }
    }
}
