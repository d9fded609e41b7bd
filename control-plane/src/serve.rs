//! From a checked configuration to a running service, and to its orderly end.

use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::api::stats::Looks;
use crate::api::status::{LOG_FILE, STATE_FILE};
use crate::app::App;
use crate::auth::{Auth, AuthError};
use crate::clock::Clock;
use crate::config::Config;
use crate::detect::feed::{Feed, FeedError, Watcher};
use crate::detect::names::{Names, NamesError};
use crate::detect::pass::run::Pass;
use crate::feeds::bouncers::Bouncers;
use crate::feeds::{Feeds, keeper};
use crate::fleet::Fleet;
use crate::geo::Geo;
use crate::hub::Hub;
use crate::ingest::{Ingest, Writer};
use crate::limits::fleet::memory::MemoryCounter;
use crate::limits::fleet::redis::RedisCounter;
use crate::limits::fleet::{FleetLimits, secret};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::notify::{Notifier, NotifyError};
use crate::privacy::keys::{Keys, KeysError};
use crate::privacy::retention::{self, Retention};
use crate::privacy::subjects::{self, Subjects};
use crate::session::{Peer, Sessions};
use crate::store::aging::{AgingLog, AgingState};
use crate::store::clickhouse::ClickHouseLog;
use crate::store::postgres::PostgresState;
use crate::store::spool::SpoolingLog;
use crate::store::sqlite::{SqliteLog, SqliteState};
use crate::store::{LogStore, StateStore, StoreError};
use crate::suspects::judge::Suspects;
use crate::transparency::editions::Editions;
use crate::{router, telemetry};

/// A connection that sends no complete request head for so long is closed; so is an idle
/// one. Above Envoy's usual keep-alive probes, below what a patient attacker would like.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Largest request head in bytes.
const HEAD_BYTES: usize = 64 * 1024;
/// After a signal, requests in flight may take so long.
const DRAIN: Duration = Duration::from_secs(7);
/// After that, the store may take so long for what was accepted: ten seconds in all.
const FLUSH: Duration = Duration::from_secs(3);
/// How often old decisions are forgotten and uses of tokens noted.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How often records are looked for that dashboards still read one by one.
const TIDY_LOOK: Duration = Duration::from_secs(1);
/// How often tokens in a shared store are read again, also when nobody tells of a change.
const TOKENS_LOOK: Duration = Duration::from_secs(5);
/// How often it is looked whether limits over the fleet are counted.
const FLEET_LOOK: Duration = Duration::from_secs(5);
/// How often the files with geolocation data are looked at.
const GEO_LOOK: Duration = Duration::from_secs(5);
/// Directory of batches that wait for a log that is away, in the data directory.
const SPOOL: &str = "spool";
/// Pause when the system gives no more connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Files that are open beside the connections.
const OTHER_FILES: u64 = 200;
/// Imports at once.
const IMPORTS: usize = 2;

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory can't be used.
    #[error("data directory {path}: {error}: choose another with --data-dir")]
    DataDirectory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another service uses it.
    #[error(
        "data directory {path} is in use by another ipwarden: stop that one, or choose another with --data-dir"
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// A store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Detection can't start.
    #[error(transparent)]
    Detect(#[from] FeedError),
    /// Names of crawlers can't be looked up.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// Nobody can be told of suspects.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// Nothing can be fetched.
    #[error("feeds can't be fetched: {0}")]
    Feeds(String),
    /// Keys of pseudonyms can't be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// There is no key for limits over the fleet.
    #[error(transparent)]
    FleetKey(#[from] secret::SecretError),
    /// The first tokens can't be made.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {error}: choose another address with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The system refuses something else.
    #[error("the system refuses {what}: {error}")]
    System {
        /// What was asked.
        what: &'static str,
        /// Why.
        error: std::io::Error,
    },
}

/// Runs the service until SIGTERM or SIGINT; a second signal ends it at once.
///
/// # Errors
/// [`ServeError`], before anything is listened on.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    telemetry::start(config.log_level, config.log_format);
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let system = |what| move |error| ServeError::System { what, error };
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(system("a signal handler"))?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
        .map_err(system("a signal handler"))?;
    let service = Service::start(config, Clock::system()).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: answering what is under way, storing what was accepted");
    tokio::select! {
        () = service.stop() => tracing::info!("stopped"),
        _ = terminate.recv() => tracing::warn!("stopped at once by a second signal"),
        _ = interrupt.recv() => tracing::warn!("stopped at once by a second signal"),
    }
    Ok(())
}

