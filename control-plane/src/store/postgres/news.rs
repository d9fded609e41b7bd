//! The connection that listens, and the lease of who leads.
//!
//! `NOTIFY` is sent with the commit that it tells of, so whoever reads after it sees the
//! change. A connection that was lost may have missed some: after each new one everything
//! counts as news, and whoever follows compares.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::AsyncMessage;

use super::connection::{Access, Connections, Tx};
use super::failure::{Failure, Work, describe};
use super::location::Location;
use super::state::channel;
use crate::store::News;

/// First and longest pause before another connection is tried.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How often it is looked whether the connection still works, and leads to a server that takes
/// changes.
const LOOK: Duration = Duration::from_secs(10);
/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a lease lasts by the server's clock.
const LEASE_SECONDS: u64 = 6;
/// How long its holder counts on it, from before it asked.
const COUNTED_ON: Duration = Duration::from_secs(LEASE_SECONDS - 1);
/// How often it is renewed, or asked for.
const RENEW: Duration = Duration::from_secs(2);

/// Listens until it is dropped.
pub(super) async fn listen(
    location: Location,
    connections: Arc<Connections>,
    epoch: u64,
    news: watch::Sender<News>,
) {
    let mut pause = PAUSES.0;
    loop {
        let ended = once(&location, &connections, epoch, &news, &mut pause).await;
        if let Failure::Undone(why) = &ended {
            tracing::debug!("the connection that listens has ended: {why}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// One connection, until it ends.
async fn once(
    location: &Location,
    connections: &Connections,
    epoch: u64,
    news: &watch::Sender<News>,
    pause: &mut Duration,
) -> Failure {
    let connector = match location.connector() {
        Ok(connector) => connector,
        Err(error) => return error.into(),
    };
    let (client, mut connection) = match location.config().connect(connector).await {
        Ok(connected) => connected,
        Err(error) => {
            connections.health().failed(&describe(&error), Instant::now());
            return error.into();
        }
    };
    let hear = async {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(told))) => {
                    news.send_modify(|news| news.add(told.payload()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Failure::from(error),
                None => return Failure::Undone("the server closed the connection".to_owned()),
            }
        }
    };
    let talk = async {
        client.batch_execute(&format!("LISTEN \"{}\"", channel(epoch))).await?;
        connections.health().answered();
        *pause = PAUSES.0;
        news.send_modify(News::all);
        loop {
            tokio::time::sleep(LOOK).await;
            let asked = client.query_one("SHOW transaction_read_only", &[]);
            let row = tokio::time::timeout(ANSWER, asked)
                .await
                .map_err(|_| Failure::Undone("the server does not answer".to_owned()))??;
            if row.try_get::<_, &str>(0)? == "on" {
                return Work::<()>::Err(Failure::Undone("the server takes no changes".to_owned()));
            }
        }
    };
    tokio::select! {
        ended = hear => ended,
        ended = talk => ended.err().unwrap_or_else(|| Failure::Undone(String::new())),
    }
}

/// Asks for the lease and renews it, until it is dropped.
pub(super) async fn lead(
    connections: Arc<Connections>,
    holder: String,
    until: watch::Sender<Option<Instant>>,
) {
    let mut led = false;
    loop {
        let asked_at = Instant::now();
        let held = connections.run(Access::Write, |tx| async {
            let held = hold(&tx, &holder).await?;
            Ok((tx, held))
        });
        // One that could not be renewed runs out by itself.
        if let Ok(held) = held.await {
            until.send_replace(held.then(|| asked_at + COUNTED_ON));
        }
        let leads = until.borrow().is_some_and(|until| Instant::now() < until);
        if leads != led {
            led = leads;
            match leads {
                true => tracing::info!("this control plane leads"),
                false => tracing::info!("this control plane leads no longer"),
            }
        }
        tokio::time::sleep(RENEW).await;
    }
}

/// Takes the lease if it is free or held already.
pub(super) async fn hold(tx: &Tx, holder: &str) -> Work<bool> {
    let sql = format!(
        "INSERT INTO leases (name, holder, expires_at) \
         VALUES ('leader', $1, clock_timestamp() + interval '{LEASE_SECONDS} seconds') \
         ON CONFLICT (name) DO UPDATE SET holder = $1, expires_at = excluded.expires_at \
         WHERE leases.holder = $1 OR leases.expires_at < clock_timestamp()"
    );
    Ok(tx.execute(&sql, &[&holder]).await? == 1)
}

/// Gives the lease back.
pub(super) async fn release(tx: &Tx, holder: &str) -> Work<()> {
    tx.execute("DELETE FROM leases WHERE holder = $1", &[&holder]).await?;
    Ok(())
}
