use super::*;
use proptest::prelude::*;

fn environment() -> Environment {
    Environment::default().with("HOME", "/nonexistent").with("USER", "somebody")
}

fn parse(text: &str) -> ConnInfo {
    ConnInfo::parse_in(text, &environment()).unwrap()
}

fn error(text: &str) -> String {
    ConnInfo::parse_in(text, &environment()).unwrap_err().to_string()
}

fn password(info: &ConnInfo) -> &str {
    info.password.as_ref().unwrap().expose()
}

#[test]
fn pairs_with_quotes_and_escapes() {
    let info = parse(r"host=pg port=5433 user=u password='a \'b\\c' dbname=x\ y");
    assert_eq!(info.describe(), "host=pg port=5433 user=u dbname=x y");
    assert_eq!(password(&info), r"a 'b\c");
}

#[test]
fn secrets_are_not_shown() {
    let info = parse("host=pg user=u password=topsecret");
    let shown = format!("{info} {info:?} {:?}", info.password);
    assert!(!shown.contains("topsecret"), "{shown}");
    assert!(!error("host=pg password='topsecret").contains("topsecret"));
    assert!(!error("password topsecret").contains("topsecret"));
}

#[test]
fn uris() {
    let info =
        parse("postgresql://u:p%40ss@h1:1,[::1]:2,%2Fsocket:3/db?connect_timeout=1&ssl=true");
    assert_eq!(info.describe(), "host=h1,::1,/socket port=1,2,3 user=u dbname=db");
    assert_eq!(info.hosts[2].address, Address::Unix("/socket".into()));
    assert_eq!(password(&info), "p@ss");
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(2)));
    assert_eq!(info.ssl_mode, SslMode::Require);
    assert_eq!(
        parse("postgres:///db?host=/tmp&user=u").describe(),
        "host=/tmp port=5432 user=u dbname=db"
    );
    for bad in ["postgresql://%zz/", "postgresql://[::1/", "postgresql://h?x", "postgres://h/%00"] {
        error(bad);
    }
}

#[test]
fn several_hosts() {
    let info = parse("host=a,b,c port=1,,3 user=u");
    assert_eq!(info.hosts.iter().map(|host| host.port).collect::<Vec<_>>(), [1, 5432, 3]);
    let info = parse("host=a,b port=7 hostaddr=127.0.0.1, user=u");
    assert_eq!(info.hosts[1].port, 7);
    assert!(
        matches!(&info.hosts[0].address, Address::Tcp { name, address: Some(_) } if name == "a")
    );
    assert!(error("host=a,b port=1,2,3").contains("3 ports"));
    assert!(error("host=a,b hostaddr=127.0.0.1").contains("2 host names"));
    assert_eq!(parse("user=u").hosts.len(), 2);
}

#[test]
fn values_are_checked_and_unknown_words_named() {
    // Quotes are escaped, never doubled.
    error("user='o'''");
    assert!(error("hots=a").contains("\"hots\""));
    assert!(error("host=a sslcrl=x").contains("sslcrl"));
    for bad in [
        "port=0",
        "port=x",
        "sslmode=maybe",
        "target_session_attrs=best",
        "connect_timeout=soon",
        "channel_binding=1",
        "hostaddr=name",
        "sslrootcert=system sslmode=require",
        "sslnegotiation=direct",
        "load_balance_hosts=1",
        "host=@abstract",
    ] {
        error(bad);
    }
    let quiet = parse("host=a keepalives=1 keepalives_idle=10 replication=true client_encoding=x");
    assert_eq!(quiet.hosts.len(), 1);
    assert_eq!(parse("host=a sslrootcert=system").ssl_mode, SslMode::VerifyFull);
}

#[test]
fn variables_and_services_fill_the_gaps() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services");
    std::fs::write(
        &file,
        "# c\n[other]\nhost=no\n[main]\nhost=from-service\nport=6000\nuser=s\n[z]\nuser=no\n",
    )
    .unwrap();
    let environment = environment()
        .with("PGSERVICEFILE", file.to_str().unwrap())
        .with("PGPORT", "7000")
        .with("PGDATABASE", "from-env")
        .with("PGPASSWORD", "pw");
    let info = ConnInfo::parse_in("service=main user=me", &environment).unwrap();
    assert_eq!(info.describe(), "host=from-service port=6000 user=me dbname=from-env");
    assert_eq!(password(&info), "pw");
    let missing = ConnInfo::parse_in("service=none", &environment).unwrap_err();
    assert!(missing.to_string().contains("\"none\""), "{missing}");
    let named = ConnInfo::parse_in(
        &format!("service=other servicefile={}", file.display()),
        &Environment::default(),
    );
    assert_eq!(named.unwrap().hosts[0].to_string(), "host=no port=5432");
}

#[test]
fn password_files() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pgpass");
    std::fs::write(&file, "pg:5432:replication:u:secret\n").unwrap();
    let info = parse(&format!("host=pg user=u passfile={}", file.display()));
    let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o600);
    let found = info.password_for(&info.hosts[0], "replication").unwrap();
    assert_eq!(found.expose(), "secret");
    assert!(info.password_for(&info.hosts[0], "db").is_none());
    mode(0o640);
    assert!(info.password_for(&info.hosts[0], "replication").is_none());
}

proptest! {
    #[test]
    fn any_text_is_survived(text in ".*", uri in "postgresql://[a-z:@/?%\\[\\],=&0-9]*") {
        let _ = ConnInfo::parse_in(&text, &environment());
        let _ = ConnInfo::parse_in(&uri, &environment());
    }
}
