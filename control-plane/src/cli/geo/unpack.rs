//! The databases out of a file that was brought: an MMDB file, one in gzip, or an archive
//! (`.tgz`, `.tar.gz`, `.tar`) with some in it.
//!
//! What comes from elsewhere is bounded in number and size, and of an archive's names only
//! the last part is used, with harmless characters: nothing is ever written outside the
//! directory given.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::geo::database::MAX_FILE_BYTES;

/// Most entries of an archive that are looked at.
const MAX_ENTRIES: usize = 10_000;
/// Most databases in one archive.
const MAX_DATABASES: usize = 16;
/// Most bytes of an archive after decompression.
const MAX_TOTAL_BYTES: u64 = 4 * MAX_FILE_BYTES;
/// Where a tar file says that it is one.
const TAR_MAGIC: std::ops::Range<usize> = 257..262;
/// Length of a tar file's header.
const TAR_HEADER: usize = 512;

/// Why nothing came out.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    /// Reading or writing failed, or the compression is damaged.
    #[error("can't be unpacked: {0}")]
    Io(#[from] io::Error),
    /// No database in it.
    #[error(
        "holds no MMDB file: expected one, or a .gz, .tgz, .tar.gz or .tar with files named *.mmdb"
    )]
    Nothing,
    /// Too much.
    #[error(
        "is too large: at most {MAX_DATABASES} databases of {MAX_FILE_BYTES} bytes each are taken"
    )]
    TooLarge,
}

/// Unpacks the databases of `packed` into `directory`. `name` is how the file is called
/// where it comes from.
pub(super) fn unpack(
    packed: &Path,
    name: &str,
    directory: &Path,
) -> Result<Vec<PathBuf>, UnpackError> {
    let mut first = Vec::new();
    File::open(packed)?.take(2).read_to_end(&mut first)?;
    let file = io::BufReader::with_capacity(256 * 1024, File::open(packed)?);
    if first == [0x1f, 0x8b] {
        let name = name.strip_suffix(".gz").unwrap_or(name);
        contents(MultiGzDecoder::new(file), name, directory)
    } else {
        contents(file, name, directory)
    }
}

fn contents(
    mut input: impl Read,
    name: &str,
    directory: &Path,
) -> Result<Vec<PathBuf>, UnpackError> {
    let mut head = Vec::with_capacity(TAR_HEADER);
    input.by_ref().take(TAR_HEADER as u64).read_to_end(&mut head)?;
    let is_tar = head.get(TAR_MAGIC) == Some(b"ustar");
    let input = io::Cursor::new(head).chain(input);
    if is_tar {
        return archive(input, directory);
    }
    let path = directory.join(tame(name));
    copy(input, &path)?;
    Ok(vec![path])
}

fn archive(input: impl Read, directory: &Path) -> Result<Vec<PathBuf>, UnpackError> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut archive = tar::Archive::new(input.take(MAX_TOTAL_BYTES));
    for entry in archive.entries()?.take(MAX_ENTRIES) {
        let entry = entry?;
        let path = entry.path()?;
        let is_database = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("mmdb"));
        let name = path.file_name().and_then(|name| name.to_str()).map(tame);
        let (true, true, Some(name)) = (entry.header().entry_type().is_file(), is_database, name)
        else {
            continue;
        };
        let path = directory.join(name);
        if found.len() == MAX_DATABASES {
            return Err(UnpackError::TooLarge);
        }
        copy(entry, &path)?;
        if !found.contains(&path) {
            found.push(path);
        }
    }
    if found.is_empty() { Err(UnpackError::Nothing) } else { Ok(without_halves(found)) }
}

fn copy(input: impl Read, path: &Path) -> Result<(), UnpackError> {
    let mut file = File::create(path)?;
    let copied = io::copy(&mut input.take(MAX_FILE_BYTES + 1), &mut file)?;
    if copied > MAX_FILE_BYTES {
        return Err(UnpackError::TooLarge);
    }
    Ok(file.sync_all()?)
}

