//! A proxy-wasm host as small as can be: it runs the built module in an interpreter, counts
//! the calls that the module makes, and its clocks are the test's.
//!
//! It is no second Envoy: it answers what the filter asks of a host and nothing else. What a
//! request costs and what a clock does to it are seen here; everything else is tested in the
//! real one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use wasmi::{Caller, Config, Engine, Error, Extern, Instance, Linker, Memory, Module, Store, Val};

/// Statuses of the ABI.
const OK: i32 = 0;
const NOT_FOUND: i32 = 1;
const CAS_MISMATCH: i32 = 8;
const UNIMPLEMENTED: i32 = 12;
/// And one of WASI's: not supported.
const WASI_NOTSUP: i32 = 58;

/// What the interpreter may spend on one callback: all that there is.
const FUEL: u64 = u64::MAX;
/// The root context.
const ROOT: i32 = 1;

/// How often each host call was made.
pub type Calls = BTreeMap<String, u64>;

/// What the VMs of one process share: the data, and the clocks.
#[derive(Debug, Clone, Default)]
pub struct Process(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    data: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    wall: Duration,
    /// `None`: this host has no such clock.
    monotonic: Option<Duration>,
    random: u64,
}

impl Process {
    /// A process that starts at this Unix time.
    #[must_use]
    pub fn new(wall: Duration) -> Self {
        let monotonic = Some(Duration::from_secs(100));
        Self(Arc::new(Mutex::new(Shared { wall, monotonic, ..Shared::default() })))
    }

    /// The same with a host that knows the wall clock's time only.
    #[must_use]
    pub fn without_monotonic_clock(wall: Duration) -> Self {
        Self(Arc::new(Mutex::new(Shared { wall, ..Shared::default() })))
    }

    /// Time passes.
    pub fn pass(&self, time: Duration) {
        let mut shared = self.lock();
        shared.wall += time;
        shared.monotonic = shared.monotonic.map(|monotonic| monotonic + time);
    }

    /// Somebody sets the wall clock forward.
    pub fn step_forward(&self, by: Duration) {
        self.lock().wall += by;
    }

    /// Somebody sets the wall clock back.
    pub fn step_back(&self, by: Duration) {
        self.lock().wall -= by;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// 200, or the status of the filter's own reply.
    pub status: u16,
    /// Headers of the filter's own reply.
    pub headers: Vec<(String, String)>,
    /// Host calls from the request's first headers to its end, and how often the host called
    /// back for memory.
    pub calls: Calls,
    /// What the interpreter spent on it, by the callback: the same each time, in units that
    /// say nothing of time, but of how much there is to do.
    pub work: BTreeMap<&'static str, u64>,
}

/// One VM with the built module: a worker's, or the main thread's.
#[derive(Debug)]
pub struct Vm {
    store: Store<State>,
    instance: Instance,
    contexts: i32,
}

#[derive(Debug)]
struct State {
    process: Process,
    calls: Calls,
    configuration: Vec<u8>,
    /// By path, its parts separated by zero bytes.
    properties: HashMap<Vec<u8>, Vec<u8>>,
    request: Vec<(String, String)>,
    reply: Option<(u16, Vec<(String, String)>)>,
    metrics: i32,
    log: Vec<String>,
    /// Calls that were sent and not answered: number and path. `None`: this host sends none.
    sent: Option<Vec<(i32, String)>>,
    /// The answer that is being handed over.
    answer: Vec<u8>,
}

impl Vm {
    /// Loads the module with this plugin configuration.
    ///
    /// # Panics
    /// When the module is not built, can't be linked or refuses the configuration.
    #[must_use]
    pub fn start(process: &Process, configuration: &Value) -> Self {
        let path = crate::program("E2E_MODULE", "target/wasm32-wasip1/wasm/ipwarden.wasm");
        let bytes = std::fs::read(path).expect("the module: `make module` first");
        let mut settings = Config::default();
        settings.consume_fuel(true);
        let engine = Engine::new(&settings);
        let module = Module::new(&engine, bytes).expect("a module");
        let configuration = configuration.to_string().into_bytes();
        let mut store = Store::new(
            &engine,
            State {
                process: process.clone(),
                calls: Calls::new(),
                configuration,
                properties: HashMap::new(),
                request: Vec::new(),
                reply: None,
                metrics: 0,
                log: Vec::new(),
                sent: None,
                answer: Vec::new(),
            },
        );
        let mut linker = Linker::new(&engine);
        for import in module.imports() {
            let name = import.name().to_owned();
            let function = import.ty().func().expect("only functions are imported").clone();
            linker
                .func_new(import.module(), import.name(), function, move |caller, given, out| {
                    let result = Call { caller, given }.answer(&name)?;
                    if let Some(out) = out.first_mut() {
                        *out = Val::I32(result);
                    }
                    Ok(())
                })
                .expect("each import once");
        }
        let instance = linker.instantiate_and_start(&mut store, &module).expect("an instance");
        let mut vm = Self { store, instance, contexts: ROOT };
        vm.call("_initialize", &[]);
        vm.call("proxy_on_context_create", &[ROOT, 0]);
        assert_ne!(vm.call("proxy_on_vm_start", &[ROOT, 0]), 0, "{:?}", vm.store.data().log);
        let size = i32::try_from(vm.store.data().configuration.len()).expect("a size");
        let configured = vm.call("proxy_on_configure", &[ROOT, size]);
        assert_ne!(configured, 0, "{:?}", vm.store.data().log);
        vm
    }

