//! From what the files say to what holds: inheritance, interpolation, and checked values.

use std::collections::BTreeMap;
use std::fmt;

use super::ini::{Origin, Section};
use super::interpolate::{InterpolationError, interpolate, meaning};
use super::options::{self, OPTIONS, OptionSpec, State};
use super::redact;
use super::values::Expected;

/// What is wrong with a server's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whether the server must not be backed up with it.
    pub is_error: bool,
    /// What is wrong, where, and what to do.
    pub text: String,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The section of the server.
    Server(Origin),
    /// The section `[barman]`.
    Global(Origin),
    /// An environment variable.
    Environment,
    /// Nobody has set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Server(origin) | Source::Global(origin) => origin.fmt(f),
            Source::Environment => f.write_str("environment"),
            Source::Default => f.write_str("default"),
        }
    }
}

/// The value that holds for an option, and where it comes from.
#[derive(Clone, PartialEq, Eq)]
pub struct Effective {
    /// The value; `None` if it is unset. May be a secret.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

impl fmt::Debug for Effective {
    /// Without the value, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Effective({})", self.source)
    }
}

/// Reads the options of one server, or of `[barman]`, and collects what is wrong with them.
pub(super) struct Reader<'a> {
    name: &'a str,
    server: Option<&'a Section>,
    global: Option<&'a Section>,
    pub effective: BTreeMap<&'static str, Effective>,
    pub messages: Vec<Message>,
    /// Whether a value could not be understood: nobody knows then what was meant.
    pub is_broken: bool,
}

impl<'a> Reader<'a> {
    /// The options of the server `name`; without a section it has all from `[barman]` and the defaults.
    pub fn server(name: &'a str, server: Option<&'a Section>, global: Option<&'a Section>) -> Self {
        let mut reader = Reader::new(name, server, global);
        reader.resolve(|option| option.scope.server());
        reader
    }

    /// The options of `[barman]` itself.
    pub fn global(global: Option<&'a Section>) -> Self {
        let mut reader = Reader::new("barman", None, global);
        reader.resolve(|option| option.scope.global());
        reader
    }

    fn new(name: &'a str, server: Option<&'a Section>, global: Option<&'a Section>) -> Self {
        let (effective, messages) = (BTreeMap::new(), Vec::new());
        Reader { name, server, global, effective, messages, is_broken: false }
    }

    /// The value of `option`, understood by `parse`; `None` when unset or wrong.
    pub fn get<T>(
        &mut self,
        option: &str,
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> Option<T> {
        let effective = self.effective.get(option)?;
        match parse(effective.value.as_deref()?) {
            Ok(value) => Some(value),
            Err(expected) => {
                let value = redact::option(option, effective.value.as_deref().unwrap_or_default());
                let text = format!("{}: {option} = {value}: {expected}", effective.source);
                self.broken(text);
                None
            }
        }
    }

    /// The text of `option`.
    pub fn text(&mut self, option: &str) -> Option<String> {
        self.get(option, |text| Ok(text.to_owned()))
    }

    /// Whether `option` is set in the section of the server itself, to whatever.
    pub fn is_own(&self, option: &str) -> bool {
        matches!(self.effective.get(option), Some(Effective { source: Source::Server(_), .. }))
    }

    /// Notes a value that cannot be understood.
    pub fn broken(&mut self, text: String) {
        self.is_broken = true;
        self.messages.push(Message { is_error: true, text });
    }

    /// Notes what else keeps the server from being backed up.
    pub fn error(&mut self, text: impl Into<String>) {
        self.messages.push(Message { is_error: true, text: text.into() });
    }

    /// Notes what should be known.
    pub fn warning(&mut self, text: impl Into<String>) {
        self.messages.push(Message { is_error: false, text: text.into() });
    }

    fn resolve(&mut self, in_scope: impl Fn(&OptionSpec) -> bool) {
        for option in OPTIONS.iter().filter(|option| in_scope(option)) {
            let (raw, source) = self.raw(option);
            let value = match self.interpolated(raw.unwrap_or_default()) {
                Ok(value) => meaning(&value).map(str::to_owned),
                // A default that leans on an option nobody has set is no value.
                Err(_) if source == Source::Default => None,
                Err(error) => {
                    self.broken(format!("{source}: {}: {error}", option.name));
                    None
                }
            };
            let shown = |value: &str| redact::option(option.name, value);
            if let Some(value) = &value
                && let Some(expected) = option.state.unknown(value)
            {
                let name = option.name;
                self.broken(format!("{source}: {name} = {} is unknown: {expected}", shown(value)));
            } else if let (State::NotYet { protects: true, .. }, Some(value)) =
                (option.state, &value)
                && option.is_missing(value)
            {
                self.error(format!(
                    "{source}: {} = {} is not supported yet, and without it other things \
                     would be protected than you expect: remove the option",
                    option.name,
                    shown(value)
                ));
            }
            self.effective.insert(option.name, Effective { value, source });
        }
    }

    fn interpolated(&self, raw: &str) -> Result<String, InterpolationError> {
        interpolate(raw, &|key| match key {
            "name" => Some(self.name.to_owned()),
            _ => {
                // Any key of the two sections may be referred to, whether it is an option or not.
                let section = |s: Option<&Section>| {
                    s.and_then(|s| s.options.get(key)).map(|entry| entry.value.clone())
                };
                section(self.server)
                    .or_else(|| section(self.global))
                    .or_else(|| options::find(key)?.default.map(str::to_owned))
            }
        })
    }

    /// Server, then `[barman]`, then default; an option set to nothing ends the search too.
    fn raw(&self, option: &OptionSpec) -> (Option<&'a str>, Source) {
        if option.scope.server()
            && let Some(entry) = self.server.and_then(|s| s.options.get(option.name))
        {
            return (Some(&entry.value), Source::Server(entry.origin.clone()));
        }
        if option.scope.global()
            && let Some(entry) = self.global.and_then(|s| s.options.get(option.name))
        {
            return (Some(&entry.value), Source::Global(entry.origin.clone()));
        }
        (option.default, Source::Default)
    }
}
