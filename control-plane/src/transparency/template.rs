//! The notice as a text in Markdown for the site's own policy: to be completed by people, which
//! is why the gaps say so.

use std::fmt::Write as _;

use super::Edition;

/// The text. `[…]` marks what only the operator knows.
#[must_use]
pub fn text(edition: &Edition) -> String {
    let notice = &edition.notice;
    let mut out = String::new();
    let mut line = |text: &str| {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{text}");
    };
    line("## Protection against attacks and overload");
    line("");
    line(&format!(
        "{} uses the software ipwarden to refuse known attackers and to slow clients that ask too \
         often. The legal basis is [for example our legitimate interest in the security of the \
         network, GDPR Art. 6(1)(f) with recital 49: ask your counsel].",
        notice.operator.as_deref().unwrap_or("[Name of the operator]")
    ));
    line("");
    line("For that we note of each request:");
    line("");
    for item in &notice.collected {
        line(&format!("- {}: {}.", item.what, item.why));
    }
    line("");
    for edge in &notice.edges {
        line(&edge.sentences().join(" "));
        line("");
    }
    line("We keep it as follows:");
    line("");
    for item in &notice.kept {
        line(&format!("- {}: {}, {}.", item.what, item.time, item.form));
    }
    line("");
    line("Others learn of it as follows:");
    line("");
    for recipient in &notice.recipients {
        line(&format!("- {}: {}.", recipient.who, recipient.what));
    }
    line("");
    line("Your choices:");
    line("");
    for choice in &notice.choices {
        line(&format!("- {}. {}", choice.how, choice.then));
    }
    line("");
    line(&format!(
        "Contact: {}. A page with the settings in force is at /privacy.",
        notice.contact.as_deref().unwrap_or("[address]")
    ));
    line("");
    line(&format!(
        "(Written by {} on {}, version {}. It describes what the software does and is no legal \
         advice.)",
        edition.software,
        edition.published.strftime("%Y-%m-%d"),
        edition.version
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_toml;
    use crate::transparency::Notice;
    use crate::transparency::edge::Edge;

    #[test]
    fn the_text_says_what_the_page_says_and_marks_what_is_missing() {
        let config = check_toml("[privacy]\nraw_for = \"24h\"\n").unwrap();
        let notice = Notice::new(
            &config,
            vec![Edge::read(&serde_json::json!({"address": "full", "query": "drop"}))],
        );
        let edition = Edition {
            version: notice.version(),
            published: "2026-11-22T16:00:00Z".parse().unwrap(),
            software: "ipwarden 0.1.0".to_owned(),
            notice,
        };
        let text = text(&edition);
        assert!(text.contains("[Name of the operator]") && text.contains("[address]"), "{text}");
        assert!(text.contains("- Your address as we received it: 1 day, "), "{text}");
        assert!(text.contains("Queries are not noted."), "{text}");
        for item in &edition.notice.collected {
            assert!(text.contains(&item.what), "{text}");
        }
    }
}
