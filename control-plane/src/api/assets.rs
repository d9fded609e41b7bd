//! The dashboard's page and its files.

use axum::extract::Path;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};

use super::meta::not_found;
use crate::assets;

/// Pages of the dashboard beside `/`: one file, which looks at the path by itself.
const PAGES: [&str; 7] =
    ["suspects", "decisions", "address", "records", "limits", "fleet", "settings"];

/// The dashboard; without its files a page that says how to get them.
#[utoipa::path(
    get, path = "/", tag = "operation", security(()),
    responses((status = 200, body = String, content_type = "text/html"))
)]
pub(crate) async fn home(headers: HeaderMap) -> Response {
    front(&headers)
}

/// A page of the dashboard.
#[utoipa::path(
    get, path = "/{page}", tag = "operation", security(()),
    params(("page" = String, Path, description = "suspects, decisions, address, records, limits, fleet or settings")),
    responses((status = 200, body = String, content_type = "text/html"), (status = 404))
)]
pub(crate) async fn page(Path(page): Path<String>, headers: HeaderMap) -> Response {
    if PAGES.contains(&page.as_str()) {
        return front(&headers);
    }
    not_found().await.into_response()
}

/// A file of the dashboard. Its name holds a hash of what is in it, so it may be kept for ever.
#[utoipa::path(
    get, path = "/assets/{file}", tag = "operation", security(()),
    params(("file" = String, Path, description = "name of the file")),
    responses((status = 200), (status = 304), (status = 404))
)]
pub(crate) async fn asset(Path(file): Path<String>, headers: HeaderMap) -> Response {
    match assets::asset(&file, &headers) {
        Some(response) => response,
        None => not_found().await.into_response(),
    }
}

fn front(headers: &HeaderMap) -> Response {
    assets::page(headers).unwrap_or_else(without_dashboard)
}

fn without_dashboard() -> Response {
    let page = format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>ipwarden</title>
<h1>ipwarden {}</h1>
<p>The control plane is running. This binary was built without the dashboard: <code>make ui</code> in the repository builds it (Node 20 or later), then build the binary again. Everything works without it, through the command line and the API.</p>
<pre>ipwarden block 203.0.113.0/24 --for 1h --reason scraping
ipwarden check 203.0.113.7
ipwarden requests --ip 203.0.113.7
ipwarden doctor</pre>
<p>Every path under <code>/v1</code> needs a token; the first start wrote one to <code>admin.token</code> in the data directory.</p>
<ul>
<li><a href="/openapi.json">/openapi.json</a>: the API</li>
<li><a href="/metrics">/metrics</a>: counters for Prometheus</li>
<li><a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a>: health</li>
</ul>
</html>
"#,
        ipwarden::VERSION
    );
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}
