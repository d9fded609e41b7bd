//! The notice as a page, and the page to opt out. No scripts, nothing from elsewhere; readable
//! on a phone, in the dark, and aloud.
//!
//! maud escapes whatever is put into a page.

use maud::{DOCTYPE, Markup, html};

use super::{Edition, Notice};

/// Where the style is.
pub const STYLE_PATH: &str = "/privacy/style.css";
/// Where the page to opt out is.
pub const OPT_OUT_PATH: &str = "/privacy/opt-out";

/// What both pages look like.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2329;--soft:#57616b;--paper:#fff;--card:#f4f6f8;--line:#d5dbe1;--accent:#0b5cad;--on:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebef;--soft:#a7b1bb;--paper:#12161a;--card:#1b2127;--line:#38424c;--accent:#7db7f5;--on:#0c1116}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:1.0625rem/1.6 system-ui,sans-serif}
main{max-width:46rem;margin:0 auto;padding:1.5rem 1.25rem 3rem}
h1{font-size:1.75rem;line-height:1.25;margin:.5rem 0 .25rem}
h2{font-size:1.2rem;margin:2rem 0 .5rem}
p,ul,dl{margin:.5rem 0}
.soft{color:var(--soft)}
ul{padding-left:1.25rem}
li{margin:.25rem 0}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.55rem .75rem .55rem 0;border-bottom:1px solid var(--line)}
th{font-weight:600}
thead th{color:var(--soft);font-size:.9rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem;margin:1rem 0}
a{color:var(--accent)}
button{font:inherit;font-weight:600;color:var(--on);background:var(--accent);border:0;border-radius:.4rem;padding:.6rem 1.1rem;cursor:pointer}
a:focus-visible,button:focus-visible{outline:3px solid var(--accent);outline-offset:3px}
footer{margin-top:2.5rem;padding-top:1rem;border-top:1px solid var(--line);font-size:.9rem;overflow-wrap:anywhere}
@media(max-width:34rem){thead{position:absolute;left:-999rem}tr{display:block;padding:.5rem 0;border-bottom:1px solid var(--line)}th,td{display:block;border:0;padding:0}tbody th{margin-bottom:.1rem}}
";

fn frame(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) }
                link rel="stylesheet" href=(STYLE_PATH);
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

/// The page that says what is collected.
#[must_use]
pub fn notice(edition: &Edition) -> String {
    let notice = &edition.notice;
    let published = edition.published.strftime("%-d %B %Y").to_string();
    let site = notice.operator.as_deref().unwrap_or("this site");
    let body = html! {
        header {
            h1 { "How " (site) " protects itself, and your data in it" }
            p.soft {
                "Version " (edition.version) ", published on "
                time datetime=(edition.published.to_string()) { (published) }
                ". Written by the software itself from the settings in force."
            }
        }
        p {
            "This site refuses known attackers and slows clients that ask too often. For that it \
             notes something of every request. This page says what, why, for how long, and what \
             you can do."
        }
        section aria-labelledby="collected" {
            h2 #collected { "What is noted, and why" }
            table {
                thead { tr { th scope="col" { "What" } th scope="col" { "Why" } } }
                tbody {
                    @for item in &notice.collected {
                        tr { th scope="row" { (item.what) } td { (item.why) } }
                    }
                }
            }
        }
        section aria-labelledby="before" {
            h2 #before { "Before it is stored" }
            (edges(notice))
        }
        section aria-labelledby="kept" {
            h2 #kept { "How long it is kept" }
            table {
                thead { tr { th scope="col" { "What" } th scope="col" { "How long" } } }
                tbody {
                    @for item in &notice.kept {
                        tr {
                            th scope="row" { (item.what) }
                            td { (item.time) ", " (item.form) }
                        }
                    }
                }
            }
        }
        section aria-labelledby="recipients" {
            h2 #recipients { "Who else learns of it" }
            ul {
                @for recipient in &notice.recipients {
                    li { strong { (recipient.who) } ": " (recipient.what) "." }
                }
            }
        }
        section aria-labelledby="choices" {
            h2 #choices { "What you can do" }
            @for choice in &notice.choices {
                div.card {
                    strong { (choice.how) }
                    p { (choice.then) }
                }
            }
            @if !notice.cookies.is_empty() {
                p { a href=(OPT_OUT_PATH) { "Opt out on this site" } }
            }
        }
        footer.soft {
            @if let Some(contact) = &notice.contact {
                p { "Questions: " (link(contact)) }
            }
            p {
                "The same as "
                a href="/privacy.json" { "JSON" }
                ", as "
                a href="/privacy/template" { "a text for a policy" }
                ", and "
                a href="/.well-known/gpc.json" { "for GPC" }
                ". " (edition.software)
            }
        }
    };
    frame(&format!("Privacy: how {site} protects itself"), &body)
}

