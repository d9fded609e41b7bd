//! What is in force where: the proxies' own limits, and the changes that lie over them.

use ipwarden::limits::MAX_LIMITS;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::reports::Configured;
use super::{Override, Policy, is_name, mode_of, with_mode};
use crate::model::Actor;

/// Where a limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The plugin's configuration.
    Configuration,
    /// A change made here.
    ControlPlane,
}

/// A limit in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitInForce {
    /// Its name. Proxies that configure it differently stand on lines of their own.
    #[schema(example = "login")]
    pub name: String,
    /// `enforce` or `shadow`.
    pub mode: String,
    /// Where it comes from.
    pub source: Source,
    /// Whether something that a proxy configures is changed here.
    pub overridden: bool,
    /// The limit as it is in force; absent where only a mode is kept and no connected proxy
    /// configures such a limit.
    #[schema(value_type = Option<Object>)]
    pub limit: Option<Value>,
    /// What it takes the place of: in force again when the change is removed.
    #[serde(default)]
    pub configured: Vec<ConfiguredLimit>,
    /// Connected proxies that have it in force.
    pub proxies: Vec<String>,
    /// When it was last changed here.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub changed_at: Option<Timestamp>,
    /// By whom.
    #[schema(value_type = Option<String>)]
    pub changed_by: Option<Actor>,
}

/// A limit that proxies configure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfiguredLimit {
    /// The limit.
    #[schema(value_type = Object)]
    pub limit: Value,
    /// The connected proxies that configure it so.
    pub proxies: Vec<String>,
}

/// All limits in force, by name. `connected` are the names of the connected proxies, which
/// all have every whole limit that is kept here.
#[must_use]
pub fn in_force(
    policy: &Policy,
    configured: &[Configured],
    connected: &[String],
) -> Vec<LimitInForce> {
    let mut rows = Vec::new();
    let mut names: Vec<&str> = policy.overrides.iter().map(|kept| kept.name.as_str()).collect();
    names.extend(configured.iter().flat_map(|report| report.limits.iter().filter_map(name_of)));
    names.sort_unstable();
    names.dedup();
    for name in names {
        let variants = variants(configured, name);
        match policy.get(name) {
            Some(kept) => match kept.limit() {
                Some(limit) => rows.push(whole(kept, limit, variants, connected)),
                None if variants.is_empty() => rows.push(mode_alone(kept)),
                None => rows.extend(variants.into_iter().map(|own| changed_mode(kept, own))),
            },
            None => rows.extend(variants.into_iter().map(|own| as_configured(name, own))),
        }
    }
    rows
}

/// Names that a change can be made to: those kept and those configured, in order.
#[must_use]
pub fn known_names(policy: &Policy, configured: &[Configured]) -> Vec<String> {
    let mut names: Vec<String> =
        in_force(policy, configured, &[]).into_iter().map(|row| row.name).collect();
    names.dedup();
    names
}

/// A connected proxy on which more than [`MAX_LIMITS`] limits would be in force with one of
/// this name set here, and how many.
#[must_use]
pub fn overfull<'a>(
    policy: &Policy,
    configured: &'a [Configured],
    name: &str,
) -> Option<(&'a str, usize)> {
    let set_here = policy.overrides.iter().filter(|kept| kept.definition.is_some());
    let set_here: Vec<&str> =
        set_here.map(|kept| kept.name.as_str()).chain(std::iter::once(name)).collect();
    configured.iter().find_map(|report| {
        let mut names: Vec<&str> = report.limits.iter().filter_map(name_of).collect();
        names.extend(&set_here);
        names.sort_unstable();
        names.dedup();
        let proxy = report.proxies.first()?;
        (names.len() > MAX_LIMITS).then_some((proxy.as_str(), names.len()))
    })
}

/// The different limits of a name that proxies configure.
#[must_use]
pub fn variants(configured: &[Configured], name: &str) -> Vec<ConfiguredLimit> {
    let mut found: Vec<ConfiguredLimit> = Vec::new();
    for report in configured {
        let Some(limit) = report.limits.iter().find(|limit| name_of(limit) == Some(name)) else {
            continue;
        };
        match found.iter_mut().find(|known| known.limit == *limit) {
            Some(known) => known.proxies.extend(report.proxies.iter().cloned()),
            None => found
                .push(ConfiguredLimit { limit: limit.clone(), proxies: report.proxies.clone() }),
        }
    }
    for variant in &mut found {
        variant.proxies.sort();
    }
    found
}

/// The name in a limit's JSON, if it is one.
pub fn name_of(limit: &Value) -> Option<&str> {
    limit.get("name").and_then(Value::as_str).filter(|name| is_name(name))
}

fn as_configured(name: &str, own: ConfiguredLimit) -> LimitInForce {
    LimitInForce {
        name: name.to_owned(),
        mode: mode_of(&own.limit).as_str().to_owned(),
        source: Source::Configuration,
        overridden: false,
        limit: Some(own.limit),
        configured: Vec::new(),
        proxies: own.proxies,
        changed_at: None,
        changed_by: None,
    }
}

