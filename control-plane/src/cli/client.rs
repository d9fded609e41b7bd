//! The service as the command line sees it: one method a resource, errors in words.
//!
//! Redirects are not followed and no proxy is asked for a loopback address: the token goes
//! to the service that was named and nowhere else.

use std::path::Path;
use std::time::Duration;

use ipwarden::privacy::KeyId;
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{self, CliError, MAX_PLACES, Result};
use super::place::{Found, Place};
use super::replies::{
    Added, AllLocated, Audit, Checked, Decisions, Detected, HookTests, Hooks, Imported,
    JudgedSuspect, KeyList, LimitMode, LimitRemoved, LimitSet, Limits, NewToken, Proxies, Records,
    Regions, RegionsChanged, Removed, ResetMade, RetentionAnswer, Revealed, Shipped, Status,
    SuspectsImported, SuspectsPage, Tokens,
};
use crate::api::feeds::{FeedList, FeedRemoved, FeedView};
use crate::feeds::definition::Definition;
use crate::geo::{Databases, Located};
use crate::model::{Action, Role};
use crate::privacy::keys::KeyInfo;
use crate::privacy::retention::RetentionStatus;
use crate::privacy::subjects::{SubjectErased, SubjectExport};
use crate::suspects::Suspect;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an ordinary answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long storing a list may take.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(600);
/// How long reading or changing much of the log may take.
const LONG_TIMEOUT: Duration = Duration::from_secs(660);
/// How long a live stream may last: longer than anybody watches.
const LIVE_TIMEOUT: Duration = Duration::from_secs(365 * 86_400);
/// Most bytes of an error's body that are read.
const MAX_PROBLEM_BYTES: usize = 1024 * 1024;
/// Most targets in one request that is not an import.
pub const MAX_TARGETS: usize = 1_000;
/// Most addresses in one request for places.
pub const MAX_ADDRESSES: usize = 1_000;
/// Largest page of decisions.
pub const MAX_DECISIONS: usize = 1_000;
/// Largest page of suspects.
pub const MAX_SUSPECTS: usize = 1_000;
/// Largest page of records.
pub const MAX_RECORDS: usize = 10_000;

/// A connection to the service.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    found: Found,
}

/// RFC 9457.
#[derive(Debug, Default, Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<error::Place>,
    errors_total: Option<u64>,
}

