//! Every way in: sockets, passwords, TLS, certificates, several hosts.

use std::net::TcpListener;

use barman::postgres::replication::ReplicationConnection;
use barman::postgres::sql::SqlConnection;
use barman::postgres::{ConnInfo, Error};

use super::{conninfo, environment, local};
use crate::support::account::write_file;
use crate::support::cluster::PASSWORD;
use crate::support::{Auth, Cluster, Postgres, Shutdown};

/// Opens both kinds of connections, and says whether each is encrypted.
async fn both(info: &ConnInfo) -> Result<(bool, bool), Error> {
    let mut replication = ReplicationConnection::connect(info).await?;
    let system = replication.identify_system().await?;
    let sql = SqlConnection::connect(info).await?;
    assert_eq!(sql.system_id().await?, system.system_id);
    let row = sql
        .client()
        .query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[])
        .await
        .unwrap();
    let encrypted = (replication.is_encrypted(), row.get(0));
    replication.close().await;
    Ok(encrypted)
}

fn tls_cluster(version: u32) -> Cluster {
    Cluster::builder(version)
        .auth(Auth::Scram)
        .tls("certified")
        .hba("hostssl all,replication certified 127.0.0.1/32 cert")
        .hba("host all,replication hashed 127.0.0.1/32 md5")
        .hba("host all,replication plain 127.0.0.1/32 password")
        .hba("hostnossl all,replication open 127.0.0.1/32 trust")
        .hba("hostssl all,replication open 127.0.0.1/32 reject")
        .start()
}

fn create_roles(cluster: &Cluster) {
    cluster.psql(
        "CREATE ROLE certified LOGIN REPLICATION; CREATE ROLE open LOGIN REPLICATION; \
         CREATE ROLE plain LOGIN REPLICATION PASSWORD 'pläin'; \
         SET password_encryption = md5; \
         CREATE ROLE hashed LOGIN REPLICATION PASSWORD 'md5 word'",
    );
}

#[tokio::test]
async fn passwords_sockets_and_tls_on_all_versions() {
    for version in Postgres::VERSIONS {
        let cluster = tls_cluster(version);
        create_roles(&cluster);
        let tcp = cluster.tcp_conninfo();
        let ca = cluster.tls().ca.display().to_string();
        let name = tcp.replace("host=127.0.0.1", "host=localhost hostaddr=127.0.0.1");
        for (text, encrypted) in [
            (cluster.conninfo(), false),
            (format!("{tcp} sslmode=disable"), false),
            (format!("{tcp} sslmode=allow"), false),
            (tcp.clone(), true),
            (format!("{tcp} sslmode=require channel_binding=require"), true),
            (format!("{tcp} sslmode=require channel_binding=disable"), true),
            (format!("{tcp} sslmode=verify-ca sslrootcert={ca}"), true),
            (format!("{tcp} sslmode=verify-full sslrootcert={ca}"), true),
            (
                format!(
                    "{name} sslmode=verify-full sslrootcert={ca} ssl_max_protocol_version=TLSv1.2"
                ),
                true,
            ),
            (cluster.tcp_conninfo_as("hashed", "md5 word"), true),
            (cluster.tcp_conninfo_as("plain", "pläin"), true),
            // Refused over TLS by pg_hba.conf, let in without.
            (cluster.tcp_conninfo_as("open", ""), false),
        ] {
            let found = both(&conninfo(&cluster, &text)).await;
            assert_eq!(found.unwrap(), (encrypted, encrypted), "{version}: {text}");
        }
        if version >= 17 {
            let direct = format!("{tcp} sslmode=require sslnegotiation=direct");
            assert_eq!(both(&conninfo(&cluster, &direct)).await.unwrap(), (true, true));
        }
    }
}

