//! Takes the exports out of the filter's module that Envoy need not call.
//!
//! The SDK exports every callback of the ABI, and the host enters the VM for each that it
//! finds: for every piece of a body, say, only to be told to go on. What the filter does not
//! handle must therefore not be there. rustc has no way to leave an export of a dependency
//! out, so this rewrites the module's export section (WebAssembly core specification, 5.5.10);
//! nothing else is touched.
//!
//! ```text
//! ipwarden-trim MODULE      rewrites the file; once more changes nothing
//! ```

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::process::ExitCode;

/// What the filter does not handle. Checked against the module's source by a test.
const UNUSED: [&str; 19] = [
    "proxy_on_downstream_connection_close",
    "proxy_on_downstream_data",
    "proxy_on_foreign_function",
    "proxy_on_grpc_close",
    "proxy_on_grpc_receive",
    "proxy_on_grpc_receive_initial_metadata",
    "proxy_on_grpc_receive_trailing_metadata",
    "proxy_on_new_connection",
    "proxy_on_queue_ready",
    "proxy_on_request_body",
    "proxy_on_request_metadata",
    "proxy_on_request_trailers",
    "proxy_on_response_body",
    "proxy_on_response_metadata",
    "proxy_on_response_trailers",
    "proxy_on_upstream_connection_close",
    "proxy_on_upstream_data",
    "__main_void",
    "_start",
];

const HEADER: [u8; 8] = *b"\0asm\x01\0\0\0";
const EXPORT_SECTION: u8 = 7;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module] = arguments.as_slice() else {
        eprintln!("usage: ipwarden-trim MODULE");
        return ExitCode::from(2);
    };
    match rewrite(Path::new(module)) {
        Ok(dropped) => {
            println!("{module}: {dropped} exports left out");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {module}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rewrite(path: &Path) -> std::io::Result<usize> {
    let module = std::fs::read(path)?;
    let (trimmed, dropped) = trim(&module)
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "not a WebAssembly module"))?;
    if dropped > 0 {
        // In one step: whoever reads the file meanwhile gets the one or the other.
        let next = path.with_extension("wasm.next");
        std::fs::write(&next, trimmed)?;
        std::fs::rename(&next, path)?;
    }
    Ok(dropped)
}

/// The module without its unused exports, and how many those are; `None` for anything else
/// than a module.
fn trim(module: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut rest = module.strip_prefix(&HEADER)?;
    let mut out = HEADER.to_vec();
    let mut dropped = 0;
    while let Some((&id, after)) = rest.split_first() {
        rest = after;
        let size = usize::try_from(number(&mut rest)?).ok()?;
        let (mut section, after) = rest.split_at_checked(size)?;
        rest = after;
        let kept;
        if id == EXPORT_SECTION {
            let (section_kept, section_dropped) = without_unused(section)?;
            dropped += section_dropped;
            kept = section_kept;
            section = &kept;
        }
        out.push(id);
        put_number(&mut out, u32::try_from(section.len()).ok()?);
        out.extend_from_slice(section);
    }
    Some((out, dropped))
}

/// An export section: a vector of (name, kind, index).
fn without_unused(mut section: &[u8]) -> Option<(Vec<u8>, usize)> {
    let all = number(&mut section)?;
    let (mut kept, mut dropped) = (Vec::new(), 0);
    for _ in 0..all {
        let start = section;
        let length = usize::try_from(number(&mut section)?).ok()?;
        let (name, after) = section.split_at_checked(length)?;
        section = after.split_first()?.1;
        number(&mut section)?;
        if UNUSED.iter().any(|unused| unused.as_bytes() == name) {
            dropped += 1;
        } else {
            kept.extend_from_slice(start.get(..start.len() - section.len())?);
        }
    }
    let mut out = Vec::with_capacity(kept.len() + 5);
    put_number(&mut out, all.checked_sub(u32::try_from(dropped).ok()?)?);
    out.extend_from_slice(&kept);
    section.is_empty().then_some((out, dropped))
}

/// An unsigned LEB128 number of 32 bits.
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let mut found = 0u32;
    for at in 0..5 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        found |= u32::from(byte & 0x7f).checked_shl(7 * at)?;
        if byte & 0x80 == 0 {
            return Some(found);
        }
    }
    None
}

fn put_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sections 7 and 10, the latter with arbitrary bytes.
    fn module(exports: &[&str]) -> Vec<u8> {
        let mut section = vec![exports.len() as u8];
        for (at, name) in exports.iter().enumerate() {
            section.push(name.len() as u8);
            section.extend_from_slice(name.as_bytes());
            section.extend_from_slice(&[0, at as u8]);
        }
        let mut module = HEADER.to_vec();
        module.push(EXPORT_SECTION);
        put_number(&mut module, section.len() as u32);
        module.extend_from_slice(&section);
        module.extend_from_slice(&[10, 3, 1, 2, 3]);
        module
    }

    #[test]
    fn unused_exports_go_and_everything_else_stays() {
        let given = module(&["memory", "proxy_on_request_body", "proxy_on_tick"]);
        let (trimmed, dropped) = trim(&given).unwrap();
        assert_eq!(dropped, 1);
        let mut expected = module(&["memory", "x", "proxy_on_tick"]);
        // The index of what stays is the same: the entry of `x` is missing, nothing else.
        let x = expected.windows(4).position(|window| window == b"\x01x\0\x01").unwrap();
        expected.drain(x..x + 4);
        expected[9] -= 4;
        expected[10] -= 1;
        assert_eq!(trimmed, expected);
        assert_eq!(trim(&trimmed), Some((trimmed.clone(), 0)), "once more changes nothing");
    }

    #[test]
    fn what_is_no_module_is_left_alone() {
        assert_eq!(trim(b""), None);
        assert_eq!(trim(b"\x7fELF and more"), None);
        let whole = module(&["memory", "proxy_on_request_body"]);
        // The last section's bytes may be cut nowhere; its start looks like an end.
        for length in 9..whole.len() - 5 {
            assert_eq!(trim(&whole[..length]), None, "cut at {length}");
        }
    }

    /// A callback that the filter implements must reach it.
    #[test]
    fn nothing_that_the_filter_handles_is_unused() {
        let host = include_str!("../../../src/host/mod.rs");
        for unused in UNUSED {
            let Some(callback) = unused.strip_prefix("proxy_on_") else { continue };
            let (http, plain) = (format!("fn on_http_{callback}("), format!("fn on_{callback}("));
            assert!(!host.contains(&http) && !host.contains(&plain), "{unused} is handled");
        }
    }
}
