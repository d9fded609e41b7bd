//! The fleet's buckets in Redis or Valkey, where several control planes share them.
//!
//! ```text
//! ipwarden:fleet:<hash>                  arrival time in microseconds ":" the Envoy that alone took
//!                                        from it, or "*"; expires when the bucket is full
//! ipwarden:fleet:report:<worker>:<n>     there for a minute: the report was counted
//! ipwarden:fleet:key                     which secret the hashes are made with
//! ```
//!
//! Times are the server's own, so control planes need no common clock. One small script a bucket,
//! sent side by side over one connection: what one node of a cluster holds is nobody else's
//! business. A report is marked as counted before it is: should all go down in between, it is
//! lost rather than counted twice.
//!
//! Nothing waits for a server that is away: an attempt has [`TIMEOUT`], and after one that failed the
//! next connection is tried after a pause.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use ipwarden::limits::fleet::account::{MAX_HORIZON_US, Taken};
use ipwarden::limits::fleet::wire::Report;
use ipwarden::limits::fleet::{BucketId, Secret};
use jiff::Timestamp;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo as _, Pipeline, RedisError,
    RedisFuture, RedisResult, Script, ServerErrorKind, TlsMode, Value,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::url::{FleetUrl, Kind};
use super::{CounterError, FleetCounter};
use crate::hex::short;

/// How long connecting, or an answer, may take.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// How long all of a report may take: a proxy waits three seconds.
const ANSWER: Duration = Duration::from_millis(2_500);
/// Pause before a server that was away is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Buckets that are asked for at one time.
const AT_ONCE: usize = 128;
/// How long it is known that a report was counted: it is not sent again after ten seconds.
const REMEMBERED_SECONDS: u64 = 60;

/// The arithmetic of `ipwarden::limits::fleet::account`, where the bucket is.
const SCRIPT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost, horizon, origin = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local arrival, sole = now, origin
local known = redis.call('GET', KEYS[1])
if known then
  local at, who = string.match(known, '^(%d+):(.+)$')
  at = tonumber(at)
  if at and at > now then
    arrival, sole = at, who
    if who ~= origin and cost ~= 0 then sole = '*' end
  end
end
local next = math.max(now, math.min(arrival + cost, now + horizon))
if next > now then
  local left = math.ceil((next - now) / 1000)
  redis.call('SET', KEYS[1], string.format('%.0f:%s', next, sole), 'PX', left)
elseif known then
  redis.call('DEL', KEYS[1])
end
if sole == origin then return '0' end
return string.format('%.0f', next - now)
";

/// See the module.
pub struct RedisCounter {
    url: FleetUrl,
    client: AnyClient,
    /// Tells control planes with another secret apart, and betrays none.
    fingerprint: String,
    script: Script,
    connection: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    connection: Option<AnyConnection>,
    not_before: Option<Instant>,
    /// Why the last attempt failed.
    error: Option<CounterError>,
}

enum AnyClient {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
    /// Asks the sentinels anew for each connection.
    Sentinel(Box<Mutex<SentinelClient>>),
}

#[derive(Clone)]
enum AnyConnection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisCounter {
    /// A counter that has not connected yet.
    ///
    /// # Errors
    /// [`CounterError::Unavailable`] where the library can't use the address.
    pub fn new(url: FleetUrl, secret: &Secret) -> Result<Self, CounterError> {
        let digest = Sha256::new_with_prefix(b"ipwarden fleet key").chain_update(secret).finalize();
        let client = AnyClient::new(&url).map_err(unavailable)?;
        Ok(Self {
            client,
            url,
            fingerprint: short(&digest, 8),
            script: Script::new(SCRIPT),
            connection: Mutex::default(),
        })
    }

    /// The connection, made if there is none.
    async fn connection(&self) -> Result<AnyConnection, CounterError> {
        let mut link = self.connection.lock().await;
        if let Some(connection) = &link.connection {
            return Ok(connection.clone());
        }
        if let (Some(not_before), Some(error)) = (link.not_before, &link.error)
            && Instant::now() < not_before
        {
            return Err(error.clone());
        }
        let made = async {
            let mut connection = self.client.connect().await.map_err(unavailable)?;
            self.compare_secrets(&mut connection).await?;
            Ok(connection)
        };
        let made = match tokio::time::timeout(3 * TIMEOUT, made).await {
            Ok(made) => made,
            Err(_) => Err(CounterError::Unavailable("it takes too long to connect".to_owned())),
        };
        match made {
            Ok(connection) => {
                *link = Link { connection: Some(connection.clone()), ..Link::default() };
                Ok(connection)
            }
            Err(error) => {
                link.not_before = Some(Instant::now() + PAUSE);
                link.error = Some(error.clone());
                Err(error)
            }
        }
    }

    async fn compare_secrets(&self, connection: &mut AnyConnection) -> Result<(), CounterError> {
        let key = "ipwarden:fleet:key";
        let mut set = redis::cmd("SET");
        set.arg(key).arg(&self.fingerprint).arg("NX");
        let _: Value = set.query_async(connection).await.map_err(unavailable)?;
        let found: Option<String> =
            redis::cmd("GET").arg(key).query_async(connection).await.map_err(unavailable)?;
        // An empty one, just after: somebody flushes it.
        match found {
            Some(found) if found == self.fingerprint => Ok(()),
            Some(_) => Err(CounterError::OtherSecret),
            None => Err(CounterError::Unavailable("it keeps nothing".to_owned())),
        }
    }

