//! Who may do what: tokens, looked up by hash, and the two that the first start makes.
//!
//! A secret is 256 random bits: a plain SHA-256 is enough at rest. All live hashes are in
//! memory, so a request costs no read of the store. Refuses to show a secret twice.

use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hashbrown::HashMap;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::hex::hex;
use crate::model::{Actor, Role, Token};
use crate::store::{self, NewAudit, NewToken, StateStore, StoreError};

/// What every secret starts with, so that a leaked one is recognised by scanners.
pub const PREFIX: &str = "ipw_";
/// Name of the admin token's file in the data directory.
pub const ADMIN_FILE: &str = "admin.token";
/// Name of the proxy token's file in the data directory.
pub const PROXY_FILE: &str = "proxy.token";

type Hash = [u8; 32];

/// A token's secret. Never printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Reads a secret that an operator chose. Nothing weaker than what we draw ourselves is
    /// taken: tokens are kept as a plain hash.
    fn read(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let sound = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        sound.then(|| Self(text.to_owned()))
    }

    fn draw() -> Result<Self, AuthError> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| AuthError::Random(error.to_string()))?;
        Ok(Self(format!("{PREFIX}{}", hex(&bytes))))
    }

    /// The text that goes into an `authorization` header.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why tokens can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A token's file can't be used.
    #[error("token file {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file holds something that can't be a token.
    #[error(
        "token file {path}: expected one line, {PREFIX} and 64 hexadecimal digits; make one with: printf '{PREFIX}%s\\n' \"$(openssl rand -hex 32)\""
    )]
    NotAToken {
        /// Which.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("no random numbers from the system: {0}")]
    Random(String),
}

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the token.
    pub name: Actor,
    /// What it may do.
    pub role: Role,
}

/// All live tokens.
pub struct Auth {
    store: Arc<dyn StateStore>,
    known: RwLock<HashMap<Hash, Arc<Known>>>,
    /// Held while tokens change, so that a list read before a revocation never replaces
    /// one from after it.
    turn: tokio::sync::Mutex<()>,
}

struct Known {
    id: i64,
    identity: Identity,
    hash: Hash,
    /// When it was last used, Unix seconds; 0 for not since the last note.
    used: AtomicI64,
}