fn edges(notice: &Notice) -> Markup {
    html! {
        @match notice.edges.as_slice() {
            [] => p {
                "No proxy has told its settings yet; the most that any could note is described here."
            },
            [only] => ul { @for sentence in only.sentences() { li { (sentence) } } },
            several => {
                p { "Our servers differ; yours is one of these." }
                @for edge in several {
                    div.card { ul { @for sentence in edge.sentences() { li { (sentence) } } } }
                }
            }
        }
    }
}

/// A mail address or a URL that can be followed, anything else as text.
fn link(contact: &str) -> Markup {
    let is_url = contact.starts_with("https://");
    let is_mail = !is_url && contact.contains('@') && !contact.contains([':', '/', '?', ' ']);
    html! {
        @if is_url {
            a href=(contact) { (contact) }
        } @else if is_mail {
            a href=(format!("mailto:{contact}")) { (contact) }
        } @else {
            (contact)
        }
    }
}

/// What the browser at hand has said already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// By the cookie.
    pub cookie: bool,
    /// By `Sec-GPC: 1`, where every proxy respects it.
    pub gpc: bool,
}

/// The page to opt out and in again.
#[must_use]
pub fn opt_out(notice: &Notice, standing: Standing) -> String {
    let then = notice.choices.first().map_or("", |choice| choice.then.as_str());
    let body = html! {
        h1 { "Opt out" }
        @if notice.cookies.is_empty() {
            p role="status" {
                "This site reads no cookie for that. "
                a href="/privacy" { "What it does" }
            }
        } @else {
            div.card role="status" {
                @if standing.cookie {
                    strong { "You have opted out in this browser." }
                } @else if standing.gpc {
                    strong { "Your browser sends Global Privacy Control: you have opted out." }
                } @else {
                    strong { "You have not opted out." }
                }
            }
            p { "What follows when you do: " (then) }
            form method="post" action=(OPT_OUT_PATH) {
                @if standing.cookie {
                    button name="choice" value="in" { "Take it back" }
                } @else {
                    button name="choice" value="out" { "Opt out" }
                }
            }
            p.soft {
                "The choice is kept in a cookie of this site for a year ("
                @for (n, name) in notice.cookies.iter().enumerate() {
                    @if n > 0 { ", " }
                    code { (name) "=1" }
                }
                "), the same for everybody who opts out. It holds in this browser only, and until \
                 its cookies are deleted."
            }
            p { a href="/privacy" { "What is noted, why, and for how long" } }
        }
    };
    frame("Opt out", &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_toml;
    use crate::transparency::edge::Edge;
    use serde_json::json;

    fn edition(toml: &str, edges: &[serde_json::Value]) -> Edition {
        let notice =
            Notice::new(&check_toml(toml).unwrap(), edges.iter().map(Edge::read).collect());
        Edition {
            version: notice.version(),
            published: "2026-11-22T16:00:00Z".parse().unwrap(),
            software: "ipwarden 0.1.0".to_owned(),
            notice,
        }
    }

    #[test]
    fn whatever_is_configured_is_escaped() {
        let toml = "[privacy]\noperator = \"<script>alert(1)</script>\"\ncontact = \"https://x/\\\"onclick=1\"\n";
        let evil = json!({"geo": {"provider": "generic", "authority": "<img src=x>"}});
        let page = notice(&edition(toml, &[evil]));
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("\"onclick"));
        assert!(page.contains("&lt;img src=x&gt;"));
    }

    #[test]
    fn the_pages_run_nothing_and_ask_for_nothing_from_elsewhere() {
        let edition = edition("", &[json!({"opt_out_cookie": "no", "respect_gpc": true})]);
        let standing = Standing { cookie: false, gpc: false };
        for page in [notice(&edition), opt_out(&edition.notice, standing)] {
            for word in
                ["<script", " style=", "onload", "http://", "https://", "<img", "javascript:"]
            {
                assert!(!page.contains(word), "{word}");
            }
            assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"));
            assert_eq!(page.matches("<h1").count(), 1);
        }
    }

    #[test]
    fn only_what_can_be_followed_is_a_link() {
        assert_eq!(link("javascript:alert(1)").into_string(), "javascript:alert(1)");
        assert_eq!(
            link("privacy@example.com").into_string(),
            "<a href=\"mailto:privacy@example.com\">privacy@example.com</a>"
        );
    }
}
