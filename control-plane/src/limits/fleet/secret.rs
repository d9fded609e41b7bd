//! The key of the hash by which proxies name the fleet's buckets: a file of 32 hexadecimal
//! digits, drawn at the first start. Control planes that share their buckets must share it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ipwarden::limits::fleet::{SECRET_BYTES, Secret};

use crate::auth::write_private;
use crate::hex::hex;

/// Its name in the data directory.
pub const FILE: &str = "fleet.key";

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read or written.
    #[error("the key of fleet limits {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It holds something else.
    #[error(
        "the key of fleet limits {path} is none: expected 32 hexadecimal digits, as `openssl rand -hex 16` makes them"
    )]
    NotAKey {
        /// Which.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("no random bytes for the key of fleet limits: {0}")]
    Random(getrandom::Error),
}

/// Reads the secret; draws one and writes it where there is no file.
///
/// # Errors
/// [`SecretError`].
pub fn open(path: &Path) -> Result<Secret, SecretError> {
    let failed = |error| SecretError::File { path: path.to_owned(), error };
    match std::fs::read_to_string(path) {
        Ok(text) => read(text.trim()).ok_or_else(|| SecretError::NotAKey { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut secret = [0; SECRET_BYTES];
            getrandom::fill(&mut secret).map_err(SecretError::Random)?;
            write_private(path, &hex(&secret)).map_err(failed)?;
            Ok(secret)
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(SecretError::NotAKey { path: path.to_owned() })
        }
        Err(error) => Err(failed(error)),
    }
}

fn read(text: &str) -> Option<Secret> {
    let is_hex = text.len() == 2 * SECRET_BYTES && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_drawn_once_and_for_nobody_else_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let drawn = open(&path).unwrap();
        assert_eq!(open(&path).unwrap(), drawn);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = open(&directory.path().join("other")).unwrap();
        assert_ne!(drawn, other);
        std::fs::write(&path, "000102030405060708090A0b0c0d0e0f\n").unwrap();
        assert_eq!(open(&path).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for text in [&b"secret"[..], b"", b"+00102030405060708090a0b0c0d0e0f", b"\xff"] {
            std::fs::write(&path, text).unwrap();
            let error = open(&path).unwrap_err().to_string();
            let expected = format!(
                "the key of fleet limits {} is none: expected 32 hexadecimal digits, as `openssl rand -hex 16` makes them",
                path.display()
            );
            assert_eq!(error, expected);
        }
    }
}
