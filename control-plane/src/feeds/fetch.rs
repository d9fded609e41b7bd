//! One document: over HTTP or from the feeds directory; bounded in size, time and redirects.
//!
//! A feed's publisher must not be able to make the service ask machines in its own network:
//! private and reserved addresses are refused where a name is resolved and at every redirect,
//! unless the feed was added with `private_addresses`. Proxies of the environment are not used:
//! behind one, nobody could say which address is asked.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use ipwarden::address::{fold, is_global};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};

use super::MAX_BYTES;
use crate::cli::client::cause;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a document may take, all in all.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Most redirects.
const REDIRECTS: usize = 5;
/// Largest file with a key in bytes.
const MAX_KEY_BYTES: u64 = 4_096;
/// Largest signature in bytes.
pub const MAX_SIGNATURE_BYTES: usize = 16 * 1024;

/// What the publisher said of the document that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// `etag`.
    pub etag: Option<String>,
    /// `last-modified`.
    pub last_modified: Option<String>,
}

/// What was answered.
#[derive(Debug)]
pub enum Answer {
    /// It is still the one that is known.
    Unchanged,
    /// The document, unpacked, and what the publisher says of it.
    Document {
        /// As it came.
        raw: Vec<u8>,
        /// For the next question.
        known: Known,
    },
}

/// A question over HTTP.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Where.
    pub url: &'a Url,
    /// Whether private addresses may be asked.
    pub private_addresses: bool,
    /// A header with a key.
    pub key: Option<(&'a HeaderName, &'a HeaderValue)>,
    /// What is known already.
    pub known: Option<&'a Known>,
    /// Largest answer in bytes.
    pub most: usize,
}

/// Asks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    public: reqwest::Client,
    private: reqwest::Client,
}

impl Fetcher {
    /// Prepares HTTP.
    ///
    /// # Errors
    /// Why the system's certificates can't be used.
    pub fn new() -> Result<Self, String> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("ipwarden/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .timeout(WHOLE_TIMEOUT)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
        };
        let built = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| format!("HTTP can't be prepared: {}", cause(&error)))
        };
        Ok(Self {
            public: built(builder().dns_resolver(Arc::new(PublicOnly)))?,
            private: built(builder())?,
        })
    }

    /// Gets a document.
    ///
    /// # Errors
    /// Why there is none, in words without the URL: it may hold a key.
    pub async fn get(&self, question: &Question<'_>) -> Result<Answer, String> {
        let client = if question.private_addresses { &self.private } else { &self.public };
        let mut url = question.url.clone();
        for _ in 0..=REDIRECTS {
            if !question.private_addresses
                && let Some(why) = refused_host(&url)
            {
                return Err(why);
            }
            let mut request = client.get(url.clone());
            // A key is for whom it was given for.
            if let Some((name, value)) =
                question.key.filter(|_| url.origin() == question.url.origin())
            {
                request = request.header(name, value);
            }
            if let Some(known) = question.known {
                let conditions = [
                    (header::IF_NONE_MATCH, &known.etag),
                    (header::IF_MODIFIED_SINCE, &known.last_modified),
                ];
                for (name, value) in conditions {
                    if let Some(value) = value {
                        request = request.header(name, value);
                    }
                }
            }
            let answer = request.send().await.map_err(|error| cause(&error.without_url()))?;
            match answer.status() {
                StatusCode::NOT_MODIFIED if question.known.is_some() => {
                    return Ok(Answer::Unchanged);
                }
                status if status.is_success() => {
                    let known = known(answer.headers());
                    let raw = body(answer, question.most).await?;
                    return Ok(Answer::Document { raw, known });
                }
                status if status.is_redirection() => url = redirected(&url, answer.headers())?,
                status => return Err(format!("it answers {status}")),
            }
        }
        Err(format!("it redirects more than {REDIRECTS} times"))
    }
}

/// Why a URL's host may not be asked: it is a literal address that is private, or this machine.
/// Names are judged by what they resolve to.
#[must_use]
pub fn refused_host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    if host == "localhost" || host.ends_with(".localhost") {
        return Some(format!(
            "{host} is this machine: a feed may be fetched from it only if it is added with private_addresses"
        ));
    }
    let ip: IpAddr = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    let ip = fold(ip);
    (!is_global(ip)).then(|| {
        format!(
            "{ip} is a private or reserved address: a feed may be fetched from one only if it is added with private_addresses"
        )
    })
}

/// Resolves names to public addresses only, at the moment of the connection: a name that is
/// looked up twice can't answer differently the second time.
#[derive(Debug)]
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<SocketAddr> =
                found.iter().copied().filter(|address| is_global(fold(address.ip()))).collect();
            if public.is_empty() && !found.is_empty() {
                let refusal = "its name leads to private or reserved addresses only: a feed may be fetched from those only if it is added with private_addresses";
                return Err(refusal.into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, String> {
    let to = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let to = to.and_then(|to| from.join(to).ok()).ok_or("it redirects to nowhere")?;
    match (from.scheme(), to.scheme()) {
        ("http" | "https", "https") | ("http", "http") => Ok(to),
        ("https", "http") => Err("it redirects from https to http".to_owned()),
        _ => Err("it redirects to something that is no HTTP".to_owned()),
    }
}

fn known(headers: &HeaderMap) -> Known {
    let text = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .filter(|text| text.len() <= 500)
            .map(str::to_owned)
    };
    Known { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) }
}