#[tokio::test]
async fn what_does_not_verify_is_refused() {
    let cluster = tls_cluster(17);
    create_roles(&cluster);
    let tcp = cluster.tcp_conninfo();
    let ca = cluster.tls().ca.display().to_string();
    let client = cluster.tls().client_certificate.display().to_string();
    let wrong = tcp.replace("host=127.0.0.1", "host=wrong.example hostaddr=127.0.0.1");

    for (text, wanted) in [
        (format!("{wrong} sslmode=verify-full sslrootcert={ca}"), "not valid for name"),
        (format!("{tcp} sslmode=verify-ca sslrootcert={client}"), "UnknownIssuer"),
        (format!("{tcp} sslmode=require sslrootcert={client}"), "UnknownIssuer"),
        (format!("{tcp} sslmode=verify-full"), "root.crt does not exist"),
        (format!("{tcp} sslmode=disable channel_binding=require"), "channel"),
        (
            format!("{} channel_binding=require", cluster.tcp_conninfo_as("hashed", "md5 word")),
            "channel",
        ),
        (cluster.tcp_conninfo_as("postgres", "wrong"), "28P01"),
        (cluster.tcp_conninfo().replace(&format!("password='{PASSWORD}'"), ""), "password"),
    ] {
        let info = conninfo(&cluster, &text);
        let replication = ReplicationConnection::connect(&info).await.unwrap_err();
        let sql = SqlConnection::connect(&info).await.err().unwrap();
        for error in [replication, sql] {
            let shown = error.to_string();
            assert!(shown.contains(wanted), "{text}: {shown}");
            assert!(error.hint().is_some(), "{shown}");
            assert!(!shown.contains(PASSWORD));
        }
    }
    // Only the name is wrong, and verify-ca does not look at it.
    let info = conninfo(&cluster, &format!("{wrong} sslmode=verify-ca sslrootcert={ca}"));
    assert_eq!(both(&info).await.unwrap(), (true, true));
}

#[tokio::test]
async fn client_certificates() {
    let cluster = tls_cluster(18);
    create_roles(&cluster);
    let tls = cluster.tls();
    let base = format!(
        "host=127.0.0.1 port={} user=certified dbname=postgres sslmode=verify-full sslrootcert={}",
        cluster.port(),
        tls.ca.display()
    );
    let with = format!(
        "{base} sslcert={} sslkey={}",
        tls.client_certificate.display(),
        tls.client_key.display()
    );
    assert_eq!(both(&conninfo(&cluster, &with)).await.unwrap(), (true, true));
    let error = both(&conninfo(&cluster, &base)).await.unwrap_err();
    assert!(error.server().is_some_and(|error| error.is_authentication()), "{error}");

    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&tls.client_key, PermissionsExt::from_mode(0o644)).unwrap();
    let error = both(&conninfo(&cluster, &with)).await.unwrap_err();
    assert!(error.to_string().contains("0600"), "{error}");
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_its_own_root() {
    let directory = crate::support::account::temp_dir();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let (file, key_file) = (directory.path().join("own.crt"), directory.path().join("own.key"));
    write_file(&file, &certificate.pem());
    write_file(&key_file, &key.serialize_pem());
    let cluster = Cluster::builder(17)
        .setting("ssl", "on")
        .setting("ssl_cert_file", file.to_str().unwrap())
        .setting("ssl_key_file", key_file.to_str().unwrap())
        .start();
    let base = cluster.tcp_conninfo();
    let named = base.replace("host=127.0.0.1", "host=localhost hostaddr=127.0.0.1");
    let root = format!("sslmode=verify-full sslrootcert={}", file.display());
    // It has a common name only, no alternative names.
    assert_eq!(both(&conninfo(&cluster, &format!("{named} {root}"))).await.unwrap(), (true, true));
    let error = both(&conninfo(&cluster, &format!("{base} {root}"))).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
}

