//! One source into a file: an npm package, a URL, or a path.
//!
//! npm is asked through its own client, so that its settings (mirror, proxy, credentials)
//! count and no registry is named here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use reqwest::Url;
use tokio::io::AsyncWriteExt as _;

use crate::cli::client::cause;
use crate::cli::error::{CliError, Result};
use crate::cli::progress::Progress;
use crate::cli::text::bytes;
use crate::geo::database::MAX_FILE_BYTES;

/// The npm client.
pub(super) const NPM: &str = "npm";
/// How long npm may take: the city data is 64 MB, and lines are slow.
const NPM_TIMEOUT: Duration = Duration::from_secs(900);
/// A download that is silent for so long has failed.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most redirects that are followed: downloads usually are redirected.
const MAX_REDIRECTS: usize = 5;
/// Most bytes of npm's complaints that are repeated.
const MAX_COMPLAINT_BYTES: usize = 600;

/// Where data comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An npm package, perhaps with a version: `@scope/name@1.2.3`.
    Npm(String),
    /// Something to download.
    Url(Url),
    /// A file.
    Path(PathBuf),
}

impl Source {
    /// Reads `npm:PACKAGE`, a URL, or a path.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(package) = text.strip_prefix("npm:") {
            let named =
                package.bytes().all(|b| b.is_ascii_alphanumeric() || b"@/-_.~^".contains(&b));
            // npm would take a leading dash for an option, and dots for a directory.
            let ours = package.starts_with(|c: char| c == '@' || c.is_ascii_alphanumeric());
            return (named && ours && !package.contains(".."))
                .then(|| Self::Npm(package.to_owned()))
                .ok_or_else(|| "expected an npm package such as npm:@scope/name".to_owned());
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
            return Ok(Self::Url(url));
        }
        if text.is_empty() {
            return Err("expected npm:PACKAGE, a URL or a path".to_owned());
        }
        Ok(Self::Path(PathBuf::from(text)))
    }

    /// What a file of it is called where nothing else says so.
    pub(super) fn file_name(&self) -> String {
        let last = match self {
            Self::Npm(_) => None,
            Self::Url(url) => url.path_segments().and_then(|mut segments| segments.next_back()),
            Self::Path(path) => path.file_name().and_then(|name| name.to_str()),
        };
        last.unwrap_or_default().to_owned()
    }
}

/// Without what may be secret: name, password and query of a URL.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Npm(package) => write!(f, "npm package {package}"),
            Self::Url(url) => {
                let host = url.host_str().unwrap_or_default();
                let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
                write!(f, "{}://{host}{port}{}", url.scheme(), url.path())
            }
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What was brought.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The file.
    pub(super) path: PathBuf,
    /// Where it came from: with the version where there is one.
    pub(super) source: String,
    /// Name of the npm package, without its version.
    pub(super) package: Option<String>,
}

/// Brings a source into a directory of ours. A path stays where it is.
///
/// # Errors
/// [`CliError::Update`] with what to do by hand; [`CliError::File`] for a path.
pub(super) async fn fetch(
    source: &Source,
    directory: &Path,
    npm: &str,
    progress: &Progress,
) -> Result<Fetched> {
    match source {
        Source::Npm(package) => pack(package, directory, npm, progress).await,
        Source::Url(url) => {
            let path = directory.join("download");
            download(url, &path, progress)
                .await
                .map_err(|why| CliError::Update(format!("{source} can't be downloaded: {why}")))?;
            Ok(Fetched { path, source: source.to_string(), package: None })
        }
        Source::Path(path) => {
            let name = path.display().to_string();
            let file = |error| CliError::File { path: name.clone(), source: error };
            if !std::fs::metadata(path).map_err(file)?.is_file() {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "not a file");
                return Err(CliError::File { path: name, source: error });
            }
            Ok(Fetched { path: path.clone(), source: name, package: None })
        }
    }
}