/// Leaves out `x-ipv4.mmdb` and `x-ipv6.mmdb` where `x.mmdb` holds both.
fn without_halves(found: Vec<PathBuf>) -> Vec<PathBuf> {
    let whole_of = |path: &PathBuf| {
        let stem = path.file_stem()?.to_str()?;
        let whole = stem.strip_suffix("-ipv4").or_else(|| stem.strip_suffix("-ipv6"))?;
        Some(path.with_file_name(format!("{whole}.mmdb")))
    };
    let is_half = |path: &PathBuf| whole_of(path).is_some_and(|whole| found.contains(&whole));
    found.iter().filter(|path| !is_half(path)).cloned().collect()
}

/// A name for a file of ours out of a name of somebody else's.
fn tame(name: &str) -> String {
    let stem = name.rsplit('/').next().unwrap_or_default();
    let stem = stem.strip_suffix(".mmdb").unwrap_or(stem);
    let tame: String = stem
        .chars()
        .take(100)
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect();
    let tame = tame.trim_start_matches('.');
    format!("{}.mmdb", if tame.is_empty() { "database" } else { tame })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // The safe setter refuses the names that an attacker would use.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(name: &str, content: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let directory = tempfile::tempdir().unwrap();
        let packed = directory.path().join("packed");
        std::fs::write(&packed, content).unwrap();
        let out = directory.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let found = unpack(&packed, name, &out).map_err(|error| error.to_string())?;
        assert!(found.iter().all(|path| path.parent() == Some(&out)), "{found:?}");
        let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(found.iter().map(|path| (named(path), std::fs::read(path).unwrap())).collect())
    }

    #[test]
    fn every_packing_gives_the_databases() {
        let one = Ok(vec![("city.mmdb".to_owned(), b"data".to_vec())]);
        assert_eq!(unpacked("city.mmdb", b"data"), one);
        assert_eq!(unpacked("city.mmdb.gz", &gzip(b"data")), one);
        let packed = tar(&[("package/README.md", b"text"), ("package/city.mmdb", b"data")]);
        assert_eq!(unpacked("x.tar", &packed), one);
        assert_eq!(unpacked("x.tgz", &gzip(&packed)), one);
    }

    #[test]
    fn a_database_of_both_families_makes_its_halves_needless() {
        let packed = tar(&[
            ("a/country-ipv4.mmdb", b"4"),
            ("a/country-ipv6.mmdb", b"6"),
            ("a/country.mmdb", b"46"),
            ("a/city-ipv4.mmdb", b"4"),
        ]);
        let names: Vec<String> =
            unpacked("x", &packed).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["country.mmdb", "city-ipv4.mmdb"]);
    }

    #[test]
    fn names_never_lead_elsewhere() {
        let packed = tar(&[
            ("../../etc/evil.mmdb", b"1"),
            ("/abs/.hidden.mmdb", b"2"),
            ("a/sp ace\u{1b}[m.MMDB", b"3"),
        ]);
        let names: Vec<String> =
            unpacked("x", &packed).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["evil.mmdb", "hidden.mmdb", "sp_ace__m.MMDB.mmdb"]);
        assert_eq!(tame("../..%2f?.mmdb"), "_2f_.mmdb");
        assert_eq!(tame(".."), "database.mmdb");
    }

    #[test]
    fn what_holds_nothing_or_is_damaged_is_said_so() {
        let packed = tar(&[("package/README.md", b"text")]);
        assert_eq!(
            unpacked("x.tgz", &gzip(&packed)).unwrap_err(),
            "holds no MMDB file: expected one, or a .gz, .tgz, .tar.gz or .tar with files named *.mmdb"
        );
        let mut cut = gzip(&tar(&[("a.mmdb", &[7; 100_000])]));
        cut.truncate(cut.len() / 2);
        assert!(unpacked("x.tgz", &cut).unwrap_err().starts_with("can't be unpacked: "));
    }
}
