//! `ipwarden import django` on a database as Django's migrations make it.

use std::path::Path;

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::bench::Bench;

/// What `manage.py migrate` leaves in SQLite for an app with these three models: the tables
/// with their indexes, beside some of Django's own.
const MIGRATED: &str = r#"
CREATE TABLE "django_migrations" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "app" varchar(255) NOT NULL, "name" varchar(255) NOT NULL, "applied" datetime NOT NULL);
CREATE TABLE "auth_user" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "username" varchar(150) NOT NULL UNIQUE);
CREATE TABLE "ip_tracking_requestlog" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "ip_address" char(39) NOT NULL, "timestamp" datetime NOT NULL, "path" varchar(255) NOT NULL, "country" varchar(100) NULL, "city" varchar(100) NULL);
CREATE TABLE "ip_tracking_blockedip" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "ip_address" char(39) NOT NULL UNIQUE);
CREATE TABLE "ip_tracking_suspiciousip" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "ip_address" char(39) NOT NULL, "reason" varchar(255) NOT NULL);
CREATE INDEX "ip_tracking_requestlog_ip_address_6f1c" ON "ip_tracking_requestlog" ("ip_address");
"#;

fn ago(minutes: i64) -> Timestamp {
    Timestamp::now() - minutes.minutes()
}

/// As Django writes a time into SQLite: in UTC, without a zone.
fn django(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S.%6f").to_string()
}

fn log(database: &Connection, ip: &str, when: &str, path: &str, country: &str) {
    database
        .execute(
            "INSERT INTO ip_tracking_requestlog (ip_address, timestamp, path, country, city) \
             VALUES (?1, ?2, ?3, nullif(?4, ''), 'Paris')",
            params![ip, when, path, country],
        )
        .unwrap();
}

/// 12 000 requests, three of them odd, one without a known country, five expired; four blocked
/// addresses, one of them none; five suspicious rows of three addresses.
fn database(path: &Path) -> Connection {
    let database = Connection::open(path).unwrap();
    database.execute_batch(MIGRATED).unwrap();
    database.execute_batch("BEGIN").unwrap();
    for n in 0..11_991 {
        let ip = format!("198.51.100.{}", n % 200);
        log(&database, &ip, &django(ago(n % 600)), &format!("/page/{n}"), "France");
    }
    log(&database, "203.0.113.7", &django(ago(9)), "/admin?next=%2F", "United Kingdom");
    log(&database, "2001:db8::1", &django(ago(8)), "/", "Narnia");
    log(&database, "not an address", &django(ago(7)), "/", "");
    log(&database, "203.0.113.8", "yesterday", "/", "");
    log(&database, "203.0.113.8", "2999-01-01 00:00:00", "/", "");
    for n in 0..4 {
        log(&database, "203.0.113.9", &django(ago(60 * 24 * 400 + n)), "/old", "");
    }
    for ip in ["203.0.113.20", "203.0.113.21", "2001:db8::20", "300.1.1.1"] {
        let sql = "INSERT INTO ip_tracking_blockedip (ip_address) VALUES (?1)";
        database.execute(sql, [ip]).unwrap();
    }
    for (ip, reason) in [
        ("203.0.113.30", "More than 100 requests in an hour"),
        ("203.0.113.30", "Accessed /admin"),
        ("203.0.113.30", "Accessed /admin"),
        ("203.0.113.31", "Accessed /login"),
        ("2001:db8::31", ""),
    ] {
        let sql = "INSERT INTO ip_tracking_suspiciousip (ip_address, reason) VALUES (?1, ?2)";
        database.execute(sql, [ip, reason]).unwrap();
    }
    database.execute_batch("COMMIT").unwrap();
    database
}

fn counts(of: &Value) -> [u64; 5] {
    ["rows", "added", "known", "expired", "odd"].map(|name| of[name].as_u64().unwrap())
}

fn stored(bench: &Bench) -> u64 {
    bench.json(&["proxies"])["proxies"]
        .as_array()
        .unwrap()
        .iter()
        .find(|proxy| proxy["name"] == "import:ip_tracking")
        .map_or(0, |proxy| proxy["requests_stored"].as_u64().unwrap())
}