/// `npm pack`: downloads a package as it is published and runs nothing of it.
async fn pack(package: &str, directory: &Path, npm: &str, progress: &Progress) -> Result<Fetched> {
    progress.wait("npm");
    let failed = |why: String, mend: &str| {
        CliError::Update(format!(
            "npm package {package} can't be brought: {why}: {mend}, or bring its .tgz or any MMDB file here by other means and run `ipwarden geo update --from FILE`"
        ))
    };
    let reach = "see whether npm reaches its registry (`npm ping`)";
    let mut command = tokio::process::Command::new(npm);
    command
        .args([
            "pack",
            package,
            "--json",
            "--ignore-scripts",
            "--loglevel=error",
            "--pack-destination",
        ])
        .arg(directory)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(NPM_TIMEOUT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            let mend = "install npm (it comes with Node.js)";
            return Err(failed(format!("{npm} can't be started: {error}"), mend));
        }
        Err(_) => {
            return Err(failed(format!("npm took longer than {} s", NPM_TIMEOUT.as_secs()), reach));
        }
    };
    if !output.status.success() {
        return Err(failed(format!("npm failed: {}", complaint(&output.stderr)), reach));
    }
    let packed = || -> io::Result<Option<PathBuf>> {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "tgz") {
                return Ok(Some(path));
            }
        }
        Ok(None)
    };
    let path = packed()
        .map_err(|error| failed(format!("what npm wrote can't be found: {error}"), reach))?
        .ok_or_else(|| failed("npm wrote no package".to_owned(), "update npm"))?;
    let (name, id) =
        identity(&output.stdout).unwrap_or_else(|| (package.to_owned(), package.to_owned()));
    Ok(Fetched { path, source: format!("npm {id}"), package: Some(name) })
}

/// Name and name with version out of what `npm pack --json` prints.
fn identity(stdout: &[u8]) -> Option<(String, String)> {
    let printed: serde_json::Value = serde_json::from_slice(stdout).ok()?;
    let first = printed.get(0)?;
    let text = |key: &str| Some(first.get(key)?.as_str()?.chars().take(200).collect::<String>());
    Some((text("name")?, text("id")?))
}

/// The first lines that npm complained with, on one line.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let mut said = String::new();
    for line in text.lines() {
        let line = line.trim_start_matches("npm error").trim();
        // Where npm keeps its own log is of no use to anybody here.
        if line.is_empty() || line.contains("complete log of this run") {
            continue;
        }
        if said.len() + line.len() > MAX_COMPLAINT_BYTES {
            break;
        }
        if !said.is_empty() {
            said.push_str(", ");
        }
        said.push_str(line);
    }
    if said.is_empty() { "it said nothing".to_owned() } else { said }
}

async fn download(url: &Url, path: &Path, progress: &Progress) -> Result<(), String> {
    let http = reqwest::Client::builder()
        .user_agent(concat!("ipwarden/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(SILENCE)
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        .build()
        .map_err(|error| cause(&error))?;
    // `without_url`: it may hold a licence key.
    let words = |error: reqwest::Error| cause(&error.without_url());
    let mut response = http.get(url.clone()).send().await.map_err(words)?;
    if !response.status().is_success() {
        return Err(format!("the answer is {}", response.status()));
    }
    let too_large = || format!("it has more than {}", bytes(MAX_FILE_BYTES));
    if response.content_length().is_some_and(|length| length > MAX_FILE_BYTES) {
        return Err(too_large());
    }
    progress.bytes("download", response.content_length());
    let written = |error: io::Error| format!("it can't be written: {error}");
    let mut file = tokio::fs::File::create(path).await.map_err(written)?;
    let mut total = 0;
    while let Some(piece) = response.chunk().await.map_err(words)? {
        total += piece.len() as u64;
        if total > MAX_FILE_BYTES {
            return Err(too_large());
        }
        file.write_all(&piece).await.map_err(written)?;
        progress.advance(piece.len() as u64);
    }
    file.flush().await.map_err(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let parse = |text: &str| Source::parse(text);
        assert_eq!(parse("npm:@scope/name@1.2.3"), Ok(Source::Npm("@scope/name@1.2.3".into())));
        assert_eq!(parse("/srv/a.mmdb"), Ok(Source::Path("/srv/a.mmdb".into())));
        assert!(matches!(parse("https://data.example/a.mmdb"), Ok(Source::Url(_))));
        for bad in ["npm:", "npm:--registry=x", "npm:../x", "npm:a b", "npm:./x"] {
            assert_eq!(
                parse(bad),
                Err("expected an npm package such as npm:@scope/name".into()),
                "{bad}"
            );
        }
    }

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        let source =
            Source::parse("https://user:pass@data.example:8443/d/city.tar.gz?license_key=s")
                .unwrap();
        assert_eq!(source.to_string(), "https://data.example:8443/d/city.tar.gz");
        assert_eq!(source.file_name(), "city.tar.gz");
    }

    #[test]
    fn what_npm_says_is_read() {
        let printed = br#"[{"id": "@a/b@1.0.0", "name": "@a/b", "version": "1.0.0", "filename": "a-b-1.0.0.tgz"}]"#;
        assert_eq!(identity(printed), Some(("@a/b".into(), "@a/b@1.0.0".into())));
        assert_eq!(identity(b"[]"), None);
        let said = b"npm error code E404\nnpm error\nnpm error 404 Not Found\nnpm error A complete log of this run can be found in: /x\n";
        assert_eq!(complaint(said), "code E404, 404 Not Found");
        assert_eq!(complaint(b""), "it said nothing");
    }
}
