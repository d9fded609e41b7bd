//! The host calls we need, fallible and without copies that nobody asked for.
//!
//! The SDK's own wrappers panic on any status but the expected ones and on header names that
//! are no UTF-8; a panic in here would take down the VM and, by Envoy's default, the site.
//! So this module declares the calls itself. It is the only one with `unsafe`.
//!
//! Every function returns [`Refused`] for a status that is neither "ok" nor "not found".

#![expect(unsafe_code, reason = "the proxy-wasm ABI is a C interface; nothing else uses unsafe")]

use core::ptr::{null, null_mut};

use crate::shared::{Cas, SharedData, SharedError};

/// The host refused the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

/// The maps of headers that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Map {
    Request = 0,
    Response = 2,
    CallResponse = 6,
}

/// The buffers that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Buffer {
    CallResponseBody = 4,
    PluginConfiguration = 7,
}

/// The kinds of metric that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Metric {
    Counter = 0,
    Gauge = 1,
}

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const CAS_MISMATCH: u32 = 8;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        cas: u32,
    ) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_done() -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> i32;
}

/// Nanoseconds of a clock that never goes back, the same for all workers; Unix time where the
/// host has none.
#[inline]
pub(super) fn monotonic_ns() -> u64 {
    const MONOTONIC: u32 = 1;
    let mut time = 0;
    // SAFETY: the host writes one u64 to a valid address.
    let errno = unsafe { clock_time_get(MONOTONIC, 1, &mut time) };
    if errno == 0 && time != 0 { time } else { now_ns() }
}

/// Unix time in nanoseconds; 0 when the host has none.
#[inline]
pub(super) fn now_ns() -> u64 {
    let mut time = 0;
    // SAFETY: the host writes one u64 to a valid address.
    unsafe { proxy_get_current_time_nanoseconds(&mut time) };
    time
}

pub(super) fn set_tick_ms(period: u32) {
    // SAFETY: no pointers.
    unsafe { proxy_set_tick_period_milliseconds(period) };
}

/// Tells the host that a root context which asked for time in `on_done` has ended.
pub(super) fn done() {
    // SAFETY: no pointers.
    unsafe { proxy_done() };
}

/// Lets the calls that follow be about another context: a stream of this VM, or its root.
pub(super) fn speak_for(context: u32) -> Result<(), Refused> {
    // SAFETY: no pointers.
    let status = unsafe { proxy_set_effective_context(context) };
    if status == OK { Ok(()) } else { Err(Refused) }
}

/// Lets the request that was paused go on; its headers can't be read or changed any more.
pub(super) fn resume_request() -> Result<(), Refused> {
    const REQUEST: u32 = 0;
    // SAFETY: no pointers.
    let status = unsafe { proxy_continue_stream(REQUEST) };
    if status == OK { Ok(()) } else { Err(Refused) }
}

/// Takes over memory that the host filled.
///
/// The host allocates through our export `proxy_on_memory_allocate`, which makes a vector
/// of exactly `size` bytes and leaks it; this takes it back.
#[inline]
fn adopt(status: u32, data: *mut u8, size: usize) -> Result<Option<Vec<u8>>, Refused> {
    match status {
        // SAFETY: see above; capacity and length are the size that was asked for.
        OK if !data.is_null() => Ok(Some(unsafe { Vec::from_raw_parts(data, size, size) })),
        // An empty value comes without memory.
        OK => Ok(Some(Vec::new())),
        NOT_FOUND => Ok(None),
        _ => Err(Refused),
    }
}

/// A property; `path` has its parts separated by zero bytes.
#[inline]
pub(super) fn property(path: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: path is valid for its length; the host writes both results.
    let status = unsafe { proxy_get_property(path.as_ptr(), path.len(), &mut data, &mut size) };
    adopt(status, data, size)
}

/// A property that is an integer (8 bytes, little-endian).
#[inline]
pub(super) fn integer(path: &[u8]) -> Option<u64> {
    let value = property(path).ok()??;
    Some(u64::from_le_bytes(value.as_slice().try_into().ok()?))
}