#[test]
fn a_django_database_is_imported_once_and_counts_agree() {
    let bench = Bench::start();
    let source = database(&bench.dir.path().join("db.sqlite3"));
    let dry = bench.json(&["import", "django", "db.sqlite3", "--dry-run"]);
    assert_eq!(counts(&dry["requests"]), [12_000, 11_993, 0, 4, 3]);
    assert_eq!((stored(&bench), &bench.json(&["suspects"])["total"]), (0, &json!(0)));

    let done = bench.json(&["import", "django", "db.sqlite3"]);
    assert_eq!((&done["name"], &done["dry_run"]), (&json!("ip_tracking"), &json!(false)));
    assert_eq!(counts(&done["requests"]), [12_000, 11_993, 0, 4, 3]);
    assert_eq!(counts(&done["blocked"]), [4, 3, 0, 0, 1]);
    assert_eq!(counts(&done["suspects"]), [5, 3, 2, 0, 0]);
    assert_eq!(done["requests"], dry["requests"]);
    assert_eq!(done["odd_total"], 5);
    let odd: Vec<String> = done["odd"]
        .as_array()
        .unwrap()
        .iter()
        .map(|odd| {
            format!("{}: {}", odd["place"].as_str().unwrap(), odd["message"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        odd[..2],
        [
            "ip_tracking_requestlog row 11993: country 'Narnia' is not known: expected a code such as FR or an English name; stored without",
            "ip_tracking_requestlog row 11994: ip_address 'not an address' is no IP address: expected one such as 203.0.113.7",
        ]
    );
    assert_eq!(
        odd[4],
        "ip_tracking_blockedip row 4: ip_address '300.1.1.1' is no IP address: expected one such as 203.0.113.7"
    );

    // What is there now is what the tables say.
    assert_eq!(stored(&bench), 11_993);
    let of = |arguments: &[&str]| bench.json(arguments).as_array().unwrap().len();
    let in_source: i64 = source
        .query_row(
            "SELECT count(*) FROM ip_tracking_requestlog WHERE ip_address = '198.51.100.7'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(of(&["requests", "--ip", "198.51.100.7", "--limit", "1000"]) as i64, in_source);
    let found = bench.json(&["requests", "--ip", "203.0.113.7"]);
    assert_eq!(
        (&found[0]["path"], &found[0]["country"], &found[0]["city"], &found[0]["proxy"]),
        (&json!("/admin"), &json!("GB"), &json!("Paris"), &json!("import:ip_tracking"))
    );
    assert_eq!(found[0]["request_id"], "ip_tracking:11992");
    let time: Timestamp = found[0]["time"].as_str().unwrap().parse().unwrap();
    let written: String = source
        .query_row("SELECT timestamp FROM ip_tracking_requestlog WHERE id = 11992", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(django(time), written);
    let decisions = bench.json(&["decisions"]);
    assert_eq!(decisions["total"], 3);
    assert_eq!(decisions["decisions"][0]["reason"], "imported from ip_tracking_blockedip");
    assert_eq!(bench.json(&["check", "2001:db8::20"])["verdict"], "blocked");
    let suspects = bench.json(&["suspects"]);
    assert_eq!(suspects["total"], 3);
    let reasons: Vec<&str> = suspects["suspects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|suspect| suspect["reasons"][0]["detail"].as_str().unwrap())
        .collect();
    assert!(reasons.contains(&"ip_tracking: More than 100 requests in an hour; Accessed /admin"));
    assert!(reasons.contains(&"ip_tracking calls it suspicious"));

    // Once more: nothing. With more rows: those.
    let revision = bench.revision();
    let again = bench.json(&["import", "django", "db.sqlite3"]);
    assert_eq!(counts(&again["requests"]), [12_000, 0, 12_000, 0, 0]);
    assert_eq!(counts(&again["blocked"]), [4, 0, 3, 0, 1]);
    assert_eq!(counts(&again["suspects"]), [5, 0, 5, 0, 0]);
    assert_eq!((stored(&bench), bench.revision()), (11_993, revision));
    for n in 0..7 {
        log(&source, "203.0.113.40", &django(ago(1)), &format!("/new/{n}"), "");
    }
    let more = bench.run(&["import", "django", "db.sqlite3"]).expect(0).stdout;
    assert!(
        more.starts_with(
            "ip_tracking_requestlog: 12 007 rows: 7 requests stored, 12 000 there before.\n"
        ),
        "{more}"
    );
    assert_eq!(of(&["requests", "--ip", "203.0.113.40"]), 7);
    assert_eq!(stored(&bench), 12_000);
    // Seen = stored + skipped, as of any proxy.
    let proxies = bench.json(&["proxies"]);
    let proxy = &proxies["proxies"][0];
    assert_eq!((&proxy["requests_seen"], &proxy["requests_skipped"]), (&json!(12_007), &json!(7)));
}

#[test]
fn csv_files_of_the_tables_are_imported_with_their_own_zone() {
    let bench = Bench::start();
    let time = ago(90).to_zoned(TimeZone::get("Europe/Paris").unwrap());
    let local = time.strftime("%Y-%m-%d %H:%M:%S");
    let zoned = time.strftime("%Y-%m-%d %H:%M:%S%:z");
    let requests = bench.file(
        "shop_requestlog.csv",
        format!(
            "\u{feff}id,path,ip_address,timestamp,country,extra\n\
             3,\"/a,b\",203.0.113.7,{local},fr,x\n5,/b,203.0.113.7,{zoned},,y\n6,/c\n"
        ),
    );
    let blocked =
        bench.file("shop_blockedip.csv", "id,ip_address\n1,203.0.113.20\n2,203.0.113.20\n");
    let done = bench.json(&["import", "django", &requests, &blocked, "--zone", "Europe/Paris"]);
    assert_eq!(counts(&done["requests"]), [3, 2, 0, 0, 1]);
    assert_eq!(
        (&done["odd"][0]["place"], &done["odd"][0]["message"]),
        (
            &json!("shop_requestlog.csv line 4"),
            &json!("ip_address is empty: expected an IP address")
        )
    );
    assert_eq!(counts(&done["blocked"]), [2, 1, 1, 0, 0]);
    assert_eq!((&done["name"], &done["suspects"]), (&json!("shop"), &Value::Null));
    let found = bench.json(&["requests", "--ip", "203.0.113.7"]);
    assert_eq!(found[0]["time"], found[1]["time"], "one moment, written in two ways");
    assert_eq!((&found[1]["path"], &found[1]["country"]), (&json!("/a,b"), &json!("FR")));
    let again = bench.run(&["import", "django", &requests, "--zone", "Europe/Paris", "-o", "raw"]);
    assert_eq!(again.expect(0).stdout, "shop_requestlog\trequests\t3\t0\t3\t0\t0\n");
}

#[test]
fn what_can_not_be_imported_is_explained_and_nothing_is_stored() {
    let bench = Bench::start();
    let refused = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["import", "django"].iter().chain(arguments).copied().collect();
        bench.run(&arguments).expect(2).stderr
    };
    let other = bench.file("visits.csv", "id\n");
    assert_eq!(
        refused(&[&other]),
        "error: visits.csv is no SQLite database, and as a CSV file its name must end in one of …requestlog.csv, …blockedip.csv, …suspiciousip.csv\n"
    );
    let lacking = bench.file("requestlog.csv", "id,ip_address,when\n");
    assert_eq!(
        refused(&[&lacking]),
        "error: requestlog has no column timestamp, path; it has: id, ip_address, when\n"
    );
    let unsorted = bench.file(
        "a_requestlog.csv",
        "id,ip_address,timestamp,path\n2,203.0.113.7,2026-01-01,/\n1,203.0.113.7,2026-01-01,/\n",
    );
    assert_eq!(
        refused(&[&unsorted]),
        "error: a_requestlog.csv line 3: id 1 after 2: expected rows in the order of their ids; export them with ORDER BY id\n"
    );
    let database = Connection::open(bench.dir.path().join("db.sqlite3")).unwrap();
    database.execute_batch("CREATE TABLE visits (id integer)").unwrap();
    assert_eq!(
        refused(&["db.sqlite3"]),
        "error: db.sqlite3 has no table whose name ends in …requestlog, …blockedip, …suspiciousip; it has: visits\n"
    );
    let table = "(id integer, ip_address text, timestamp text, path text)";
    database
        .execute_batch(&format!(
            "CREATE TABLE a_requestlog {table}; CREATE TABLE b_requestlog {table}"
        ))
        .unwrap();
    assert_eq!(
        refused(&["db.sqlite3"]),
        "error: a_requestlog and b_requestlog both end in requestlog: name the app with --app, one import for each\n"
    );
    assert_eq!(
        refused(&["db.sqlite3", "--app", "c"]),
        "error: no table of the app 'c' was found, but of: a, b\n"
    );
    assert_eq!(refused(&["db.sqlite3", "--app", "a", "--zone", "Paris"]).lines().count(), 1);
    assert_eq!(
        refused(&["db.sqlite3", "--app", "a", "--name", "a b"]),
        "error: 'a b' can't name an import: expected 1 to 64 of letters, digits, '_', '-' and '.'; give one with --name\n"
    );
    assert_eq!(bench.json(&["proxies"])["proxies"], json!([]));
}

#[test]
fn another_database_under_the_same_name_is_noticed() {
    let bench = Bench::start();
    let many = format!("id,ip_address,timestamp,path\n9,203.0.113.7,{},/\n", ago(5));
    let few = format!("id,ip_address,timestamp,path\n4,203.0.113.7,{},/\n", ago(5));
    let first = bench.file("requestlog.csv", many);
    bench.run(&["import", "django", &first]).expect(0);
    let second = bench.file("requestlog.csv", few);
    assert_eq!(
        bench.run(&["import", "django", &second]).expect(2).stderr,
        "error: requests up to id 9 were imported under the name 'django', but requestlog ends with 4: is this another database? Then give it a name of its own with --name\n"
    );
    bench.run(&["import", "django", &second, "--name", "second"]).expect(0);
    assert_eq!(bench.json(&["requests", "--ip", "203.0.113.7"]).as_array().unwrap().len(), 2);
}