async fn body(mut answer: reqwest::Response, most: usize) -> Result<Vec<u8>, String> {
    let too_large = || format!("the document is larger than {} MiB", most >> 20);
    if answer.content_length().is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| cause(&error.without_url()))? {
        if body.len() + piece.len() > most {
            return Err(too_large());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// Unpacks what is packed with gzip, whatever it is called; bounded.
///
/// # Errors
/// When it is damaged or too large.
pub fn unpack(raw: Vec<u8>) -> Result<Vec<u8>, String> {
    if !raw.starts_with(&[0x1f, 0x8b]) {
        return Ok(raw);
    }
    let mut out = Vec::new();
    let read = MultiGzDecoder::new(raw.as_slice()).take(MAX_BYTES as u64 + 1).read_to_end(&mut out);
    read.map_err(|error| format!("it is packed with gzip and damaged: {error}"))?;
    if out.len() > MAX_BYTES {
        return Err(format!("the document is larger than {} MiB unpacked", MAX_BYTES >> 20));
    }
    Ok(out)
}

/// Reads a file of the feeds directory; `name` was checked. Links that lead out of it are
/// refused. Blocks.
///
/// # Errors
/// Why it can't be read.
pub fn file(directory: &Path, name: &str, most: u64) -> Result<Vec<u8>, String> {
    let path = directory.join(name);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let real = path.canonicalize().map_err(failed)?;
    let home = directory.canonicalize().map_err(failed)?;
    if !real.starts_with(&home) {
        return Err(format!("{}: leads out of the feeds directory", path.display()));
    }
    let mut out = Vec::new();
    let opened = std::fs::File::open(&real).map_err(failed)?;
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(format!("{}: is no file", path.display()));
    }
    opened.take(most + 1).read_to_end(&mut out).map_err(failed)?;
    if out.len() as u64 > most {
        return Err(format!("{}: is larger than {most} bytes", path.display()));
    }
    Ok(out)
}

/// Reads a key from a file of the feeds directory. Blocks.
///
/// # Errors
/// Why there is none; without it.
pub fn key(directory: &Path, name: &str) -> Result<HeaderValue, String> {
    let text = file(directory, name, MAX_KEY_BYTES)?;
    let mut value = HeaderValue::from_bytes(text.trim_ascii())
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("{name} holds no key: expected one line of text"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn redirect(from: &str, to: &str) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, HeaderValue::from_str(to).unwrap());
        redirected(&from.parse().unwrap(), &headers).map(String::from)
    }

    #[test]
    fn redirects_stay_encrypted_and_http() {
        assert_eq!(redirect("https://a.example/x", "/y").unwrap(), "https://a.example/y");
        assert_eq!(
            redirect("http://a.example/", "https://b.example/").unwrap(),
            "https://b.example/"
        );
        let down = redirect("https://a.example/", "http://a.example/").unwrap_err();
        assert_eq!(down, "it redirects from https to http");
        assert!(redirect("http://a.example/", "file:///etc/passwd").is_err());
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let block = vec![b' '; 1 << 20];
        for _ in 0..65 {
            packed.write_all(&block).unwrap();
        }
        let bomb = packed.finish().unwrap();
        assert!(bomb.len() < 1 << 20);
        assert_eq!(unpack(bomb).unwrap_err(), "the document is larger than 64 MiB unpacked");
        assert_eq!(unpack(b"192.0.2.1\n".to_vec()).unwrap(), b"192.0.2.1\n");
        assert!(unpack(vec![0x1f, 0x8b, 8, 0]).is_err());
    }

    #[test]
    fn files_stay_in_their_directory() {
        let place = tempfile::tempdir().unwrap();
        let home = place.path().join("feeds");
        std::fs::create_dir(&home).unwrap();
        std::fs::write(place.path().join("secret"), "x").unwrap();
        std::fs::write(home.join("list.txt"), "192.0.2.1").unwrap();
        std::os::unix::fs::symlink("../secret", home.join("link")).unwrap();
        assert_eq!(file(&home, "list.txt", 100).unwrap(), b"192.0.2.1");
        assert!(file(&home, "list.txt", 3).unwrap_err().ends_with("is larger than 3 bytes"));
        let out = file(&home, "link", 100).unwrap_err();
        assert!(out.ends_with("leads out of the feeds directory"), "{out}");
        std::fs::write(home.join("key"), " secret \n").unwrap();
        assert_eq!(key(&home, "key").unwrap().as_bytes(), b"secret");
    }

    #[tokio::test]
    async fn names_that_lead_home_are_refused_when_they_are_resolved() {
        use std::str::FromStr as _;
        let resolved = PublicOnly.resolve(Name::from_str("localhost").unwrap()).await;
        let why = resolved.err().unwrap().to_string();
        assert!(why.starts_with("its name leads to private or reserved addresses only"), "{why}");
    }
}