#[tokio::test]
async fn password_and_service_files() {
    let cluster = Cluster::builder(17).auth(Auth::Scram).start();
    let (directory, port) = (cluster.directory(), cluster.port());
    write_file(
        &directory.join(".pgpass"),
        &format!(
            "127.0.0.1:{port}:replication:postgres:{PASSWORD}\n127.0.0.1:*:postgres:*:{PASSWORD}\n"
        ),
    );
    write_file(
        &directory.join(".pg_service.conf"),
        &format!("[main]\nhost=127.0.0.1\nport={port}\nuser=postgres\ndbname=postgres\n"),
    );
    let info = conninfo(&cluster, "service=main");
    assert_eq!(both(&info).await.unwrap(), (false, false));

    let other = directory.join("elsewhere");
    write_file(&other, &format!("*:*:*:*:{PASSWORD}\n"));
    let environment = environment(&cluster)
        .with("PGHOST", "127.0.0.1")
        .with("PGPORT", &port.to_string())
        .with("PGUSER", "postgres")
        .with("PGPASSFILE", other.to_str().unwrap());
    let info = ConnInfo::parse_in("", &environment).unwrap();
    assert_eq!(both(&info).await.unwrap(), (false, false));
}

#[tokio::test]
async fn the_right_one_of_several_hosts() {
    let primary = Cluster::builder(17).start();
    let data = primary.directory().join("standby");
    let mut command = primary.client("pg_basebackup");
    command.arg("-D").arg(&data).args(["-R", "-X", "stream", "-c", "fast"]);
    crate::support::process::run(command).expect_success();
    let mut standby = Cluster::on(17, &data);
    standby.start();

    // Nobody listens here.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ports = format!("{dead},{},{}", standby.port(), primary.port());
    let base =
        format!("host=127.0.0.1,127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres");
    for (wanted, in_recovery) in [
        ("any", true),
        ("primary", false),
        ("read-write", false),
        ("standby", true),
        ("read-only", true),
        ("prefer-standby", true),
    ] {
        let info = conninfo(&primary, &format!("{base} target_session_attrs={wanted}"));
        let sql = SqlConnection::connect(&info).await.unwrap();
        assert_eq!(sql.is_in_recovery().await.unwrap(), in_recovery, "{wanted}");
        let replication = ReplicationConnection::connect(&info).await.unwrap();
        let standby = replication.parameter("in_hot_standby") == Some("on");
        assert_eq!(standby, in_recovery, "{wanted}");
    }
    standby.stop(Shutdown::Fast);
    let prefer = conninfo(&primary, &format!("{base} target_session_attrs=prefer-standby"));
    assert!(!SqlConnection::connect(&prefer).await.unwrap().is_in_recovery().await.unwrap());
    let none = conninfo(&primary, &format!("{base} target_session_attrs=standby"));
    let error = SqlConnection::connect(&none).await.err().unwrap();
    let shown = error.to_string();
    assert!(shown.contains(&dead.to_string()) && shown.contains("is a primary"), "{shown}");
}

#[tokio::test]
async fn a_silent_server_is_given_up_after_connect_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let text = format!("host=127.0.0.1 port={port} user=u sslmode=disable connect_timeout=2");
    let info = ConnInfo::parse_in(&text, &Default::default()).unwrap();
    let error = ReplicationConnection::connect(&info).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { seconds: 2, .. }), "{error}");
}

#[tokio::test]
async fn what_a_connection_runs_can_be_cancelled() {
    let cluster = tls_cluster(17);
    let info = conninfo(&cluster, &cluster.tcp_conninfo());
    let mut connection = ReplicationConnection::connect(&info).await.unwrap();
    let canceller = connection.canceller(&info).unwrap();
    connection.create_slot("held", false).await.unwrap();
    let holder = ReplicationConnection::connect(&local(&cluster)).await.unwrap();
    let lsn = cluster.current_lsn().parse().unwrap();
    let stream = holder.start_replication(Some("held"), lsn, "1".parse().unwrap()).await.unwrap();
    // Waits for the slot, which is in use.
    let waiting = connection.drop_slot("held", true);
    let cancel = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        canceller.cancel().await.unwrap();
    };
    let (result, ()) = tokio::join!(waiting, cancel);
    assert!(result.unwrap_err().is_code("57014"));
    drop(stream);
    connection.identify_system().await.unwrap();
}