/// A running service.
pub struct Service {
    address: SocketAddr,
    app: Arc<App>,
    acceptor: JoinHandle<Connections>,
    housekeeper: JoinHandle<()>,
    judge: JoinHandle<()>,
    writer: Writer,
    feed: Feed,
    watcher: Watcher,
    /// Held as long as the service uses the data directory.
    _lock: File,
}

impl Service {
    /// Opens the stores and starts everything. When it returns, connections are accepted.
    ///
    /// # Errors
    /// [`ServeError`]; nothing is listened on then.
    pub async fn start(mut config: Config, clock: Clock) -> Result<Self, ServeError> {
        let directory = config.data_dir.clone();
        let lock = prepare(&directory)?;
        config.limits.connections = raise_file_limit(config.limits.connections);
        config.limits.polls = leave_room(config.limits.polls, config.limits.connections);
        let (log, aging_log) = open_log(&config).await?;
        let (state, aging) = open_state(&config, log.is_shared()).await?;
        let now = clock.now();
        let keys = open_keys(&directory, config.privacy.old_keys_for, now).await?;
        let hub = Hub::load(Arc::clone(&state), clock.clone(), config.limits.polls).await?;
        let auth = Auth::load(Arc::clone(&state)).await?;
        for path in auth.ensure_files(&directory, config.proxy_token_file.as_deref(), now).await? {
            tracing::info!("wrote a new token to {}", path.display());
        }
        let metrics = Arc::new(Metrics::new());
        let fleet_limits = open_fleet_limits(&config, Arc::clone(&metrics)).await?;
        let live = Live::new(config.limits.live);
        let geo = Geo::new(config.geo_dir(), config.geo.files.clone());
        // Before the first record: each is completed when it is stored, and only then.
        look_at_geo(geo.clone(), Arc::clone(&metrics), now).await;
        // Before anything is flagged: hooks are told what is noted from now on.
        let notifier = Notifier::start(
            config.notify.clone(),
            Arc::clone(&state),
            clock.clone(),
            Arc::clone(&metrics),
        )
        .await??;
        let (suspects, judge) = Suspects::new(
            Arc::clone(&state),
            hub.clone(),
            geo.clone(),
            clock.clone(),
            Arc::clone(&metrics),
            keys.clone(),
            config.detect.clone(),
        );
        let retention = Retention::new(retention::Parts {
            log: Arc::clone(&aging_log),
            log_is_shared: log.is_shared(),
            aging: Arc::clone(&aging),
            state: Arc::clone(&state),
            keys: keys.clone(),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            hub: hub.clone(),
            settings: config.privacy.clone(),
            data_dir: directory.clone(),
        });
        let (feed, watcher) = Feed::start(
            config.detect.rules.clone(),
            Arc::new(suspects.clone()),
            clock.clone(),
            Arc::clone(&metrics),
        )?;
        let names = config
            .detect
            .resolver
            .map(|server| Names::new(server, feed.in_force().clone(), Arc::clone(&metrics)))
            .transpose()?;
        let judge = judge.with_names(names.clone());
        let pass = Pass::new(
            Arc::clone(&state),
            Arc::clone(&log),
            geo.clone(),
            suspects.clone(),
            feed.in_force().clone(),
            clock.clone(),
            Arc::clone(&metrics),
            keys.clone(),
            names,
            &config.detect,
        );
        let subjects = Subjects::new(subjects::Parts {
            log: Arc::clone(&log),
            aging_log,
            state: Arc::clone(&state),
            aging,
            hub: hub.clone(),
            keys: keys.clone(),
            retention: retention.clone(),
            feed: feed.clone(),
            settings: config.privacy.clone(),
        });
        let (ingest, writer) = Ingest::start(
            Arc::clone(&log),
            live.clone(),
            geo.clone(),
            Some(feed.clone()),
            Arc::clone(&metrics),
            config.limits.ingest_bytes,
            config.store_query,
        )
        .map_err(|error| ServeError::System { what: "a thread", error })?;
        let feeds = Feeds::new(keeper::Parts {
            state: Arc::clone(&state),
            hub: hub.clone(),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            directory: config.feeds_dir(),
            protected: config.detect.policy.never_block.clone(),
            most: config.limits.import_targets,
        })
        .map_err(ServeError::Feeds)?;
        let bouncers = Bouncers::new(Arc::clone(&state), hub.clone());
        let openapi = router::openapi().map_err(|error| StoreError::Internal(error.to_string()))?;
        let address = config.listen;
        let failed = |error| ServeError::Listen { address, error };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let connections = config.limits.connections;
        let app = Arc::new(App {
            config,
            clock,
            started_at: now,
            state,
            log,
            auth,
            sessions: Sessions::default(),
            looks: Looks::default(),
            hub,
            ingest,
            live,
            geo,
            suspects,
            pass,
            rules: feed.in_force().clone(),
            notifier,
            keys,
            retention,
            subjects,
            feeds,
            bouncers,
            fleet: Fleet::default(),
            fleet_limits,
            editions: Editions::open(&directory),
            metrics,
            imports: Semaphore::new(IMPORTS),
            openapi,
        });
        let router = router::router(Arc::clone(&app));
        let acceptor = tokio::spawn(accept(listener, router, connections, app.hub.clone()));
        let (house, geo) = (keep_house(Arc::clone(&app)), keep_geo(Arc::clone(&app)));
        let fleet = keep_fleet_limits(Arc::clone(&app));
        let log = keep_log(Arc::clone(&app));
        let (others, tokens) = (app.hub.clone().follow(), keep_tokens(Arc::clone(&app)));
        let pass = app.pass.clone().keep(app.hub.clone());
        let notifier = app.notifier.clone().run(app.hub.clone());
        let retention = app.retention.clone().keep();
        let feeds = app.feeds.clone().keep();
        let housekeeper = tokio::spawn(async {
            tokio::join!(house, geo, fleet, log, others, tokens, pass, notifier, retention, feeds);
        });
        let judge = tokio::spawn(judge.run());
        let revision = app.hub.revision();
        tracing::info!(
            version = ipwarden::VERSION,
            data_dir = %directory.display(),
            revision = revision.number,
            "listening on http://{address}"
        );
        Ok(Self { address, app, acceptor, housekeeper, judge, writer, feed, watcher, _lock: lock })
    }