fn changed_mode(kept: &Override, own: ConfiguredLimit) -> LimitInForce {
    let mode = kept.mode.unwrap_or_else(|| mode_of(&own.limit));
    LimitInForce {
        mode: mode.as_str().to_owned(),
        overridden: true,
        limit: Some(with_mode(own.limit.clone(), mode)),
        configured: vec![own.clone()],
        changed_at: Some(kept.changed_at),
        changed_by: Some(kept.changed_by.clone()),
        ..as_configured(&kept.name, own)
    }
}

/// A mode that waits for a proxy to configure its limit.
fn mode_alone(kept: &Override) -> LimitInForce {
    let nothing = ConfiguredLimit { limit: Value::Null, proxies: Vec::new() };
    LimitInForce { limit: None, configured: Vec::new(), ..changed_mode(kept, nothing) }
}

fn whole(
    kept: &Override,
    limit: Value,
    variants: Vec<ConfiguredLimit>,
    connected: &[String],
) -> LimitInForce {
    LimitInForce {
        name: kept.name.clone(),
        mode: mode_of(&limit).as_str().to_owned(),
        source: Source::ControlPlane,
        overridden: !variants.is_empty(),
        limit: Some(limit),
        configured: variants,
        proxies: connected.to_vec(),
        changed_at: Some(kept.changed_at),
        changed_by: Some(kept.changed_by.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Change;
    use ipwarden::limits::Mode;
    use serde_json::json;

    fn report(limits: Value, proxies: &[&str]) -> Configured {
        Configured {
            limits: limits.as_array().unwrap().clone(),
            proxies: proxies.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn reports() -> Vec<Configured> {
        let login = json!({"name": "login", "anonymous": {"requests": 5, "per": "1m"}});
        let strict = json!({"name": "login", "anonymous": {"requests": 1, "per": "1m"}});
        let api = json!({"name": "api", "anonymous": "unlimited", "mode": "shadow"});
        vec![
            report(json!([login, api]), &["edge-1", "edge-3"]),
            report(json!([login]), &["edge-2"]),
            report(json!([strict]), &["edge-4"]),
        ]
    }

    fn connected() -> Vec<String> {
        (1..=5).map(|n| format!("edge-{n}")).collect()
    }

    fn policy(changes: &[Change]) -> Policy {
        let now = "2026-11-22T16:00:00Z".parse().unwrap();
        changes.iter().fold(Policy::default(), |policy, change| policy.after(change, "ops", now))
    }

    /// name, mode, source, overridden, requests a minute, how many configured, proxies
    fn rows(policy: &Policy) -> Vec<String> {
        let word = |source| serde_json::to_value(source).unwrap().as_str().unwrap().to_owned();
        in_force(policy, &reports(), &connected())
            .iter()
            .map(|row| {
                let requests =
                    row.limit.as_ref().and_then(|limit| limit.pointer("/anonymous/requests"));
                format!(
                    "{} {} {} {} {} {} {}",
                    row.name,
                    row.mode,
                    word(row.source),
                    row.overridden,
                    requests.map_or_else(|| "-".to_owned(), Value::to_string),
                    row.configured.len(),
                    row.proxies.join(",")
                )
            })
            .collect()
    }

    #[test]
    fn configured_limits_are_told_apart_by_what_they_say() {
        assert_eq!(
            rows(&Policy::default()),
            [
                "api shadow configuration false - 0 edge-1,edge-3",
                "login enforce configuration false 5 0 edge-1,edge-2,edge-3",
                "login enforce configuration false 1 0 edge-4",
            ]
        );
    }

    #[test]
    fn a_mode_changes_what_is_configured_and_waits_for_what_is_not() {
        let mode = |name: &str, mode| Change::Mode { name: name.to_owned(), mode };
        let policy = policy(&[mode("login", Mode::Shadow), mode("search", Mode::Enforce)]);
        assert_eq!(
            rows(&policy),
            [
                "api shadow configuration false - 0 edge-1,edge-3",
                "login shadow configuration true 5 1 edge-1,edge-2,edge-3",
                "login shadow configuration true 1 1 edge-4",
                "search enforce configuration true - 0 ",
            ]
        );
        assert_eq!(known_names(&policy, &reports()), ["api", "login", "search"]);
    }

    #[test]
    fn a_limit_too_many_is_noticed_where_it_would_be() {
        let limits: Vec<Value> = (0..63).map(|n| json!({"name": format!("l{n}")})).collect();
        let configured = [report(json!([]), &["edge-1"]), report(json!(limits), &["edge-2"])];
        let set = Change::Set { name: "login".to_owned(), definition: "{}".to_owned() };
        assert_eq!(overfull(&Policy::default(), &configured, "login"), None);
        let policy = policy(&[set]);
        assert_eq!(overfull(&policy, &configured, "l7"), None);
        assert_eq!(overfull(&policy, &configured, "api"), Some(("edge-2", 65)));
    }

    #[test]
    fn a_whole_limit_is_in_force_everywhere() {
        let set = |name: &str| Change::Set {
            name: name.to_owned(),
            definition: json!({"name": name, "anonymous": {"requests": 9, "per": "1m"}})
                .to_string(),
        };
        assert_eq!(
            rows(&policy(&[set("login"), set("search")])),
            [
                "api shadow configuration false - 0 edge-1,edge-3",
                "login enforce control-plane true 9 2 edge-1,edge-2,edge-3,edge-4,edge-5",
                "search enforce control-plane false 9 0 edge-1,edge-2,edge-3,edge-4,edge-5",
            ]
        );
    }
}
