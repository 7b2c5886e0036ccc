//! Names of objects: what is read is written the same, and never leaves its place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repo_format::names::{ObjectName, escape, is_server_name, unescape};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(name) = ObjectName::parse(text) {
        assert_eq!(name.to_string(), text);
        let parts: Vec<&str> = text.split('/').collect();
        assert!(parts.iter().all(|part| !part.is_empty() && !part.starts_with('.')));
        assert!(parts.iter().all(|part| part.len() <= 255) && text.len() <= 1024);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if is_server_name(text) {
        assert_eq!(unescape(&escape(text)).as_deref(), Some(text));
    }
    if let Some(server) = unescape(text) {
        assert_eq!(escape(&server), text);
    }
});