    /// The tick of the root context.
    pub fn tick(&mut self) {
        self.call("proxy_on_tick", &[ROOT]);
    }

    /// From now on calls are sent, each waiting for [`Self::answer`].
    pub fn send_calls(&mut self) {
        self.store.data_mut().sent.get_or_insert_default();
    }

    /// Answers the first call whose path starts so with 200 and this body; `false` for none.
    pub fn answer(&mut self, path: &str, body: &[u8]) -> bool {
        let state = self.store.data_mut();
        let Some(sent) = &mut state.sent else { return false };
        let Some(at) = sent.iter().position(|(_, sent)| sent.starts_with(path)) else {
            return false;
        };
        let (number, _) = sent.remove(at);
        state.answer = body.to_vec();
        let size = i32::try_from(body.len()).unwrap_or(i32::MAX);
        self.call("proxy_on_http_call_response", &[ROOT, number, 1, size, 0]);
        true
    }

    /// A whole GET request by `client`: its headers, the response's, its end.
    ///
    /// # Panics
    /// When the module traps.
    pub fn request(&mut self, client: &str, path: &str) -> Judged {
        self.contexts += 1;
        let context = self.contexts;
        let address: std::net::IpAddr = client.parse().expect("an address");
        let state = self.store.data_mut();
        state.calls.clear();
        state.reply = None;
        state.request = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "site.example"),
            (":path", path),
            ("user-agent", "vm"),
            ("x-forwarded-for", client),
            ("x-request-id", "00000000-0000-0000-0000-000000000000"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        let peer = std::net::SocketAddr::new(address, 40_000).to_string();
        state.properties.insert(b"source\0address".to_vec(), peer.into_bytes());
        for name in [&b"response\0flags"[..], b"request\0total_size", b"response\0total_size"] {
            state.properties.insert(name.to_vec(), vec![0; 8]);
        }
        let mut work = BTreeMap::new();
        let mut counted = |vm: &mut Self, name: &'static str, given: &[i32]| {
            vm.call(name, given);
            work.insert(name, FUEL - vm.store.get_fuel().expect("it is counted"));
        };
        counted(self, "proxy_on_context_create", &[context, ROOT]);
        let headers = i32::try_from(self.store.data().request.len()).unwrap_or(0);
        counted(self, "proxy_on_request_headers", &[context, headers, 1]);
        let (status, reply) = self.store.data_mut().reply.take().unwrap_or((200, Vec::new()));
        let code = u64::from(status).to_le_bytes().to_vec();
        self.store.data_mut().properties.insert(b"response\0code".to_vec(), code);
        counted(self, "proxy_on_response_headers", &[context, 3, 1]);
        counted(self, "proxy_on_done", &[context]);
        counted(self, "proxy_on_log", &[context]);
        counted(self, "proxy_on_delete", &[context]);
        let calls = std::mem::take(&mut self.store.data_mut().calls);
        Judged { status, headers: reply, calls, work }
    }