impl Auth {
    /// Reads all tokens.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn load(store: Arc<dyn StateStore>) -> store::Result<Self> {
        let auth = Self { store, known: RwLock::default(), turn: tokio::sync::Mutex::new(()) };
        auth.reload().await?;
        Ok(auth)
    }

    /// Whose secret this is.
    #[must_use]
    pub fn identify(&self, secret: &str, now: Timestamp) -> Option<Identity> {
        if !secret.starts_with(PREFIX) || secret.len() > 256 {
            return None;
        }
        let hash = hash(secret);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(&hash)?;
        if !bool::from(known.hash.ct_eq(&hash)) {
            return None;
        }
        known.used.store(now.as_second(), Ordering::Relaxed);
        Some(known.identity.clone())
    }

    /// The number of the token with this secret.
    #[must_use]
    pub fn token_of(&self, secret: &str) -> Option<i64> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&hash(secret)).map(|known| known.id)
    }

    /// Whose token has this number, as long as it lives.
    #[must_use]
    pub fn identity_of(&self, token: i64, now: Timestamp) -> Option<Identity> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.values().find(|known| known.id == token)?;
        known.used.store(now.as_second(), Ordering::Relaxed);
        Some(known.identity.clone())
    }

    /// Notes in the store which tokens were used since the last call. Called once a minute.
    ///
    /// # Errors
    /// Those of the store; the notes are lost then.
    pub async fn note_use(&self) -> store::Result<()> {
        let used: Vec<(i64, Timestamp)> = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known
                .values()
                .filter_map(|known| {
                    let at = known.used.swap(0, Ordering::Relaxed);
                    let minute = Timestamp::from_second(at - at.rem_euclid(60)).ok()?;
                    (at != 0).then_some((known.id, minute))
                })
                .collect()
        };
        if used.is_empty() { Ok(()) } else { self.store.touch_tokens(used).await }
    }

    /// Reads all tokens again: others may have made and revoked some.
    ///
    /// # Errors
    /// Those of the store; what was known stays in force.
    pub async fn refresh(&self) -> store::Result<()> {
        let _turn = self.turn.lock().await;
        self.reload().await
    }

    /// Makes a token. Not to be cancelled: see [`crate::app::uncancelled`]. `None` when a live token has that name.
    ///
    /// # Errors
    /// [`AuthError`]; no token was made then.
    pub async fn create(
        &self,
        name: &str,
        role: Role,
        actor: &str,
        now: Timestamp,
    ) -> Result<Option<(Token, Secret)>, AuthError> {
        let secret = Secret::draw()?;
        let token = self.store_secret(&secret, name, role, actor, now).await?;
        Ok(token.map(|token| (token, secret)))
    }

    async fn store_secret(
        &self,
        secret: &Secret,
        name: &str,
        role: Role,
        actor: &str,
        now: Timestamp,
    ) -> Result<Option<Token>, AuthError> {
        let new = NewToken { name: name.to_owned(), role, hash: hash(secret.expose()) };
        let audit = NewAudit {
            actor: actor.to_owned(),
            action: "token.create",
            subject: name.to_owned(),
            detail: format!("role {}", role.as_str()),
        };
        let _turn = self.turn.lock().await;
        let token = self.store.create_token(new, audit, now).await?;
        if token.is_some() {
            self.reload().await?;
        }
        Ok(token)
    }

    /// Revokes a token: it is refused from the moment this returns. Not to be cancelled: see
    /// [`crate::app::uncancelled`]. `false` when there is
    /// none of that name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn revoke(&self, name: &str, actor: &str, now: Timestamp) -> store::Result<bool> {
        let audit = NewAudit {
            actor: actor.to_owned(),
            action: "token.revoke",
            subject: name.to_owned(),
            detail: String::new(),
        };
        let _turn = self.turn.lock().await;
        let revoked = self.store.revoke_token(name, audit, now).await?;
        if revoked {
            // Not by reading the store again: that could fail and leave it valid.
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, known| known.identity.name != name);
        }
        Ok(revoked)
    }

    /// Makes sure that the data directory holds a valid admin token and a valid proxy token.
    /// A file whose token is live is kept. Returns the files that were written.
    ///
    /// A missing file gets a new token beside the old one, which stays valid: a proxy may
    /// use it. So deleting `admin.token` and restarting is the way back in for whoever
    /// lost it.
    ///
    /// `proxy_file` is where the proxies' token is instead. A token that stands there and is
    /// not known is taken: in a mesh the operator draws it, and hands it to both sides.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn ensure_files(
        &self,
        directory: &Path,
        proxy_file: Option<&Path>,
        now: Timestamp,
    ) -> Result<Vec<PathBuf>, AuthError> {
        let mut written = Vec::new();
        let proxy = proxy_file.map_or_else(|| directory.join(PROXY_FILE), Path::to_owned);
        for (path, role, chosen) in [
            (directory.join(ADMIN_FILE), Role::Admin, false),
            (proxy, Role::Proxy, proxy_file.is_some()),
        ] {
            let failed = |error| AuthError::File { path: path.clone(), error };
            let present = match std::fs::read_to_string(&path) {
                Ok(text) if self.holds(text.trim(), role) => continue,
                Ok(text) => Some(text),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) if error.kind() == ErrorKind::InvalidData => Some(String::new()),
                Err(error) => return Err(failed(error)),
            };
            if let Some(text) = present.filter(|_| chosen) {
                let secret = Secret::read(text.trim())
                    .ok_or_else(|| AuthError::NotAToken { path: path.clone() })?;
                self.store_unique(&secret, role, now).await?;
                continue;
            }
            let secret = Secret::draw()?;
            self.store_unique(&secret, role, now).await?;
            write_private(&path, secret.expose()).map_err(failed)?;
            written.push(path);
        }
        Ok(written)
    }

    fn holds(&self, secret: &str, role: Role) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&hash(secret)).is_some_and(|known| known.identity.role == role)
    }

    async fn store_unique(
        &self,
        secret: &Secret,
        role: Role,
        now: Timestamp,
    ) -> Result<(), AuthError> {
        let mut name = role.as_str().to_owned();
        for next in 2.. {
            if self.store_secret(secret, &name, role, "serve", now).await?.is_some() {
                return Ok(());
            }
            // Another control plane that was given the same token may have been first.
            self.refresh().await?;
            if self.holds(secret.expose(), role) {
                return Ok(());
            }
            name = format!("{}-{next}", role.as_str());
        }
        Err(StoreError::Internal("no free name for a token".to_owned()).into())
    }

    async fn reload(&self) -> store::Result<()> {
        let tokens = self.store.tokens().await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let used =
            |hash: &Hash| known.get(hash).map_or(0, |known| known.used.load(Ordering::Relaxed));
        let fresh = tokens
            .into_iter()
            .map(|(token, hash)| {
                let identity = Identity { name: token.name, role: token.role };
                let used = AtomicI64::new(used(&hash));
                (hash, Arc::new(Known { id: token.id, identity, hash, used }))
            })
            .collect();
        *known = fresh;
        Ok(())
    }
}

fn hash(secret: &str) -> Hash {
    Sha256::digest(secret.as_bytes()).into()
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = path.with_extension("token.new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}
