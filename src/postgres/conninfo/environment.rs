//! What a connection string leaves open: `PG*` variables and service files.

use super::{ConnInfoError, Parameters};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The variables a connection is made under.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, Zeroizing<String>>,
}

impl Environment {
    /// This process's.
    pub fn of_process() -> Environment {
        let mut environment = Environment::default();
        for (name, value) in std::env::vars_os() {
            if let (Some(name), Some(value)) = (name.to_str(), value.to_str()) {
                environment = environment.with(name, value);
            }
        }
        environment
    }

    /// Adds a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Environment {
        if name.starts_with("PG") || matches!(name, "HOME" | "USER" | "LOGNAME") {
            self.variables.insert(name.to_owned(), Zeroizing::new(value.to_owned()));
        }
        self
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The home directory.
    pub(super) fn home(&self) -> Option<PathBuf> {
        self.get("HOME").map(PathBuf::from).or_else(|| account().map(|(_, home)| home))
    }

    /// The name of the user running the process.
    pub(super) fn user(&self) -> Option<String> {
        // libpq asks the system, whatever USER says.
        account()
            .map(|(name, _)| name)
            .or_else(|| self.get("USER").or_else(|| self.get("LOGNAME")).map(str::to_owned))
    }

    /// Fills in what is not given: first from the service, then from variables.
    pub(super) fn complete(&self, given: &mut Parameters) -> Result<(), ConnInfoError> {
        let service = given.get("service").or_else(|| self.get("PGSERVICE")).map(str::to_owned);
        if let Some(service) = service {
            let file = given.get("servicefile").map(PathBuf::from);
            self.read_service(&service, file, given)?;
        }
        for (variable, keyword) in VARIABLES {
            if let Some(value) = self.variables.get(*variable).filter(|value| !value.is_empty()) {
                given.set_default(keyword, value.clone())?;
            }
        }
        Ok(())
    }

    fn read_service(
        &self,
        service: &str,
        file: Option<PathBuf>,
        given: &mut Parameters,
    ) -> Result<(), ConnInfoError> {
        let error = |reason: String| ConnInfoError::Service { service: service.to_owned(), reason };
        let named = file.or_else(|| self.get("PGSERVICEFILE").map(PathBuf::from));
        let mut places = Vec::new();
        match named {
            Some(file) if !file.exists() => {
                return Err(error(format!("service file {} does not exist", file.display())));
            }
            Some(file) => places.push(file),
            None => places.extend(self.home().map(|home| home.join(".pg_service.conf"))),
        }
        let system = self.get("PGSYSCONFDIR").unwrap_or("/etc/postgresql-common");
        places.push(Path::new(system).join("pg_service.conf"));

        for place in places.iter().filter(|place| place.exists()) {
            let text = std::fs::read(place)
                .map_err(|cause| error(format!("cannot read {}: {cause}", place.display())))?;
            let text = Zeroizing::new(String::from_utf8_lossy(&text).into_owned());
            if section(&text, service, given)
                .map_err(|reason| error(format!("{}: {reason}", place.display())))?
            {
                return Ok(());
            }
        }
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        Err(error(format!("not found in {}", places.join(" or "))))
    }
}

/// Takes the parameters of `[service]`; whether there is such a section.
fn section(text: &str, service: &str, given: &mut Parameters) -> Result<bool, String> {
    let mut found = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            if found {
                break;
            }
            found = name == service;
        } else if found {
            let (keyword, value) = line.split_once('=').ok_or("a line without \"=\"")?;
            if matches!(keyword, "service" | "servicefile") {
                return Err("services cannot refer to services".to_owned());
            }
            given
                .set_default(keyword, Zeroizing::new(value.to_owned()))
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(found)
}

/// The name and home directory of the user this process runs as.
fn account() -> Option<(String, PathBuf)> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let found = fields.nth(1)? == uid;
        let home = fields.nth(2)?;
        found.then(|| (name.to_owned(), PathBuf::from(home)))
    })
}

const VARIABLES: &[(&str, &str)] = &[
    ("PGAPPNAME", "application_name"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGDATABASE", "dbname"),
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGOPTIONS", "options"),
    ("PGPASSFILE", "passfile"),
    ("PGPASSWORD", "password"),
    ("PGPORT", "port"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLSNI", "sslsni"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGUSER", "user"),
];