    /// Where it listens, with the port that the system chose for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its parts.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Stops: waiting polls are answered at once, requests under way get a few seconds,
    /// what was accepted is stored. At most ten seconds. When it returns, the data
    /// directory is free.
    pub async fn stop(self) {
        self.app.hub.stop();
        if let Ok(connections) = self.acceptor.await {
            connections.finish().await;
        }
        // It ends by itself; an error would mean that it panicked, which was reported.
        let _ = self.housekeeper.await;
        let flush = async {
            self.app.ingest.stop().await;
            self.writer.finish().await;
            // A thread waits for the place in the queue: it may be full.
            let feed = self.feed;
            let _ = tokio::task::spawn_blocking(move || feed.stop()).await;
            self.watcher.finish().await;
            // The last flags are raised now.
            self.app.suspects.stop();
            let _ = self.judge.await;
            if let Err(error) = self.app.auth.note_use().await {
                tracing::warn!("uses of tokens could not be noted: {error}");
            }
            self.app.state.close().await;
        };
        if tokio::time::timeout(FLUSH, flush).await.is_err() {
            tracing::error!("the store took too long: batches without an answer will come again");
        }
    }
}

/// The open connections.
struct Connections {
    graceful: GracefulShutdown,
    tasks: JoinSet<()>,
}

impl Connections {
    async fn finish(self) {
        let Self { graceful, mut tasks } = self;
        let drained = async {
            graceful.shutdown().await;
            while tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("some requests took too long and were cut off");
            tasks.shutdown().await;
        }
    }
}

/// Creates the data directory, and makes sure that nobody else uses it.
fn prepare(directory: &Path) -> Result<File, ServeError> {
    let failed = |error| ServeError::DataDirectory { path: directory.to_owned(), error };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mode = std::fs::metadata(directory).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            "{} can be read by others: it holds tokens and addresses; chmod 700 it",
            directory.display()
        );
    }
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join("lock"))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(ServeError::InUse { path: directory.to_owned() })
        }
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

async fn open_state(
    config: &Config,
    log_is_shared: bool,
) -> Result<(Arc<dyn StateStore>, Arc<dyn AgingState>), StoreError> {
    let directory = &config.data_dir;
    let Some(location) = &config.state else {
        let path = directory.join(STATE_FILE);
        let state = Arc::new(blocking(move || SqliteState::open(&path)).await?);
        return Ok((Arc::clone(&state) as _, state));
    };
    let location = match &config.state_password_file {
        None => location.clone(),
        Some(file) => location.clone().with_password(&read_password("state_password_file", file)?),
    };
    // Hours of a log of our own are told apart from others' by a name that stays with it.
    let name = if log_is_shared { String::new() } else { instance(directory)? };
    let state = Arc::new(PostgresState::open(location, &name).await?);
    Ok((Arc::clone(&state) as _, state))
}

