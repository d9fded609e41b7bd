//! The schema, step by step, whoever starts first.

use deadpool_postgres::Object;

use super::failure::{Failure, Work};
use crate::store::StoreError;

/// Steps in their order; a step is never changed once it was released.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/postgres/001_state.sql"),
    include_str!("../../../migrations/postgres/002_feeds.sql"),
];

/// Half of the number of the lock that is held while the schema changes; the other half is the
/// schema's name.
const LOCK: i32 = 0x6970_7773;

/// Brings the schema up to date and draws the epoch of a new one. Of several that start at
/// once one does it, the others wait for it.
pub(super) async fn migrate(client: &mut Object, epoch: u64) -> Work<()> {
    let transaction = client.transaction().await?;
    // Until the end of the transaction. Waits as long as a large step may take.
    transaction
        .batch_execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        .await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1, hashtext(current_schema()))", &[&LOCK])
        .await?;
    let there: bool = transaction
        .query_one("SELECT to_regclass('ipwarden_schema') IS NOT NULL", &[])
        .await?
        .try_get(0)?;
    if !there {
        transaction
            .batch_execute(
                "CREATE TABLE ipwarden_schema (\
                     version BIGINT PRIMARY KEY, \
                     applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
            )
            .await?;
    }
    let version: i64 = transaction
        .query_one("SELECT coalesce(max(version), 0) FROM ipwarden_schema", &[])
        .await?
        .try_get(0)?;
    let applied = usize::try_from(version).unwrap_or(usize::MAX);
    if applied > MIGRATIONS.len() {
        return Err(Failure::Store(StoreError::Unusable(format!(
            "its schema is of version {version}, this program knows versions up to {}: start a later ipwarden",
            MIGRATIONS.len()
        ))));
    }
    for (step, version) in MIGRATIONS.iter().zip(1i64..).skip(applied) {
        transaction.batch_execute(step).await?;
        transaction
            .execute("INSERT INTO ipwarden_schema (version) VALUES ($1)", &[&version])
            .await?;
    }
    transaction
        .execute(
            "INSERT INTO meta (id, epoch, revision, next_decision) VALUES (1, $1, 0, 1) \
             ON CONFLICT DO NOTHING",
            &[&epoch.cast_signed()],
        )
        .await?;
    transaction.commit().await?;
    Ok(())
}
