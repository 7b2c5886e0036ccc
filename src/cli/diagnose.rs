//! `barman diagnose`.

use std::collections::BTreeMap;
use std::fs;

use jiff::Zoned;
use serde_json::{Map, Value, json};

use super::Session;
use crate::config::{Effective, Server};
use crate::error::Result;

/// Print all that helps to find a problem, as JSON.
///
/// The configuration in force, what is wrong with it, and the system it runs on, in one JSON document
/// to attach to a report. Passwords are hidden. With '-f json' the document is one string in "_INFO",
/// as scripts written for Barman expect.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Tell for every option which file and line its value comes from
    #[arg(long)]
    pub show_config_source: bool,
}

const EXAMPLES: &str = "EXAMPLES:
  barman diagnose
  barman diagnose --show-config-source > report.json";

/// Prints it.
pub async fn run(args: Args, session: &mut Session) -> Result<()> {
    let config = &session.config;
    let config_of = |shown, effective: &BTreeMap<&'static str, Effective>| {
        if args.show_config_source { with_sources(shown, effective) } else { json!(shown) }
    };
    let mut global = config_of(config.global.shown(), &config.global.effective);
    let errors: Vec<String> = config
        .global
        .messages
        .iter()
        .map(|m| m.text.clone())
        .chain(config.warnings.iter().map(ToString::to_string))
        .collect();
    global["errors_list"] = json!(errors);
    let servers: Map<String, Value> = config
        .servers
        .iter()
        .map(|(name, server)| {
            let options = config_of(server.shown(), &server.effective);
            (name.clone(), describe(server, options))
        })
        .collect();
    let models: Map<String, Value> = config
        .models
        .iter()
        .map(|(name, model)| (name.clone(), json!({ "config": model.shown() })))
        .collect();
    let document = json!({
        "global": { "config": global, "system_info": system_info() },
        "models": models,
        "servers": servers,
    });
    session.output.info(format!("{document:#}"));
    Ok(())
}

fn describe(server: &Server, config: Value) -> Value {
    let messages: Vec<&str> = server.messages.iter().map(|m| m.text.as_str()).collect();
    json!({ "active_model": null, "config": config, "msg_list": messages })
}

fn with_sources(
    shown: BTreeMap<String, Value>,
    effective: &BTreeMap<&'static str, Effective>,
) -> Value {
    let sourced = shown.into_iter().map(|(option, value)| {
        let source = effective.get(option.as_str()).map(|e| e.source.to_string());
        (option, json!({ "value": value, "source": source }))
    });
    Value::Object(sourced.collect())
}

fn system_info() -> Value {
    let kernel = rustix::system::uname();
    json!({
        "barman_ver": env!("CARGO_PKG_VERSION"),
        "kernel_ver": format!(
            "{} {} {}",
            kernel.sysname().to_string_lossy(),
            kernel.release().to_string_lossy(),
            kernel.machine().to_string_lossy(),
        ),
        "release": release(),
        "timestamp": Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string(),
    })
}

/// The name of the distribution, as os-release(5) gives it.
fn release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}
