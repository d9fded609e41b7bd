//! What the documentation says, held against the code: every command line parses, every
//! configuration is valid, and the reference lists the settings that there are.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Parser as _;

use super::Cli;

/// A fenced block of a document.
struct Block {
    place: String,
    language: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// README, everything in docs/, and the READMEs of the manifests.
fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md")];
    for directory in ["docs", "envoy/istio", "envoy/envoy-gateway"] {
        for entry in std::fs::read_dir(root().join(directory)).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|ending| ending == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn blocks() -> Vec<Block> {
    let mut found = Vec::new();
    for path in documents() {
        let text = std::fs::read_to_string(&path).expect("a document");
        let mut open: Option<Block> = None;
        for (at, line) in text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    open = Some(Block {
                        place: format!("{}:{}", path.display(), at + 1),
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                (Some(_), Some(_)) => found.extend(open.take()),
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", path.display());
    }
    found
}

/// Words of a shell's line up to a comment, a pipe or the end of the command.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut begun) = (None, false);
    for c in line.chars() {
        match (c, quote) {
            (_, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => (quote, begun) = (Some(c), true),
            ('#', None) if word.is_empty() && !begun => break,
            ('|' | '>' | ';' | '&', None) if word.is_empty() && !begun => break,
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() || begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (c, _) => word.push(c),
        }
    }
    if !word.is_empty() || begun {
        words.push(word);
    }
    words
}

#[test]
fn every_command_line_in_the_documents_parses() {
    let mut checked = 0;
    for block in blocks() {
        for line in block.text.lines() {
            // A pipe may lead into our program.
            let Some(at) = line.find("ipwarden ").filter(|at| {
                let before = line[..*at].trim_end();
                before.is_empty() || before.ends_with(['|', '$', ';']) || before.ends_with('/')
            }) else {
                continue;
            };
            let words = words(&line[at..]);
            if let Err(error) = Cli::try_parse_from(&words) {
                let asked = matches!(
                    error.kind(),
                    clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                );
                assert!(asked, "{}: {line}\n{error}", block.place);
            }
            checked += 1;
        }
    }
    assert!(checked >= 25, "only {checked} command lines were found");
}

/// A configuration with what a part of one may rely on, unless the part brings it.
fn completed(part: &str) -> String {
    let mut text = String::from("{");
    for (name, value) in [
        ("control_plane", r#"{"cluster": "ipwarden", "token": "ipw_example"}"#),
        ("identity", r#"[{"jwt": {"metadata_key": "jwt_payload", "claim": "sub"}}]"#),
        ("geo", r#"{"cluster": "ipwarden", "provider": "ipwarden"}"#),
    ] {
        if !part.contains(&format!("\"{name}\":")) {
            let _ = write!(text, "\"{name}\": {value}, ");
        }
    }
    text + part.trim() + "}"
}

#[test]
fn every_configuration_in_the_documents_is_valid() {
    let (mut plugins, mut services) = (0, 0);
    for block in blocks() {
        let text = block.text.trim();
        if block.language == "toml" {
            let checked = crate::config::check_toml(text);
            assert!(checked.is_ok(), "{}: {checked:?}\n{text}", block.place);
            services += 1;
        } else if text.starts_with('{') || text.starts_with('"') {
            let whole = if text.starts_with('{') { text.to_owned() } else { completed(text) };
            let checked = ipwarden::config::check(whole.as_bytes());
            assert!(checked.is_ok(), "{}: {checked:?}\n{whole}", block.place);
            plugins += 1;
        }
    }
    assert!(plugins >= 4 && services >= 2, "found {plugins} and {services}");
}

/// Sections of the plugin's configuration: a name for people, and a configuration with the
/// unknown setting `NOT_A_SETTING` in it.
const SECTIONS: &[(&str, &str)] = &[
    ("(the whole)", r#"{@}"#),
    ("control_plane", r#"{"control_plane": {@}}"#),
    ("client_ip, source envoy", r#"{"client_ip": {"source": "envoy", @}}"#),
    ("client_ip, source trusted_proxies", r#"{"client_ip": {"source": "trusted_proxies", @}}"#),
    ("client_ip, source header", r#"{"client_ip": {"source": "header", @}}"#),
    ("decisions", r#"{"decisions": {@}}"#),
    ("identity[]", r#"{"identity": [{@}]}"#),
    ("identity[].jwt", r#"{"identity": [{"jwt": {@}}]}"#),
    ("identity[].certificate", r#"{"identity": [{"certificate": {@}}]}"#),
    ("identity[].header", r#"{"identity": [{"header": {@}}]}"#),
    ("limits[]", r#"{"limits": [{@}]}"#),
    ("limits[].match", r#"{"limits": [{"match": {@}}]}"#),
    ("limits[].anonymous, authenticated", r#"{"limits": [{"anonymous": {@}}]}"#),
    ("limits[].cost", r#"{"limits": [{"cost": {@}}]}"#),
    ("limits[].exempt", r#"{"limits": [{"exempt": {@}}]}"#),
    ("limits_table", r#"{"limits_table": {@}}"#),
    ("geo", r#"{"geo": {"provider": "ipwarden", @}}"#),
    ("geo, provider ipinfo", r#"{"geo": {"provider": "ipinfo", @}}"#),
    ("geo, provider generic", r#"{"geo": {"provider": "generic", @}}"#),
    ("geo.fields", r#"{"geo": {"provider": "generic", "fields": {@}}}"#),
    ("geo.headers", r#"{"geo": {"headers": {@}}}"#),
    ("localize[]", r#"{"localize": [{@}]}"#),
    ("localize[].stay", r#"{"localize": [{"stay": {@}}]}"#),
    ("records", r#"{"records": {@}}"#),
    ("privacy", r#"{"privacy": {@}}"#),
];

/// Settings of a section, as the filter's own code says when it meets an unknown one.
fn settings(template: &str) -> Vec<String> {
    let text = template.replace('@', r#""NOT_A_SETTING": 0"#);
    let errors = ipwarden::config::check(text.as_bytes()).expect_err("an unknown setting");
    let message = errors
        .iter()
        .find(|error| error.place.ends_with("NOT_A_SETTING"))
        .and_then(|error| error.message.strip_prefix("unknown setting: expected "))
        .unwrap_or_else(|| panic!("{template}: {errors:?}"));
    let names = message.split('\'').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

/// docs/configuration.md.
fn reference() -> String {
    let mut text = String::from(
        "# Settings\n\nMade from the code that checks them, and held against it by a test. What the settings mean\nstands in [README](../README.md).\n\n## The service: `ipwarden.toml`\n\nThe environment variable wins over the file, a flag of `ipwarden serve` over both.\n`ipwarden check-config ipwarden.toml` finds every error at once.\n\n| setting | variable | expects |\n|---|---|---|\n",
    );
    for (path, variable, expected) in crate::config::reference() {
        let expected = expected.replace('|', "\\|");
        let _ = writeln!(text, "| `{path}` | `IPWARDEN_{variable}` | {expected} |");
    }
    text.push_str(
        "\n## The filter: the plugin's configuration\n\nJSON; unknown settings are errors. `ipwarden check-config FILE` runs the filter's own check.\n\n| section | settings |\n|---|---|\n",
    );
    for (name, template) in SECTIONS {
        let names: Vec<String> =
            settings(template).iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(text, "| `{name}` | {} |", names.join(", "));
    }
    text
}

const REFERENCE: &str = "docs/configuration.md";

#[test]
fn the_reference_lists_the_settings_that_there_are() {
    let written = std::fs::read_to_string(root().join(REFERENCE)).expect("the reference");
    assert!(
        written == reference(),
        "{REFERENCE} is not current: cargo test -p ipwarden-control-plane --lib write_the_reference -- --ignored"
    );
}

#[test]
#[ignore = "writes docs/configuration.md"]
fn write_the_reference() {
    std::fs::write(root().join(REFERENCE), reference()).expect("the reference");
}