async fn open_log(config: &Config) -> Result<(Arc<dyn LogStore>, Arc<dyn AgingLog>), StoreError> {
    let sensitive = config.detect.pass.sensitive_paths.clone();
    let Some(url) = config.log.clone() else {
        let path = config.data_dir.join(LOG_FILE);
        let log = Arc::new(blocking(move || SqliteLog::open_with(&path, sensitive)).await?);
        return Ok((Arc::clone(&log) as _, log));
    };
    let url = match &config.log_password_file {
        None => url,
        Some(file) => url.with_password(&read_password("log_password_file", file)?),
    };
    let log = ClickHouseLog::new(url, sensitive)?;
    match log.prepare().await {
        Ok(()) => {}
        // It may come later: until then batches wait in the spool.
        Err(error @ StoreError::Unavailable(_)) => tracing::warn!("the log: {error}"),
        Err(error) => return Err(error),
    }
    let spool = config.data_dir.join(SPOOL);
    let log = Arc::new(SpoolingLog::open(log, &spool, config.log_spool).await?);
    Ok((Arc::clone(&log) as _, log))
}

/// Opening migrates and recovers, which blocks.
async fn blocking<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(open).await?
}

/// The name of this data directory, drawn at its first start.
fn instance(directory: &Path) -> Result<String, StoreError> {
    let path = directory.join("instance");
    let failed = |error| StoreError::Unavailable(format!("{}: {error}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let random = getrandom::u64()
        .map_err(|error| StoreError::Unavailable(format!("no random numbers: {error}")))?;
    let name = format!("{random:016x}");
    std::fs::write(&path, &name).map_err(failed)?;
    Ok(name)
}

async fn open_keys(
    directory: &Path,
    old_for: Duration,
    now: jiff::Timestamp,
) -> Result<Keys, ServeError> {
    let directory = directory.to_owned();
    let opened = tokio::task::spawn_blocking(move || Keys::open(&directory, old_for, now)).await;
    Ok(opened.map_err(StoreError::from)??)
}

/// Limits over the fleet, and the key that names their buckets. A server that is away is no
/// reason not to start: each proxy counts for itself until it is there.
async fn open_fleet_limits(
    config: &Config,
    metrics: Arc<Metrics>,
) -> Result<FleetLimits, ServeError> {
    let limits = &config.limits;
    let file = limits.fleet_key_file.clone();
    let secret = secret::open(&file.unwrap_or_else(|| config.data_dir.join(secret::FILE)))?;
    let Some(url) = limits.store.clone() else {
        return Ok(FleetLimits::new(Box::new(MemoryCounter::default()), secret, metrics));
    };
    let url = match &limits.store_password_file {
        None => url,
        Some(file) => url.with_password(&read_password("limits.store_password_file", file)?),
    };
    let counter = RedisCounter::new(url, &secret)
        .map_err(|error| StoreError::Unusable(format!("limits.store: {error}")))?;
    let limits = FleetLimits::new(Box::new(counter), secret, metrics);
    limits.check().await;
    Ok(limits)
}

fn read_password(setting: &str, file: &Path) -> Result<String, StoreError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| StoreError::Unusable(format!("{setting} {}: {error}", file.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Lets this process open as many files as the system permits, and says how many
/// connections fit into that.
fn raise_file_limit(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(files) = files else { return connections };
    let fit = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX).max(10);
    if fit < connections {
        tracing::warn!(
            "only {fit} of {connections} connections fit into the limit of {files} open files: raise it (ulimit -n) or lower limits.connections"
        );
    }
    connections.min(fit)
}

/// Waiting polls must not take every connection: people need some to mend things.
fn leave_room(polls: usize, connections: usize) -> usize {
    let most = connections - connections / 5;
    if polls > most {
        tracing::warn!(
            "at most {most} polls may wait, a fifth of {connections} connections stays free: raise limits.connections for more"
        );
    }
    polls.min(most)
}

/// Accepts connections until the service stops. Dropping the listener refuses new ones;
/// the returned value knows the open ones.
async fn accept(
    listener: TcpListener,
    router: Router,
    connections: usize,
    hub: Hub,
) -> Connections {
    let mut open = Connections { graceful: GracefulShutdown::new(), tasks: JoinSet::new() };
    let free = Arc::new(Semaphore::new(connections));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
    let stopping = hub.stopping();
    tokio::pin!(stopping);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = Arc::clone(&free).acquire_owned().await.ok();
            listener.accept().await.map(|(stream, peer)| (stream, peer, place))
        };
        let (stream, peer, place) = tokio::select! {
            accepted = accepted => match accepted {
                Ok(accepted) => accepted,
                // The client went away before it was accepted.
                Err(error) if is_of_the_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!("no connection can be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut stopping => return open,
        };
        // Answers are small and urgent. A socket that refuses this still works.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let peer = Peer(ipwarden::address::fold(peer.ip()));
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer);
            service.call(request)
        });
        let connection =
            open.graceful.watch(server.serve_connection(TokioIo::new(stream), service));
        while open.tasks.try_join_next().is_some() {}
        open.tasks.spawn(async move {
            // What can go wrong here is the client's doing: it went away or was too slow.
            let _ = connection.await;
            drop(place);
        });
    }
}

