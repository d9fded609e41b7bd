//! The data directory on this machine: who else can read it.

use std::path::Path;

use super::Check;
use crate::cli::place::{ADMIN_TOKEN_FILE, PROXY_TOKEN_FILE};

const NAME: &str = "data_dir";

/// Judges the data directory. `local` says whether the service runs on this machine.
pub(super) fn data_dir(dir: &Path, local: bool) -> Check {
    let shown = dir.display();
    match std::fs::metadata(dir) {
        Ok(about) if about.is_dir() => permissions(dir, &about),
        Ok(_) => {
            Check::fail(NAME, format!("{shown} is no directory"), "name another with --data-dir")
        }
        Err(_) if !local => Check::skip(NAME, format!("{shown} is on the service's machine")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Check::warn(
            NAME,
            format!("{shown} does not exist"),
            "the first `ipwarden serve` makes it; or name the right one with --data-dir or IPWARDEN_DATA_DIR",
        ),
        Err(error) => Check::warn(
            NAME,
            format!("{shown} can't be looked at: {error}"),
            "run the doctor as the user that the service runs as",
        ),
    }
}

#[cfg(unix)]
fn permissions(dir: &Path, about: &std::fs::Metadata) -> Check {
    use std::os::unix::fs::PermissionsExt as _;
    /// Everybody but the owner.
    const OTHERS: u32 = 0o077;
    for name in [ADMIN_TOKEN_FILE, PROXY_TOKEN_FILE] {
        let path = dir.join(name);
        if let Ok(file) = std::fs::metadata(&path)
            && file.permissions().mode() & OTHERS != 0
        {
            return Check::fail(
                NAME,
                format!(
                    "{} can be read by others (mode {:03o})",
                    path.display(),
                    file.permissions().mode() & 0o777
                ),
                format!(
                    "chmod 600 {}, then replace the token: `ipwarden token create` and `ipwarden token revoke`",
                    path.display()
                ),
            );
        }
    }
    let mode = about.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Check::warn(
            NAME,
            format!(
                "{} is open to others (mode {mode:03o}): records hold addresses of people",
                dir.display()
            ),
            format!("chmod 700 {}", dir.display()),
        );
    }
    Check::ok(NAME, format!("{} is readable by its owner only", dir.display()))
}

#[cfg(not(unix))]
fn permissions(dir: &Path, _: &std::fs::Metadata) -> Check {
    Check::skip(NAME, format!("{}: permissions can't be judged on this system", dir.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Outcome;
    use super::*;

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_can_read_is_found() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(".ipwarden");
        assert_eq!(data_dir(&dir, true).status, Outcome::Warn);
        assert_eq!(data_dir(&dir, false).status, Outcome::Skip);
        std::fs::create_dir(&dir).unwrap();
        set(&dir, 0o700);
        let token = dir.join(ADMIN_TOKEN_FILE);
        std::fs::write(&token, "ipw_x").unwrap();
        set(&token, 0o600);
        assert_eq!(data_dir(&dir, true).status, Outcome::Ok);
        set(&dir, 0o755);
        let open = data_dir(&dir, true);
        assert_eq!(open.status, Outcome::Warn);
        assert_eq!(open.mend.unwrap(), format!("chmod 700 {}", dir.display()));
        set(&token, 0o640);
        let open = data_dir(&dir, true);
        assert_eq!(open.status, Outcome::Fail);
        assert_eq!(open.detail, format!("{} can be read by others (mode 640)", token.display()));
    }
}