    /// Calls an export; what it does not return is 0.
    fn call(&mut self, name: &str, given: &[i32]) -> i32 {
        let function = self.instance.get_func(&self.store, name);
        let function = function.unwrap_or_else(|| panic!("the module exports no {name}"));
        let given: Vec<Val> = given.iter().map(|value| Val::I32(*value)).collect();
        let results = function.ty(&self.store).results().len();
        self.store.set_fuel(FUEL).expect("it is counted");
        let mut out = vec![Val::I32(0); results];
        function.call(&mut self.store, &given, &mut out).unwrap_or_else(|trap| {
            panic!("{name} trapped: {trap}; log: {:?}", self.store.data().log)
        });
        out.first().and_then(Val::i32).unwrap_or(0)
    }
}

/// One host call.
struct Call<'a> {
    caller: Caller<'a, State>,
    given: &'a [Val],
}

impl Call<'_> {
    fn answer(mut self, name: &str) -> Result<i32, Error> {
        *self.caller.data_mut().calls.entry(name.to_owned()).or_default() += 1;
        let process = self.caller.data().process.clone();
        Ok(match name {
            "proxy_get_current_time_nanoseconds" => {
                let wall = process.lock().wall;
                self.put(0, &nanos(wall))
            }
            // WASI's clocks: 0 the wall's, 1 the monotonic one.
            "clock_time_get" => {
                let shared = process.lock();
                let time = if self.number(0) == 0 { Some(shared.wall) } else { shared.monotonic };
                drop(shared);
                time.map_or(WASI_NOTSUP, |time| self.put(2, &nanos(time)))
            }
            "random_get" => {
                let length = self.number(1);
                let mut shared = process.lock();
                let bytes: Vec<u8> = (0..length)
                    .map(|_| {
                        shared.random = shared.random.wrapping_mul(6_364_136_223_846_793_005) + 1;
                        (shared.random >> 56) as u8
                    })
                    .collect();
                drop(shared);
                self.put(0, &bytes)
            }
            "environ_sizes_get" => {
                self.put(0, &[0; 4]);
                self.put(1, &[0; 4])
            }
            "environ_get" => OK,
            "proxy_get_shared_data" => {
                let key = self.bytes(0, 1);
                let found = process.lock().data.get(&key).cloned();
                match found {
                    None => NOT_FOUND,
                    Some((value, cas)) => {
                        self.hand_over(&value, 2, 3)?;
                        self.put(4, &cas.to_le_bytes())
                    }
                }
            }
            "proxy_set_shared_data" => {
                let (key, value, cas) = (self.bytes(0, 1), self.bytes(2, 3), self.number(4));
                let mut shared = process.lock();
                match shared.data.get_mut(&key) {
                    Some((_, present)) if cas != 0 && cas as u32 != *present => CAS_MISMATCH,
                    Some((stored, present)) => {
                        *stored = value;
                        *present += 1;
                        OK
                    }
                    None => {
                        shared.data.insert(key, (value, 1));
                        OK
                    }
                }
            }
            "proxy_get_property" => {
                let path = self.bytes(0, 1);
                let found = self.caller.data().properties.get(&path).cloned();
                self.hand_over_or_not_found(found, 2, 3)?
            }
            "proxy_get_header_map_pairs" => {
                let pairs = if self.number(0) == 0 {
                    self.caller.data().request.clone()
                } else {
                    vec![(":status".to_owned(), "200".to_owned())]
                };
                self.hand_over(&serialise(&pairs), 1, 2)?;
                OK
            }
            "proxy_get_header_map_value" => {
                let (map, name) = (self.number(0), self.bytes(1, 2));
                let request = &self.caller.data().request;
                let found = match (map, &*name) {
                    // Of the answer to a call.
                    (6, b":status") => Some(b"200".to_vec()),
                    (0, name) => {
                        let found = request.iter().find(|(found, _)| found.as_bytes() == name);
                        found.map(|(_, value)| value.clone().into_bytes())
                    }
                    _ => None,
                };
                self.hand_over_or_not_found(found, 3, 4)?
            }
            "proxy_get_buffer_bytes" => {
                // The answer to a call, the plugin's configuration.
                let found = match self.number(0) {
                    4 => Some(self.caller.data().answer.clone()),
                    7 => Some(self.caller.data().configuration.clone()),
                    _ => None,
                };
                self.hand_over_or_not_found(found, 3, 4)?
            }
            "proxy_http_call" => {
                let headers = parse(&self.bytes(2, 3));
                let state = self.caller.data_mut();
                let Some(sent) = &mut state.sent else { return Ok(UNIMPLEMENTED) };
                state.metrics += 1;
                let number = state.metrics;
                let path = headers.into_iter().find(|(name, _)| name == ":path");
                sent.push((number, path.map(|(_, path)| path).unwrap_or_default()));
                self.put(9, &number.to_le_bytes())
            }
            "proxy_send_local_response" => {
                let status = u16::try_from(self.number(0)).unwrap_or(0);
                let headers = parse(&self.bytes(5, 6));
                self.caller.data_mut().reply = Some((status, headers));
                OK
            }
            "proxy_define_metric" => {
                let state = self.caller.data_mut();
                state.metrics += 1;
                let id = state.metrics.to_le_bytes();
                self.put(3, &id)
            }
            "proxy_log" => {
                let line = String::from_utf8_lossy(&self.bytes(1, 2)).into_owned();
                self.caller.data_mut().log.push(line);
                OK
            }
            "proxy_increment_metric"
            | "proxy_record_metric"
            | "proxy_set_tick_period_milliseconds"
            | "proxy_add_header_map_value"
            | "proxy_replace_header_map_value"
            | "proxy_remove_header_map_value"
            | "proxy_set_effective_context"
            | "proxy_done" => OK,
            _ => UNIMPLEMENTED,
        })
    }

    fn number(&self, at: usize) -> i32 {
        self.given.get(at).and_then(Val::i32).unwrap_or(0)
    }

    fn memory(&self) -> Memory {
        self.caller.get_export("memory").and_then(Extern::into_memory).expect("a memory")
    }

    /// The bytes that two arguments, start and length, name.
    fn bytes(&self, start: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.number(length) as usize];
        let start = self.number(start) as u32 as usize;
        self.memory().read(&self.caller, start, &mut bytes).expect("memory of the module");
        bytes
    }

    /// Writes where an argument points.
    fn put(&mut self, at: usize, bytes: &[u8]) -> i32 {
        let start = self.number(at) as u32 as usize;
        self.memory().write(&mut self.caller, start, bytes).expect("memory of the module");
        OK
    }

    /// Copies bytes into memory that the module allocates for them, and says where.
    fn hand_over(&mut self, bytes: &[u8], start: usize, length: usize) -> Result<(), Error> {
        let size = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        let mut data = 0;
        if size > 0 {
            let calls = &mut self.caller.data_mut().calls;
            *calls.entry("proxy_on_memory_allocate".to_owned()).or_default() += 1;
            let allocate = self.caller.get_export("proxy_on_memory_allocate");
            let allocate = allocate.and_then(Extern::into_func).expect("an allocator");
            data = allocate.typed::<i32, i32>(&self.caller)?.call(&mut self.caller, size)?;
            let memory = self.memory();
            memory.write(&mut self.caller, data as u32 as usize, bytes).expect("what it gave");
        }
        self.put(start, &data.to_le_bytes());
        self.put(length, &size.to_le_bytes());
        Ok(())
    }

    fn hand_over_or_not_found(
        &mut self,
        found: Option<Vec<u8>>,
        start: usize,
        length: usize,
    ) -> Result<i32, Error> {
        let Some(bytes) = found else { return Ok(NOT_FOUND) };
        self.hand_over(&bytes, start, length)?;
        Ok(OK)
    }
}

fn nanos(time: Duration) -> [u8; 8] {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_le_bytes()
}

/// The ABI's form of a header map: count, all lengths, all strings with a zero byte each.
fn serialise(pairs: &[(String, String)]) -> Vec<u8> {
    let mut out = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in pairs {
        out.extend((name.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in pairs {
        for text in [name, value] {
            out.extend(text.as_bytes());
            out.push(0);
        }
    }
    out
}

fn parse(bytes: &[u8]) -> Vec<(String, String)> {
    let number = |at: usize| -> Option<usize> {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let count = number(0).unwrap_or(0);
    let mut at = 4 + 8 * count;
    let mut text = |length: usize| {
        let found = bytes.get(at..at + length).unwrap_or_default();
        at += length + 1;
        String::from_utf8_lossy(found).into_owned()
    };
    (0..count)
        .map(|n| {
            let (name, value) = (number(4 + 8 * n), number(8 + 8 * n));
            (text(name.unwrap_or(0)), text(value.unwrap_or(0)))
        })
        .collect()
}