fn is_of_the_connection(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}

/// What is done once a minute.
async fn keep_house(app: Arc<App>) {
    let first = tokio::time::Instant::now() + HOUSEKEEPING;
    let mut minute = tokio::time::interval_at(first, HOUSEKEEPING);
    let leadership = app.state.leadership();
    loop {
        tokio::select! {
            _ = minute.tick() => {}
            () = app.hub.stopping() => return,
        }
        if leadership.leads() {
            sweep(&app).await;
        }
        if let Err(error) = app.auth.note_use().await {
            tracing::warn!("uses of tokens could not be noted: {error}");
        }
        if app.state.shared().is_some() {
            let keys = app.keys.clone();
            match tokio::task::spawn_blocking(move || keys.refresh()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("keys can't be read again: {error}"),
                Err(error) => tracing::error!("keys can't be read again: {error}"),
            }
        }
        if let Err(error) = app.hub.verify().await {
            tracing::warn!("the decision set could not be compared with the store: {error}");
        }
    }
}

/// Forgets what is old in the state.
async fn sweep(app: &App) {
    match app.state.sweep_decisions(app.clock.now(), app.config.history).await {
        Ok(0) => {}
        Ok(forgotten) => tracing::debug!(forgotten, "old decisions forgotten"),
        Err(error) => tracing::warn!("old decisions could not be forgotten: {error}"),
    }
    let detect = &app.config.detect;
    let closed_for = app.config.privacy.retention_suspects;
    match app.state.sweep_suspects(app.clock.now(), detect.open_for, closed_for).await {
        Ok(0) => {}
        Ok(forgotten) => tracing::debug!(forgotten, "old suspects forgotten"),
        Err(error) => tracing::warn!("old suspects could not be forgotten: {error}"),
    }
}

/// Follows the tokens that other control planes make and revoke in a shared store.
async fn keep_tokens(app: Arc<App>) {
    let Some(shared) = app.state.shared() else { return };
    let mut news = shared.follow(|news| news.tokens, TOKENS_LOOK);
    loop {
        tokio::select! {
            () = news.next() => {}
            () = app.hub.stopping() => return,
        }
        if let Err(error) = app.auth.refresh().await {
            tracing::debug!("tokens can't be read, those that are known stay in force: {error}");
        }
    }
}

/// Makes what dashboards are answered from, soon after records came.
async fn keep_log(app: Arc<App>) {
    let mut look = tokio::time::interval(TIDY_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = app.hub.stopping() => return,
        }
        loop {
            tokio::select! {
                tidied = app.log.tidy() => match tidied {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!("the log could not be tidied: {error}");
                        break;
                    }
                },
                () = app.hub.stopping() => return,
            }
        }
    }
}

/// Looks whether limits over the fleet are counted, also while no proxy has anything to report.
async fn keep_fleet_limits(app: Arc<App>) {
    let mut look = tokio::time::interval(FLEET_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = app.hub.stopping() => return,
        }
        tokio::select! {
            () = app.fleet_limits.check() => {}
            () = app.hub.stopping() => return,
        }
    }
}

/// Loads geolocation data that changed, every few seconds.
async fn keep_geo(app: Arc<App>) {
    let first = tokio::time::Instant::now() + GEO_LOOK;
    let mut look = tokio::time::interval_at(first, GEO_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = app.hub.stopping() => return,
        }
        look_at_geo(app.geo.clone(), Arc::clone(&app.metrics), app.clock.now()).await;
    }
}

/// Looks at the files with geolocation data once, on a thread that may block.
async fn look_at_geo(geo: Geo, metrics: Arc<Metrics>, now: jiff::Timestamp) {
    let looked = tokio::task::spawn_blocking(move || geo.refresh(now));
    match looked.await {
        Ok(refreshed) => metrics.geo_refreshed(&refreshed),
        Err(error) => tracing::error!("geolocation data could not be looked at: {error}"),
    }
}
