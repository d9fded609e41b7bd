//! Where the service is and what opens its door: URL, data directory, token.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::error::{CliError, Result};

/// The service's default address.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8088";
/// Name of the data directory.
pub const DATA_DIR: &str = ".ipwarden";
/// The admin's token in the data directory.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";
/// The proxies' token in the data directory.
pub const PROXY_TOKEN_FILE: &str = "proxy.token";
/// Largest token file read, in bytes.
const MAX_TOKEN_BYTES: u64 = 4 * 1024;

/// Where the service is and how to be let in.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Where the service listens
    #[arg(
        long, global = true, env = "IPWARDEN_URL", default_value = DEFAULT_URL,
        hide_env_values = true, value_name = "URL", help_heading = "Global options"
    )]
    pub url: String,

    /// File with the token [default: IPWARDEN_TOKEN, then admin.token in the data directory]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub token_file: Option<PathBuf>,

    /// Data directory of the service [default: .ipwarden here or in a directory above]
    #[arg(
        long,
        global = true,
        env = "IPWARDEN_DATA_DIR",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub data_dir: Option<PathBuf>,

    // Only the environment variable is documented: an argument is visible to every user of
    // the machine.
    /// The token itself
    #[arg(long, global = true, env = "IPWARDEN_TOKEN", hide = true, hide_env_values = true)]
    pub token: Option<String>,
}

/// A token, or where one was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A token and where it comes from, in words.
    Token {
        /// The secret.
        secret: String,
        /// Where it was found.
        from: String,
    },
    /// None; the places that were looked at, in words.
    Nothing {
        /// In the order of looking.
        looked: Vec<String>,
    },
}

impl Place {
    /// Finds the token: `--token-file`, `IPWARDEN_TOKEN`, `admin.token` in the data
    /// directory.
    ///
    /// # Errors
    /// [`CliError::File`] when the file named by `--token-file` can't be read,
    /// [`CliError::Usage`] when what was found can't be a token.
    pub fn token(&self, here: &Path) -> Result<Found> {
        if let Some(path) = &self.token_file {
            let name = path.display().to_string();
            let secret =
                read_token(path).map_err(|source| CliError::File { path: name.clone(), source })?;
            return checked(secret, name);
        }
        if let Some(token) = self.token.as_deref().map(str::trim).filter(|token| !token.is_empty())
        {
            return checked(token.to_owned(), "IPWARDEN_TOKEN".to_owned());
        }
        let mut looked = vec!["--token-file".to_owned(), "IPWARDEN_TOKEN".to_owned()];
        let dir = match self.data_dir(here) {
            Some(dir) => dir,
            None => {
                looked.push(format!(
                    "{DATA_DIR}/{ADMIN_TOKEN_FILE} in {} and every directory above",
                    here.display()
                ));
                return Ok(Found::Nothing { looked });
            }
        };
        let path = dir.join(ADMIN_TOKEN_FILE);
        match read_token(&path) {
            Ok(secret) => checked(secret, path.display().to_string()),
            Err(error) => {
                looked.push(format!("{} ({error})", path.display()));
                Ok(Found::Nothing { looked })
            }
        }
    }

    /// The data directory: the one named, or the nearest `.ipwarden` from `here` upward.
    #[must_use]
    pub fn data_dir(&self, here: &Path) -> Option<PathBuf> {
        match &self.data_dir {
            Some(dir) => Some(here.join(dir)),
            None => here.ancestors().map(|above| above.join(DATA_DIR)).find(|dir| dir.is_dir()),
        }
    }
}

fn read_token(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_TOKEN_BYTES).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn checked(secret: String, from: String) -> Result<Found> {
    if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CliError::Usage(format!(
            "{from} holds no token: expected one line such as ipw_0123abcd…, as `ipwarden token create` prints it"
        )));
    }
    Ok(Found::Token { secret, from })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { url: DEFAULT_URL.to_owned(), token_file: None, data_dir: None, token: None }
    }

    #[test]
    fn a_token_is_looked_for_from_the_working_directory_upward() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::create_dir(root.path().join(DATA_DIR)).unwrap();
        let file = root.path().join(DATA_DIR).join(ADMIN_TOKEN_FILE);
        std::fs::write(&file, "ipw_secret\n").unwrap();
        assert_eq!(
            place().token(&deep).unwrap(),
            Found::Token { secret: "ipw_secret".to_owned(), from: file.display().to_string() }
        );
    }

    #[test]
    fn what_is_named_wins_over_what_is_found() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("token");
        std::fs::write(&file, "ipw_file").unwrap();
        let mut named = Place { token: Some("ipw_env".to_owned()), ..place() };
        let secret = |place: &Place| match place.token(root.path()).unwrap() {
            Found::Token { secret, .. } => secret,
            Found::Nothing { looked } => panic!("{looked:?}"),
        };
        assert_eq!(secret(&named), "ipw_env");
        named.token_file = Some(file);
        assert_eq!(secret(&named), "ipw_file");
    }

    #[test]
    fn without_a_token_the_places_looked_at_are_named() {
        let root = tempfile::tempdir().unwrap();
        let named = Place { data_dir: Some("data".into()), ..place() };
        let Found::Nothing { looked } = named.token(root.path()).unwrap() else { panic!() };
        assert_eq!(looked.len(), 3);
        assert!(looked[2].starts_with(&root.path().join("data/admin.token").display().to_string()));
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("token");
        std::fs::write(&file, "two words").unwrap();
        let named = Place { token_file: Some(file.clone()), ..place() };
        assert_eq!(
            named.token(root.path()).unwrap_err().to_string(),
            format!(
                "{} holds no token: expected one line such as ipw_0123abcd…, as `ipwarden token create` prints it",
                file.display()
            )
        );
    }
}
