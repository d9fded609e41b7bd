//! `/v1/decisions/check`: which decision applies to an address, and which it hides.

use std::cmp::Reverse;

use axum::Json;
use axum::extract::State;
use ipwarden::address::{display_target, fold, host_net};
use ipwarden::limits::Mode;
use ipwarden::record::bounds::PATH_BYTES;
use serde::Serialize;
use std::net::IpAddr;
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody, fault};
use crate::model::{Action, Decision, Origin};
use crate::regions::Rule;

/// What applies to an address.
#[derive(Debug, Serialize, ToSchema)]
pub struct Checked {
    /// The address, folded.
    #[schema(value_type = String)]
    pub ip: IpAddr,
    /// What a proxy does with it.
    pub verdict: CheckVerdict,
    /// The decision that says so; null where only one by region does.
    pub decision: Option<Decision>,
    /// Decisions that cover the address too but don't count, in order of precedence.
    pub hidden: Vec<Hidden>,
    /// Decisions by region that are about the address, as far as this service knows where it
    /// is; the proxies may know better.
    pub regions: Vec<RegionChecked>,
    /// Number of the decision set.
    pub revision: u64,
}

/// A decision by region that is about the address.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegionChecked {
    /// The rule.
    pub rule: Rule,
    /// Whether it applies to the path that was asked for; one for the whole site always does.
    pub applies: bool,
}

/// What a proxy does with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckVerdict {
    /// Refuses it.
    Blocked,
    /// Lets it pass whatever any block says.
    Allowed,
    /// No decision covers it.
    None,
}

/// A decision that another one hides.
#[derive(Debug, Serialize, ToSchema)]
pub struct Hidden {
    /// The hidden one.
    pub decision: Decision,
    /// Why, in words.
    pub why: String,
}

/// Explains what happens to an address.
#[utoipa::path(
    get, path = "/v1/decisions/check", tag = "decisions",
    params(
        ("ip" = String, Query, description = "the address"),
        ("path" = Option<String>, Query, description = "a path, for decisions by region"),
    ),
    responses((status = 200, body = Checked), (status = 400, body = ProblemBody))
)]
pub(crate) async fn check(
    State(app): AppState,
    mut params: Params,
) -> Result<Json<Checked>, Problem> {
    let ip = params.parsed("ip", "an IP address such as 192.0.2.7 or 2001:db8::1", |text| {
        text.trim().parse::<IpAddr>().ok()
    });
    let path = params.checked("path", |text| {
        let is_path = text.starts_with('/') && text.len() <= PATH_BYTES;
        is_path.then(|| text.to_owned()).ok_or("expected a path that starts with /")
    });
    params.finish()?;
    let Some(ip) = ip.map(fold) else {
        let missing = fault("ip", "missing: give the address to check");
        return Err(Problem::parameters(vec![missing]));
    };
    let revision = app.hub.revision().number;
    let now = app.clock.now();
    let covering = app.state.covering(host_net(ip), now).await?;
    let (mut verdict, decision, hidden) = explain(covering);
    let (_, policy) = app.state.limits(now).await?;
    let mut regions = Vec::new();
    if !policy.regions.is_empty()
        && let Ok(located) = app.geo.locate(ip)
    {
        let about = policy.regions.into_iter().filter(|rule| rule.is_about(&located.place));
        regions.extend(about.map(|rule| RegionChecked {
            applies: rule.path.is_none() || path.as_deref().is_some_and(|path| rule.covers(path)),
            rule,
        }));
    }
    let refuses = |checked: &RegionChecked| checked.applies && checked.rule.mode == Mode::Enforce;
    if verdict == CheckVerdict::None && regions.iter().any(refuses) {
        verdict = CheckVerdict::Blocked;
    }
    Ok(Json(Checked { ip, verdict, decision, hidden, regions, revision }))
}

/// Orders by precedence exactly as the proxies' table does: tier, longest prefix, newest.
fn explain(mut covering: Vec<Decision>) -> (CheckVerdict, Option<Decision>, Vec<Hidden>) {
    covering.sort_by_key(|decision| {
        (decision.tier() as u8, Reverse(decision.target.prefix_len()), Reverse(decision.id))
    });
    let mut covering = covering.into_iter();
    let Some(winner) = covering.next() else { return (CheckVerdict::None, None, Vec::new()) };
    let hidden =
        covering.map(|decision| Hidden { why: why(&winner, &decision), decision }).collect();
    let verdict = match winner.action {
        Action::Block => CheckVerdict::Blocked,
        Action::Allow => CheckVerdict::Allowed,
    };
    (verdict, Some(winner), hidden)
}

fn why(winner: &Decision, hidden: &Decision) -> String {
    let reason = if winner.tier() != hidden.tier() {
        match (winner.action, &winner.origin) {
            (Action::Allow, _) => "an allow wins over every block".to_owned(),
            (Action::Block, Origin::Manual) => {
                "a manual block wins over a detector's and a feed's".to_owned()
            }
            (Action::Block, _) => "a detector's block wins over a feed's".to_owned(),
        }
    } else if winner.target.prefix_len() > hidden.target.prefix_len() {
        format!(
            "{} is more specific than {}",
            display_target(&winner.target),
            display_target(&hidden.target)
        )
    } else {
        "the newer of two equals counts".to_owned()
    };
    format!("hidden by decision {}: {reason}", winner.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(id: u32, target: &str, action: Action, origin: &str) -> Decision {
        Decision {
            id,
            target: ipwarden::address::parse_target(target).unwrap(),
            action,
            origin: origin.parse().unwrap(),
            reason: String::new(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            expires_at: None,
        }
    }

    #[test]
    fn precedence_is_explained_in_words() {
        let (verdict, winner, hidden) = explain(vec![
            decision(1, "203.0.113.0/24", Action::Block, "feed:drop"),
            decision(2, "203.0.113.0/24", Action::Block, "manual"),
            decision(3, "203.0.113.7", Action::Block, "manual"),
            decision(4, "203.0.113.7", Action::Block, "detector:burst"),
        ]);
        assert_eq!((verdict, winner.unwrap().id), (CheckVerdict::Blocked, 3));
        let why: Vec<&str> = hidden.iter().map(|hidden| hidden.why.as_str()).collect();
        assert_eq!(
            why,
            [
                "hidden by decision 3: 203.0.113.7 is more specific than 203.0.113.0/24",
                "hidden by decision 3: a manual block wins over a detector's and a feed's",
                "hidden by decision 3: a manual block wins over a detector's and a feed's",
            ]
        );
    }

    #[test]
    fn an_allow_hides_every_block_and_the_newest_of_equals_counts() {
        let (verdict, winner, hidden) = explain(vec![
            decision(1, "203.0.113.7", Action::Block, "manual"),
            decision(2, "203.0.0.0/16", Action::Allow, "manual"),
            decision(3, "203.0.0.0/16", Action::Allow, "feed:partners"),
        ]);
        assert_eq!((verdict, winner.unwrap().id), (CheckVerdict::Allowed, 3));
        assert_eq!(hidden[0].why, "hidden by decision 3: the newer of two equals counts");
        assert_eq!(hidden[1].why, "hidden by decision 3: an allow wins over every block");
        assert_eq!(explain(Vec::new()).0, CheckVerdict::None);
    }
}