/// All pairs of a map as the host serialises them; see [`super::headers::Headers`].
#[inline]
pub(super) fn pairs(map: Map) -> Result<Vec<u8>, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the host writes both results.
    let status = unsafe { proxy_get_header_map_pairs(map as u32, &mut data, &mut size) };
    adopt(status, data, size).map(Option::unwrap_or_default)
}

/// The first value of a header.
#[inline]
pub(super) fn header(map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: key is valid for its length; the host writes both results.
    let status = unsafe {
        proxy_get_header_map_value(map as u32, key.as_ptr(), key.len(), &mut data, &mut size)
    };
    adopt(status, data, size)
}

/// Adds a line to a map.
#[inline]
pub(super) fn add_header(map: Map, key: &[u8], value: &[u8]) -> Result<(), Refused> {
    // SAFETY: key and value are valid for their lengths; the host copies both.
    let status = unsafe {
        proxy_add_header_map_value(map as u32, key.as_ptr(), key.len(), value.as_ptr(), value.len())
    };
    if status == OK { Ok(()) } else { Err(Refused) }
}

/// Removes all lines of a header.
#[inline]
pub(super) fn remove_header(map: Map, key: &[u8]) -> Result<(), Refused> {
    // SAFETY: key is valid for its length.
    let status = unsafe { proxy_remove_header_map_value(map as u32, key.as_ptr(), key.len()) };
    if status == OK { Ok(()) } else { Err(Refused) }
}

/// At most `max` bytes of a buffer from its start.
pub(super) fn buffer(buffer: Buffer, max: usize) -> Result<Option<Vec<u8>>, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the host writes both results.
    let status = unsafe { proxy_get_buffer_bytes(buffer as u32, 0, max, &mut data, &mut size) };
    adopt(status, data, size)
}

/// Ends the request with a reply of our own. `headers` are serialised pairs.
pub(super) fn reply(
    status: u32,
    headers: &[u8],
    body: &[u8],
    grpc_status: Option<u8>,
) -> Result<(), Refused> {
    let grpc_status = grpc_status.map_or(-1, i32::from);
    // SAFETY: every pointer is valid for its length; the host copies before it returns.
    let result = unsafe {
        proxy_send_local_response(
            status,
            DETAILS.as_ptr(),
            DETAILS.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status,
        )
    };
    if result == OK { Ok(()) } else { Err(Refused) }
}

/// What Envoy's access log shows as `%RESPONSE_CODE_DETAILS%`.
const DETAILS: &[u8] = b"ipwarden_refused";

/// The number of a metric; `None` when the host refuses to define it.
pub(super) fn define(kind: Metric, name: &str) -> Option<u32> {
    let mut id = 0;
    // SAFETY: name is valid for its length; the host writes one u32.
    let status = unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id) };
    (status == OK).then_some(id)
}

#[inline]
pub(super) fn increment(id: u32, offset: i64) {
    // SAFETY: no pointers.
    unsafe { proxy_increment_metric(id, offset) };
}

#[inline]
pub(super) fn record(id: u32, value: u64) {
    // SAFETY: no pointers.
    unsafe { proxy_record_metric(id, value) };
}

/// Envoy's shared data.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostShared;

impl SharedData for HostShared {
    fn get(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<Cas>, SharedError> {
        let (mut data, mut size, mut cas) = (null_mut(), 0, 0);
        // SAFETY: key is valid for its length; the host writes the three results.
        let status = unsafe {
            proxy_get_shared_data(key.as_ptr(), key.len(), &mut data, &mut size, &mut cas)
        };
        match adopt(status, data, size) {
            Ok(Some(value)) => {
                *out = value;
                Ok(Some(cas))
            }
            Ok(None) => {
                out.clear();
                Ok(None)
            }
            Err(Refused) => Err(SharedError::Host),
        }
    }

    fn set(&mut self, key: &str, value: &[u8], cas: Option<Cas>) -> Result<(), SharedError> {
        let data = if value.is_empty() { null() } else { value.as_ptr() };
        // SAFETY: key and value are valid for their lengths; the host copies both.
        let status = unsafe {
            proxy_set_shared_data(key.as_ptr(), key.len(), data, value.len(), cas.unwrap_or(0))
        };
        match status {
            OK => Ok(()),
            CAS_MISMATCH => Err(SharedError::CasMismatch),
            _ => Err(SharedError::Host),
        }
    }
}