    /// Runs `work` with a connection; one that failed is not used again.
    async fn with<T, F: Future<Output = RedisResult<T>>>(
        &self,
        work: impl FnOnce(AnyConnection) -> F,
    ) -> Result<T, CounterError> {
        let connection = self.connection().await?;
        let error = match tokio::time::timeout(ANSWER, work(connection)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => unavailable(error),
            Err(_) => CounterError::Unavailable("it takes too long to answer".to_owned()),
        };
        let mut link = self.connection.lock().await;
        *link = Link {
            connection: None,
            not_before: Some(Instant::now() + PAUSE),
            error: Some(error.clone()),
        };
        Err(error)
    }

    /// Counts one bucket.
    async fn owes(
        &self,
        mut connection: AnyConnection,
        taken: Taken,
        origin: &str,
    ) -> RedisResult<u64> {
        let key = key(taken.id);
        let horizon = taken.horizon_us.min(MAX_HORIZON_US);
        // Exact in a double, which is what the script counts in.
        let most = MAX_HORIZON_US.cast_signed();
        let cost = taken.cost_us.clamp(-most, most);
        let by = |name: &str, what: &str| {
            let mut command = redis::cmd(name);
            command.arg(what).arg(1).arg(&key).arg(cost).arg(horizon).arg(origin);
            command
        };
        let hash = self.script.get_hash();
        let first: RedisResult<String> = by("EVALSHA", hash).query_async(&mut connection).await;
        let text = match first {
            // This node does not know it yet: from now on it does.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                by("EVAL", SCRIPT).query_async(&mut connection).await?
            }
            other => other?,
        };
        text.parse().map_err(|_| {
            RedisError::from((ErrorKind::UnexpectedReturnType, "the script answered no number"))
        })
    }
}

#[async_trait]
impl FleetCounter for RedisCounter {
    async fn count(&self, report: &Report, _: Timestamp) -> Result<Vec<u64>, CounterError> {
        let mark = format!("ipwarden:fleet:report:{:016x}:{}", report.worker, report.number);
        let origin = format!("{:016x}", report.origin);
        self.with(|mut connection| async move {
            let mut set = redis::cmd("SET");
            set.arg(mark).arg(1).arg("NX").arg("EX").arg(REMEMBERED_SECONDS);
            let is_new = set.query_async::<Value>(&mut connection).await? != Value::Nil;
            let owes = report.taken.iter().map(|taken| {
                let taken = if is_new { *taken } else { Taken { cost_us: 0, ..*taken } };
                self.owes(connection.clone(), taken, &origin)
            });
            stream::iter(owes.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await
        })
        .await
    }

    async fn reset(&self, buckets: &[BucketId]) -> Result<(), CounterError> {
        self.with(|mut connection| async move {
            for id in buckets {
                redis::cmd("DEL").arg(key(*id)).query_async::<()>(&mut connection).await?;
            }
            Ok(())
        })
        .await
    }

    async fn check(&self) -> Result<(), CounterError> {
        // Through the script: that it may run is part of it.
        let nobody = Taken { id: BucketId(0), cost_us: 0, horizon_us: 0 };
        self.with(|connection| self.owes(connection, nobody, "-")).await.map(|_| ())
    }

    fn location(&self) -> String {
        self.url.to_string()
    }
}

fn key(id: BucketId) -> String {
    format!("ipwarden:fleet:{:032x}", id.0)
}

impl AnyClient {
    fn new(url: &FleetUrl) -> RedisResult<Self> {
        let settings = url.settings();
        let addresses = url.addresses();
        match &url.kind {
            Kind::Single => {
                let address = addresses.into_iter().next();
                let nowhere = (ErrorKind::InvalidClientConfig, "no address");
                let address = address.ok_or_else(|| RedisError::from(nowhere))?;
                let info = address.into_connection_info()?.set_redis_settings(settings);
                Client::open(info).map(|client| Self::Single(Box::new(client)))
            }
            Kind::Cluster => {
                let mut builder = ClusterClientBuilder::new(addresses)
                    .connection_timeout(TIMEOUT)
                    .response_timeout(TIMEOUT)
                    .retries(2);
                if let Some(user) = settings.username() {
                    builder = builder.username(user);
                }
                if let Some(password) = settings.password() {
                    builder = builder.password(password);
                }
                if url.is_secure() {
                    builder = builder.tls(TlsMode::Secure);
                }
                builder.build().map(|client| Self::Cluster(Box::new(client)))
            }
            Kind::Sentinel(name) => {
                let kind = SentinelServerType::Master;
                let mut builder = SentinelClientBuilder::new(addresses, name, kind)?
                    .set_client_to_redis_db(settings.db());
                if let Some(user) = settings.username() {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = settings.password() {
                    builder = builder.set_client_to_redis_password(password);
                }
                if url.is_secure() {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure);
                }
                builder.build().map(|client| Self::Sentinel(Box::new(Mutex::new(client))))
            }
        }
    }

    async fn connect(&self) -> RedisResult<AnyConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        match self {
            Self::Single(client) => client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map(AnyConnection::Single),
            Self::Cluster(client) => {
                client.get_async_connection().await.map(AnyConnection::Cluster)
            }
            Self::Sentinel(client) => client
                .lock()
                .await
                .get_async_connection_with_config(&config)
                .await
                .map(AnyConnection::Single),
        }
    }
}

impl ConnectionLike for AnyConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

fn unavailable(error: RedisError) -> CounterError {
    // The library's words may hold what a server said, never a password.
    CounterError::Unavailable(error.to_string())
}

impl fmt::Debug for RedisCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisCounter({})", self.url)
    }
}