/// Query parameters.
pub type Query = Vec<(&'static str, String)>;

impl Client {
    /// Prepares a connection; nothing is sent yet.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a URL that is none, and those of [`Place::token`].
    pub fn new(place: &Place, here: &Path) -> Result<Self> {
        let base = base(place)?;
        Ok(Self { http: http(&base)?, base, found: place.token(here)? })
    }

    /// What is tried, for messages.
    #[must_use]
    pub fn url(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// The token in use, or where it was looked for.
    #[must_use]
    pub const fn found(&self) -> &Found {
        &self.found
    }

    /// Whether the service is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        is_loopback(&self.base)
    }

    /// Whether the token travels encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// [`CliError::Unreachable`], [`CliError::Refused`]; the same for all that follow.
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status", &[]).await
    }

    /// `GET /v1/decisions`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn decisions(&self, query: &Query) -> Result<Decisions> {
        self.get("/v1/decisions", query).await
    }

    /// `POST /v1/decisions`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn add(&self, body: &serde_json::Value) -> Result<Added> {
        self.send(Method::POST, "/v1/decisions", body).await
    }

    /// `POST /v1/decisions/import`: `body` is one target a line.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn import(&self, query: &Query, body: reqwest::Body) -> Result<Imported> {
        let request = self
            .request(Method::POST, "/v1/decisions/import")
            .query(query)
            .timeout(IMPORT_TIMEOUT)
            .header(reqwest::header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(body);
        self.decode(self.answer(request).await?).await
    }

    /// `POST /v1/import/requests`: `batch` is an encoded batch of records.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn import_requests(&self, batch: Vec<u8>) -> Result<Shipped> {
        let request = self
            .request(Method::POST, "/v1/import/requests")
            .timeout(IMPORT_TIMEOUT)
            .header(reqwest::header::CONTENT_TYPE, ipwarden::record::wire::CONTENT_TYPE)
            .body(batch);
        self.decode(self.answer(request).await?).await
    }

    /// `POST /v1/import/suspects`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn import_suspects(&self, body: &serde_json::Value) -> Result<SuspectsImported> {
        self.send(Method::POST, "/v1/import/suspects", body).await
    }

    /// `DELETE /v1/decisions` by target.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn remove(&self, targets: &[String], action: Action) -> Result<Removed> {
        let body = serde_json::json!({ "targets": targets, "action": action });
        self.send(Method::DELETE, "/v1/decisions", &body).await
    }

    /// `GET /v1/decisions/check`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn check(&self, ip: std::net::IpAddr, path: Option<&str>) -> Result<Checked> {
        let mut query = vec![("ip", ip.to_string())];
        query.extend(path.map(|path| ("path", path.to_owned())));
        self.get("/v1/decisions/check", &query).await
    }

    /// `GET /v1/regions`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn regions(&self) -> Result<Regions> {
        self.get("/v1/regions", &[]).await
    }

    /// `POST /v1/regions`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn add_regions(&self, body: &serde_json::Value) -> Result<RegionsChanged> {
        self.send(Method::POST, "/v1/regions", body).await
    }

    /// `PATCH /v1/regions`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn set_region_mode(&self, body: &serde_json::Value) -> Result<RegionsChanged> {
        self.send(Method::PATCH, "/v1/regions", body).await
    }

    /// `DELETE /v1/regions`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn remove_regions(&self, body: &serde_json::Value) -> Result<RegionsChanged> {
        self.send(Method::DELETE, "/v1/regions", body).await
    }

    /// `GET /v1/limits`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn limits(&self) -> Result<Limits> {
        self.get("/v1/limits", &[]).await
    }

    /// `PUT /v1/limits/{name}`: `limit` is its JSON; `name` is checked.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn set_limit(&self, name: &str, limit: Vec<u8>) -> Result<LimitSet> {
        let request = self
            .request(Method::PUT, &format!("/v1/limits/{name}"))
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(limit);
        self.decode(self.answer(request).await?).await
    }

    /// `PATCH /v1/limits/{name}`: `name` is checked.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when nobody knows it.
    pub async fn set_limit_mode(&self, name: &str, mode: &str) -> Result<LimitMode> {
        let path = format!("/v1/limits/{name}");
        self.send(Method::PATCH, &path, &serde_json::json!({ "mode": mode })).await
    }

    /// `DELETE /v1/limits/{name}`: `name` is checked.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when nothing is changed under it.
    pub async fn remove_limit(&self, name: &str) -> Result<LimitRemoved> {
        let request = self.request(Method::DELETE, &format!("/v1/limits/{name}"));
        self.decode(self.answer(request).await?).await
    }

    /// `POST /v1/limits/reset`.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when nobody knows the limit.
    pub async fn reset_limit(&self, key: &str, limit: Option<&str>) -> Result<ResetMade> {
        let mut body = serde_json::json!({ "key": key });
        if let Some(limit) = limit {
            body["limit"] = limit.into();
        }
        self.send(Method::POST, "/v1/limits/reset", &body).await
    }

    /// `POST /v1/detect`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn detect(&self, hour: Option<&str>, dry_run: bool) -> Result<Detected> {
        let mut body = serde_json::json!({ "dry_run": dry_run });
        if let Some(hour) = hour {
            body["hour"] = hour.into();
        }
        self.send(Method::POST, "/v1/detect", &body).await
    }

    /// `GET /v1/suspects`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn suspects(&self, query: &Query) -> Result<SuspectsPage> {
        self.get("/v1/suspects", query).await
    }

    /// `GET /v1/suspects/{id}`.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when there is none.
    pub async fn suspect(&self, id: i64) -> Result<Suspect> {
        self.get(&format!("/v1/suspects/{id}"), &[]).await
    }

    /// `POST /v1/suspects/{id}/confirm` or `dismiss`, with one field where it has a value.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when there is none.
    pub async fn judge_suspect(
        &self,
        id: i64,
        verb: &str,
        field: &str,
        value: Option<&str>,
        network: Option<&str>,
    ) -> Result<JudgedSuspect> {
        let mut body = serde_json::json!({});
        for (field, value) in [(field, value), ("network", network)] {
            if let Some(value) = value {
                body[field] = value.into();
            }
        }
        self.send(Method::POST, &format!("/v1/suspects/{id}/{verb}"), &body).await
    }

    /// `GET /v1/notify`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn hooks(&self) -> Result<Hooks> {
        self.get("/v1/notify", &[]).await
    }

    /// `POST /v1/notify/test`: of one hook, or of all.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn test_hooks(&self, hook: Option<&str>) -> Result<HookTests> {
        let body = match hook {
            Some(hook) => serde_json::json!({ "hook": hook }),
            None => serde_json::json!({}),
        };
        self.send(Method::POST, "/v1/notify/test", &body).await
    }

    /// `GET /v1/requests`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn requests(&self, query: &Query) -> Result<Records> {
        self.get("/v1/requests", query).await
    }

    /// `GET /v1/requests/live`: the response, its body still to come.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn live(&self, query: &Query) -> Result<Response> {
        let request = self
            .request(Method::GET, "/v1/requests/live")
            .query(query)
            // The stream does not end; silence is what ends it (see `follow`).
            .timeout(LIVE_TIMEOUT)
            .header(reqwest::header::ACCEPT, "text/event-stream");
        self.answer(request).await
    }

    /// `GET /v1/geo`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn geo_databases(&self) -> Result<Databases> {
        self.get("/v1/geo", &[]).await
    }

    /// `POST /v1/geo`: where at most [`MAX_ADDRESSES`] addresses are, in their order.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn locate(&self, ips: &[String]) -> Result<Vec<Located>> {
        let all: AllLocated =
            self.send(Method::POST, "/v1/geo", &serde_json::json!({ "ips": ips })).await?;
        Ok(all.results)
    }

    /// `GET /v1/proxies`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn proxies(&self) -> Result<Proxies> {
        self.get("/v1/proxies", &[]).await
    }

    /// `GET /v1/retention`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn retention(&self) -> Result<RetentionStatus> {
        self.get("/v1/retention", &[]).await
    }

    /// `POST /v1/retention/run`: a dry run may take as long as it takes to read the log.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn run_retention(&self, dry_run: bool) -> Result<RetentionAnswer> {
        let request = self
            .request(Method::POST, "/v1/retention/run")
            .timeout(LONG_TIMEOUT)
            .json(&serde_json::json!({ "dry_run": dry_run }));
        self.decode(self.answer(request).await?).await
    }

    /// `GET /v1/keys`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn keys(&self) -> Result<KeyList> {
        self.get("/v1/keys", &[]).await
    }

    /// `POST /v1/keys/rotate`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn rotate_keys(&self) -> Result<KeyList> {
        let request = self.request(Method::POST, "/v1/keys/rotate");
        self.decode(self.answer(request).await?).await
    }

    /// `DELETE /v1/keys/{id}`.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when there is no retired one of that id.
    pub async fn destroy_key(&self, id: &str) -> Result<KeyInfo> {
        let Some(id) = KeyId::from_hex(id) else {
            return Err(CliError::Usage(
                "a key's id has eight hexadecimal digits such as 5ab1c0de".to_owned(),
            ));
        };
        let request = self.request(Method::DELETE, &format!("/v1/keys/{id}"));
        self.decode(self.answer(request).await?).await
    }

    /// `POST /v1/pseudonyms/reveal`.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when its key is not there.
    pub async fn reveal(&self, pseudonym: &str, reason: &str) -> Result<Revealed> {
        let body = serde_json::json!({ "pseudonym": pseudonym, "reason": reason });
        self.send(Method::POST, "/v1/pseudonyms/reveal", &body).await
    }

    /// `GET /v1/subjects/{ip}`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn subject(
        &self,
        ip: std::net::IpAddr,
        before: Option<&str>,
        limit: usize,
    ) -> Result<SubjectExport> {
        let mut query = vec![("limit", limit.to_string())];
        if let Some(before) = before {
            query.push(("before", before.to_owned()));
        }
        let request = self
            .request(Method::GET, &format!("/v1/subjects/{ip}"))
            .query(&query)
            .timeout(LONG_TIMEOUT);
        self.decode(self.answer(request).await?).await
    }

    /// `DELETE /v1/subjects/{ip}`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn erase_subject(&self, ip: std::net::IpAddr) -> Result<SubjectErased> {
        let request =
            self.request(Method::DELETE, &format!("/v1/subjects/{ip}")).timeout(LONG_TIMEOUT);
        self.decode(self.answer(request).await?).await
    }

    /// `GET /v1/feeds`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn feeds(&self) -> Result<FeedList> {
        self.get("/v1/feeds", &[]).await
    }

    /// `GET /v1/feeds/{name}`.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when there is none.
    pub async fn feed(&self, name: &str) -> Result<FeedView> {
        let request = self.about_feed(Method::GET, name, None);
        self.decode(self.answer(request).await?).await
    }

    /// `PUT /v1/feeds/{name}`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn put_feed(
        &self,
        name: &str,
        definition: &Definition,
        replace: bool,
    ) -> Result<FeedView> {
        let request = self.about_feed(Method::PUT, name, None).json(definition);
        let request = request.query(&[("replace", replace)]);
        self.decode(self.answer(request).await?).await
    }

    /// `POST /v1/feeds/{name}/refresh`.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when there is none.
    pub async fn refresh_feed(&self, name: &str, accept: bool) -> Result<FeedView> {
        let request = self.about_feed(Method::POST, name, Some("refresh"));
        let request = request.query(&[("accept", accept)]).timeout(LONG_TIMEOUT);
        self.decode(self.answer(request).await?).await
    }

    /// `DELETE /v1/feeds/{name}`.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when there is none.
    pub async fn remove_feed(&self, name: &str) -> Result<FeedRemoved> {
        let request = self.about_feed(Method::DELETE, name, None).timeout(LONG_TIMEOUT);
        self.decode(self.answer(request).await?).await
    }

    fn about_feed(
        &self,
        method: Method,
        name: &str,
        verb: Option<&str>,
    ) -> reqwest::RequestBuilder {
        let mut url = self.endpoint("/v1/feeds");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.push(name);
            segments.extend(verb);
        }
        self.authorized(self.http.request(method, url))
    }

    /// `GET /v1/decisions/export`, piece by piece.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn export(&self, query: &Query) -> Result<Response> {
        let request = self.request(Method::GET, "/v1/decisions/export").query(query);
        self.answer(request.timeout(LONG_TIMEOUT)).await
    }

    /// `GET /v1/audit`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn audit(&self, query: &Query) -> Result<Audit> {
        self.get("/v1/audit", query).await
    }

    /// `GET /v1/tokens`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn tokens(&self) -> Result<Tokens> {
        self.get("/v1/tokens", &[]).await
    }

    /// `POST /v1/tokens`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn create_token(&self, name: &str, role: Role) -> Result<NewToken> {
        self.send(Method::POST, "/v1/tokens", &serde_json::json!({ "name": name, "role": role }))
            .await
    }

    /// `DELETE /v1/tokens/{name}`.
    ///
    /// # Errors
    /// See [`Self::status`]; [`CliError::NotFound`] when there is none.
    pub async fn revoke_token(&self, name: &str) -> Result<()> {
        let mut url = self.endpoint("/v1/tokens");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.push(name);
        }
        let request = self.authorized(self.http.request(Method::DELETE, url));
        self.answer(request).await.map(drop).map_err(|error| match error {
            CliError::NotFound { .. } => CliError::not_found(format!(
                "no token is named '{name}': `ipwarden token list` says which there are"
            )),
            other => other,
        })
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&'static str, String)],
    ) -> Result<T> {
        let request = self.request(Method::GET, path).query(query);
        self.decode(self.answer(request).await?).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T> {
        self.decode(self.answer(self.request(method, path).json(body)).await?).await
    }

    fn endpoint(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let full = format!("{}{path}", self.base.path().trim_end_matches('/'));
        url.set_path(&full);
        url.set_query(None);
        url.set_fragment(None);
        url
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.authorized(self.http.request(method, self.endpoint(path)))
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.found {
            Found::Token { secret, .. } => request.bearer_auth(secret),
            Found::Nothing { .. } => request,
        }
    }

    /// Sends; anything but success becomes an error.
    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(response).await)
        }
    }

    async fn decode<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        let kind = content_type(&response);
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).map_err(|error| {
            self.not_ours(format!("its answer ({kind}) is not what this version expects: {error}"))
        })
    }

    async fn refusal(&self, mut response: Response) -> CliError {
        let status = response.status();
        let kind = content_type(&response);
        let mut body = Vec::new();
        while let Ok(Some(piece)) = response.chunk().await {
            if body.len() + piece.len() > MAX_PROBLEM_BYTES {
                break;
            }
            body.extend_from_slice(&piece);
        }
        let problem: Problem = match serde_json::from_slice(&body) {
            Ok(problem) if kind.contains("json") => problem,
            _ => {
                return self
                    .not_ours(format!("something answers there with status {status} ({kind})"));
            }
        };
        let said = problem.detail.or(problem.title).unwrap_or_else(|| status.to_string());
        let message = match status {
            StatusCode::UNAUTHORIZED => match &self.found {
                Found::Token { from, .. } => format!(
                    "the service does not know the token from {from}: take the one in its data directory (--data-dir, --token-file), or ask an admin for `ipwarden token create`"
                ),
                Found::Nothing { looked } => format!(
                    "the service wants a token and none was found; looked at {}: the first `ipwarden serve` writes one into its data directory",
                    looked.join(", ")
                ),
            },
            StatusCode::FORBIDDEN => match &self.found {
                Found::Token { from, .. } => {
                    format!("the token from {from} may not do this: {said}")
                }
                Found::Nothing { .. } => said,
            },
            StatusCode::NOT_FOUND => return CliError::not_found(said),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                format!("the service can't do this now: {said}; try again in a moment")
            }
            _ => said,
        };
        let total = problem.errors_total.unwrap_or(0).max(problem.errors.len() as u64);
        let mut places = problem.errors;
        places.truncate(MAX_PLACES);
        CliError::Refused { status: status.as_u16(), message, places, total }
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        CliError::Unreachable { url: self.url(), cause: cause(error) }
    }

    fn not_ours(&self, what: String) -> CliError {
        CliError::Unreachable { url: self.url(), cause: format!("{what}; it may not be ipwarden") }
    }
}

