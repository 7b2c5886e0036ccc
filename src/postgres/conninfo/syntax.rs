//! The two forms of connection strings, taken apart into keywords and values.

use super::ConnInfoError;
use std::iter::Peekable;
use std::str::Chars;
use zeroize::Zeroizing;

type Pairs = Vec<(String, Zeroizing<String>)>;

/// Keywords and values in the order they stand there.
pub(super) fn parse(text: &str) -> Result<Pairs, ConnInfoError> {
    let uri = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
    match uri {
        Some(rest) => parse_uri(rest),
        None => parse_pairs(text),
    }
}

/// `key = value` pairs; values may be quoted, `\` escapes.
fn parse_pairs(text: &str) -> Result<Pairs, ConnInfoError> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        skip_space(&mut chars);
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut keyword = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            keyword.push(c);
        }
        skip_space(&mut chars);
        if chars.next_if_eq(&'=').is_none() {
            // The word, and the text around it, may be of a password: they are not repeated.
            let number = pairs.len() + 1;
            return Err(ConnInfoError::Syntax(format!("keyword {number} has no \"=\" after it")));
        }
        skip_space(&mut chars);
        let value = parse_value(&mut chars)
            .ok_or_else(|| ConnInfoError::Syntax(format!("the value of {keyword:?} has no end")))?;
        pairs.push((keyword, value));
    }
}

fn skip_space(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| c.is_whitespace()).is_some() {}
}

fn parse_value(chars: &mut Peekable<Chars<'_>>) -> Option<Zeroizing<String>> {
    let quoted = chars.next_if_eq(&'\'').is_some();
    let mut value = Zeroizing::new(String::new());
    loop {
        match chars.peek() {
            None => return (!quoted).then_some(value),
            Some('\'') if quoted => {
                chars.next();
                return Some(value);
            }
            Some(c) if !quoted && c.is_whitespace() => return Some(value),
            Some('\\') => {
                chars.next();
                value.push(chars.next()?);
            }
            Some(c) => {
                value.push(*c);
                chars.next();
            }
        }
    }
}

/// `[user[:password]@][host[:port],…][/dbname][?keyword=value&…]`.
fn parse_uri(rest: &str) -> Result<Pairs, ConnInfoError> {
    let mut pairs = Vec::new();
    // As libpq has it: what is before the first '@' is user and password, if no '/' comes before that.
    let (user, rest) = match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => (Some(&rest[..at]), &rest[at + 1..]),
        _ => (None, rest),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    if let Some(user) = user {
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        pairs.push(("user".to_owned(), decode(user)?));
        pairs.push(("password".to_owned(), decode(password)?));
    }
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = split_host(host)?;
            names.push(decode(name)?.to_string());
            ports.push(port);
        }
        pairs.push(("host".to_owned(), Zeroizing::new(names.join(","))));
        if ports.iter().any(|port| !port.is_empty()) {
            pairs.push(("port".to_owned(), Zeroizing::new(ports.join(","))));
        }
    }
    pairs.push(("dbname".to_owned(), decode(dbname)?));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (keyword, value) = pair
            .split_once('=')
            .ok_or_else(|| ConnInfoError::Syntax("a parameter of the URI has no value".into()))?;
        let (keyword, value) = (decode(keyword)?.to_string(), decode(value)?);
        if keyword == "ssl" && value.as_str() == "true" {
            pairs.push(("sslmode".to_owned(), Zeroizing::new("require".to_owned())));
        } else {
            pairs.push((keyword, value));
        }
    }
    pairs.retain(|(_, value)| !value.is_empty());
    Ok(pairs)
}

/// `name[:port]` or `[IPv6 address][:port]`.
fn split_host(host: &str) -> Result<(&str, &str), ConnInfoError> {
    let Some(bracketed) = host.strip_prefix('[') else {
        return Ok(host.split_once(':').unwrap_or((host, "")));
    };
    let bad = || ConnInfoError::Syntax(format!("invalid IPv6 address in the URI: {host:?}"));
    let (address, rest) = bracketed.split_once(']').ok_or_else(bad)?;
    match rest.strip_prefix(':') {
        Some(port) => Ok((address, port)),
        None if rest.is_empty() => Ok((address, "")),
        None => Err(bad()),
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<Zeroizing<String>, ConnInfoError> {
    let bad = || ConnInfoError::Syntax("invalid percent-encoding in the URI".into());
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(bad()) };
        match (high << 4 | low) as u8 {
            0 => return Err(bad()),
            decoded => bytes.push(decoded),
        }
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(bad()),
    }
}
