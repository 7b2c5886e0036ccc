//! Effective values as they are shown: typed, sorted, without secrets.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::options::{self, State};
use super::redact;
use super::resolve::{Effective, Source};

/// Every option that works here, and of the others those that are set.
pub(super) fn texts(effective: &BTreeMap<&'static str, Effective>) -> BTreeMap<String, Value> {
    effective
        .iter()
        .filter(|(name, effective)| {
            let supported = options::find(name).is_some_and(|o| o.state == State::Supported);
            supported || effective.source != Source::Default
        })
        .map(|(name, effective)| {
            let value = effective.value.as_deref().map(|value| redact::option(name, value));
            ((*name).to_owned(), json!(value))
        })
        .collect()
}