/// Where the service is.
///
/// # Errors
/// [`CliError::Usage`] for a URL that is none.
pub fn base(place: &Place) -> Result<Url> {
    let refused = |why: String| {
        CliError::Usage(format!(
            "'{}' is not a URL of the service: {why}; expected one such as {}",
            place.url,
            super::place::DEFAULT_URL
        ))
    };
    let base = Url::parse(&place.url).map_err(|error| refused(error.to_string()))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(refused("it must start with http:// or https://".to_owned()));
    }
    Ok(base)
}

/// A client for `base` with our timeouts, also used for Envoy's admin interface.
///
/// # Errors
/// [`CliError::Start`] when the system's certificates can't be used.
pub fn http(base: &Url) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("ipwarden/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    if is_loopback(base) {
        builder = builder.no_proxy();
    }
    builder
        .build()
        .map_err(|error| CliError::Start(format!("can't prepare HTTP: {}", cause(&error))))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ipwarden::address::fold(ip).is_loopback())
}

/// The innermost reason of a failed request in words: what the outer layers say is known.
#[must_use]
pub fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        if let Some(io) = source.downcast_ref::<std::io::Error>() {
            match io.kind() {
                std::io::ErrorKind::ConnectionRefused => {
                    return "connection refused (nobody listens there)".to_owned();
                }
                std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::BrokenPipe
                | std::io::ErrorKind::UnexpectedEof => {
                    return "the connection was closed in the middle".to_owned();
                }
                _ => {}
            }
        }
        innermost = source;
    }
    if error.is_timeout() {
        return if error.is_connect() {
            format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())
        } else {
            "no answer in time".to_owned()
        };
    }
    innermost.to_string()
}

fn content_type(response: &Response) -> String {
    let value = response.headers().get(reqwest::header::CONTENT_TYPE);
    value.and_then(|value| value.to_str().ok()).unwrap_or("no content type").to_owned()
}
