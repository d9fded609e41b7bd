//! Where the state is: the URL of a PostgreSQL database, checked, and how it is connected to.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::store::StoreError;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What the server itself bounds: statements, waits for locks, transactions that do nothing.
const SERVER_TIMEOUTS: &str = "-c statement_timeout=30000 -c lock_timeout=10000 \
     -c idle_in_transaction_session_timeout=60000";

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    /// Not at all: for sockets and addresses of this machine.
    Disable,
    /// Encrypted; anybody may be at the other end.
    Require,
    /// Encrypted, and the server's certificate is for its name.
    VerifyFull,
}

/// A database.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    config: Config,
    tls: Tls,
    /// PEM with the authorities that are trusted instead of the system's.
    authorities: Option<PathBuf>,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

impl fmt::Display for Location {
    /// Hosts and database: never the password, never the user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        let ports = self.config.get_ports();
        for (n, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            match host {
                Host::Tcp(name) if name.contains(':') => write!(f, "{comma}[{name}]")?,
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(path) => write!(f, "{comma}{}", path.display())?,
            }
            if let Some(port) = ports.get(n).or(ports.first()).filter(|port| **port != 5432) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl Location {
    /// Reads a URL `postgres://user:password@host:port,host2/database?sslmode=verify-full`.
    ///
    /// # Errors
    /// What is wrong with it, in words that repeat neither password nor user.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        if !(base.starts_with("postgres://") || base.starts_with("postgresql://")) {
            return Err("it begins neither with postgres:// nor with postgresql://".to_owned());
        }
        let (mut tls, mut authorities, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => tls = Some(Self::tls(mode)?),
                Some(("sslrootcert", path)) => authorities = Some(PathBuf::from(path)),
                _ => rest.push(pair),
            }
        }
        let query = rest.join("&");
        let plain = if query.is_empty() { base.to_owned() } else { format!("{base}?{query}") };
        let mut config: Config = plain.parse().map_err(|error: tokio_postgres::Error| {
            std::error::Error::source(&error)
                .map_or_else(|| "it can't be read".to_owned(), ToString::to_string)
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("it names no host".to_owned());
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err("it names no database".to_owned());
        }
        let is_here = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost"
                    || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        };
        let all_here = config.get_hosts().iter().all(is_here) && config.get_hostaddrs().is_empty();
        let tls = tls.unwrap_or(if all_here { Tls::Disable } else { Tls::VerifyFull });
        if authorities.is_some() && tls != Tls::VerifyFull {
            return Err("sslrootcert without sslmode=verify-full checks nothing".to_owned());
        }
        config.ssl_mode(if tls == Tls::Disable { SslMode::Disable } else { SslMode::Require });
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("ipwarden");
        }
        // Of several servers the one that takes changes.
        if config.get_hosts().len() > 1
            && config.get_target_session_attrs() == TargetSessionAttrs::Any
        {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let options = match config.get_options() {
            // The operator's come last and win.
            Some(own) => format!("{SERVER_TIMEOUTS} {own}"),
            None => SERVER_TIMEOUTS.to_owned(),
        };
        config.options(options);
        // A server that vanished without a word is noticed within half a minute.
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(20));
        Ok(Self { config, tls, authorities })
    }

    fn tls(mode: &str) -> Result<Tls, String> {
        match mode {
            "disable" => Ok(Tls::Disable),
            "require" => Ok(Tls::Require),
            "verify-full" => Ok(Tls::VerifyFull),
            _ => Err("sslmode is none of disable, require, verify-full".to_owned()),
        }
    }

    /// The same with a password.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.config.password(password);
        self
    }

    /// What deserves a second look, in words.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        (self.tls == Tls::Require).then(|| {
            "sslmode=require encrypts what goes to PostgreSQL, but does not check who answers: use sslmode=verify-full"
                .to_owned()
        })
    }

    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    /// How connections are protected. Reads the files with authorities.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, StoreError> {
        let unusable = |what: String| StoreError::Unusable(format!("TLS to PostgreSQL: {what}"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?;
        let config = match self.tls {
            Tls::VerifyFull => builder.with_root_certificates(self.roots()?).with_no_client_auth(),
            Tls::Require | Tls::Disable => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
                .with_no_client_auth(),
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, StoreError> {
        let unusable = |what: String| StoreError::Unusable(format!("TLS to PostgreSQL: {what}"));
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(path) => {
                let read = CertificateDer::pem_file_iter(path)
                    .and_then(|all| all.collect::<Result<Vec<_>, _>>());
                let found = read.map_err(|error| {
                    unusable(format!("sslrootcert {}: {error}", path.display()))
                })?;
                if found.is_empty() {
                    let path = path.display();
                    return Err(unusable(format!("sslrootcert {path}: no certificate in it")));
                }
                for authority in found {
                    roots.add(authority).map_err(|error| {
                        unusable(format!("sslrootcert {}: {error}", path.display()))
                    })?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                let (added, _) = roots.add_parsable_certificates(found.certs);
                if added == 0 {
                    return Err(unusable(
                        "this system trusts no authority: install ca-certificates, or name a file with sslrootcert"
                            .to_owned(),
                    ));
                }
            }
        }
        Ok(roots)
    }
}

/// Takes any certificate: what sslmode=require means.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Location {
        Location::parse(url).unwrap()
    }

    #[test]
    fn what_is_shown_holds_neither_password_nor_user() {
        let location = of("postgres://warden:hunter2@db.example:6432/ipwarden?application_name=x");
        assert_eq!(location.to_string(), "postgres://db.example:6432/ipwarden");
        assert_eq!(format!("{location:?}"), "Location(postgres://db.example:6432/ipwarden)");
        let several = of("postgres://w@a,b/ipwarden");
        assert_eq!(several.to_string(), "postgres://a,b/ipwarden");
        assert_eq!(several.config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }

    #[test]
    fn who_answers_is_checked_unless_it_is_this_machine() {
        for (url, tls) in [
            ("postgres://w@db.example/i", Tls::VerifyFull),
            ("postgres://w@127.0.0.1/i", Tls::Disable),
            ("postgres://w@localhost/i", Tls::Disable),
            ("postgres://w@%2Frun%2Fpostgresql/i", Tls::Disable),
            ("postgres://w@localhost,db.example/i", Tls::VerifyFull),
            ("postgres://w@db.example/i?sslmode=require", Tls::Require),
            ("postgres://w@db.example/i?sslmode=disable", Tls::Disable),
        ] {
            assert_eq!(of(url).tls, tls, "{url}");
        }
        assert!(of("postgres://w@db.example/i?sslmode=require").warning().is_some());
        assert_eq!(of("postgres://w@db.example/i").warning(), None);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (url, why) in [
            ("mysql://w:hunter2@h/i", "it begins neither with postgres:// nor with postgresql://"),
            (
                "postgres://w:hunter2@h/i?sslmode=prefer",
                "sslmode is none of disable, require, verify-full",
            ),
            ("postgres://w:hunter2@h", "it names no database"),
            ("postgres:///i", "it names no host"),
            ("postgres://w:hunter2@h/i?colour=red", "unknown option `colour`"),
            (
                "postgres://w:hunter2@h/i?sslmode=require&sslrootcert=/ca.pem",
                "sslrootcert without sslmode=verify-full checks nothing",
            ),
        ] {
            assert_eq!(Location::parse(url).unwrap_err(), why, "{url}");
        }
    }
}
