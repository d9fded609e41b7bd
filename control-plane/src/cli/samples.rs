//! What several tests of the command line look at.

use jiff::Timestamp;

use crate::model::Decision;

/// A decision made two minutes before [`now`], for an hour and two minutes.
pub(super) fn decision(id: u32, target: &str, action: &str, origin: &str) -> Decision {
    serde_json::from_value(serde_json::json!({
        "id": id, "target": target, "action": action, "origin": origin, "reason": "scraping",
        "created_at": "2026-11-22T15:58:00Z", "expires_at": "2026-11-22T17:00:00Z",
    }))
    .unwrap()
}

pub(super) fn now() -> Timestamp {
    "2026-11-22T16:00:00Z".parse().unwrap()
}
