# Every target installs what it needs inside the repository (.tools/) and only when it is
# missing. `make` alone lists the targets.

# envoy/envoy.yaml and the end-to-end tests look for the build here.
export CARGO_TARGET_DIR := $(CURDIR)/target

MODULE := target/wasm32-wasip1/wasm/ipwarden.wasm

.DEFAULT_GOAL := help
.PHONY: help build binary module images run test test-stores lint bench bench-compare bench-micro bench-vm bench-service bench-million bench-block bench-spray bench-fleet-block bench-fleet-limit bench-pass bench-bodies bench-scale bench-log bench-log-outage ui screenshots seed-demo test-matrix tools clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

build: ui binary module ## build the service (target/release/ipwarden) and the filter's module

ui: ## build the dashboard, which the binary then holds (needs Node 20 or later)
	@.ci/tools ui

binary:
	cargo build --release -p ipwarden-control-plane

# The library has two crate types; with both in one build rustc silently drops LTO.
module: ## build the filter's module alone
	@.ci/tools wasi
	@CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="$$(.ci/remap)" \
	  cargo rustc --lib --crate-type cdylib --profile wasm --target wasm32-wasip1 -p ipwarden
	@cargo run --quiet -p ipwarden-trim -- $(MODULE)
	@printf '%s: %s KiB\n' $(MODULE) $$(($$(wc -c < $(MODULE)) / 1024))

images: ## pack the module and the control plane as OCI images, without a daemon (target/images)
	envoy/images.sh

run: ## start the demo: the control plane and a real Envoy with the filter
	@envoy/run-demo.sh

test: ## everything, in a real Envoy too; ends with one line of totals
	@.ci/test

test-matrix: binary module ## the end-to-end tests on every version of Envoy since 1.36, and a table
	@.ci/tools envoy
	E2E_BIN=target/release/ipwarden .ci/matrix

bench-bodies: binary module ## measure a gigabyte down and up through the filter, beside bare Envoy
	@.ci/tools envoy
	E2E_BIN=target/release/ipwarden cargo test -p ipwarden-e2e --test system -- --ignored --nocapture a_gigabyte

test-stores: ## the contracts of the stores on every store, and a table of them
	@.ci/stores

lint: ## format and lints, native and wasm
	@.ci/tools lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p ipwarden --lib --target wasm32-wasip1 -- -D warnings
	cargo clippy -p ipwarden --lib --test wasm --target wasm32-unknown-unknown -- -D warnings
	.ci/structure

screenshots: ui ## take a picture of each page: light and dark, desktop and phone (needs Chromium)
	cargo build --quiet -p ipwarden-control-plane --bins --example seed_demo
	node control-plane/ui/browser/screenshots.mjs

SEED_DIR ?= .ipwarden-seed
SEED_RECORDS ?= 10000000
seed-demo: ui ## fill SEED_DIR with SEED_RECORDS synthetic records, and time each view on them
	cargo build --release -p ipwarden-control-plane --bins --example seed_demo
	target/release/examples/seed_demo $(SEED_DIR) $(SEED_RECORDS)
	node control-plane/ui/browser/timings.mjs $(SEED_DIR)

BENCH ?=
bench: binary module ## what the filter costs Envoy beside its own filters, with budgets (BENCH="--scaling --parts" for more)
	@.ci/tools envoy
	E2E_BIN=$(CURDIR)/target/release/ipwarden cargo bench -p ipwarden-e2e --bench filter -- \
	  --save $(CURDIR)/target/bench.json $(BENCH)

SAVED ?= target/bench.json
bench-compare: binary module ## the same beside the figures in SAVED, which stay as they are
	@.ci/tools envoy
	E2E_BIN=$(CURDIR)/target/release/ipwarden cargo bench -p ipwarden-e2e --bench filter -- \
	  --compare $(abspath $(SAVED)) $(BENCH)

bench-micro: ## the filter's pure parts, natively
	cargo bench -p ipwarden --bench micro

bench-vm: binary ## the same parts inside the V8 of a real Envoy
	@.ci/tools wasi envoy
	cargo rustc --lib --crate-type cdylib --profile wasm --target wasm32-wasip1 -p ipwarden \
	  --features figures --target-dir target/figures
	E2E_BIN=target/release/ipwarden E2E_MODULE=target/figures/wasm32-wasip1/wasm/ipwarden.wasm \
	  cargo test -p ipwarden-e2e -- --ignored --nocapture the_pure_parts

bench-service: ## the service: durable ingest over HTTP, ten thousand waiting polls
	cargo bench -p ipwarden-control-plane --bench service

bench-million: binary module ## measure a million decisions in a real Envoy
	@.ci/tools envoy
	E2E_BIN=target/release/ipwarden cargo test -p ipwarden-e2e -- --ignored --nocapture a_million

bench-block: binary module ## measure the time from a block to its refusal by every worker
	@.ci/tools envoy
	E2E_BIN=target/release/ipwarden cargo test -p ipwarden-e2e -- --ignored --nocapture from_a_block

bench-spray: binary module ## measure two million networks against one attacker and the table of limits
	@.ci/tools envoy
	E2E_BIN=target/release/ipwarden cargo test -p ipwarden-e2e -- --ignored --nocapture two_million

bench-fleet-block: binary module ## measure the time from a block through one of two control planes to its refusal by four Envoys, and PostgreSQL's absence (needs PostgreSQL)
	@.ci/tools envoy
	E2E_BIN=target/release/ipwarden cargo test -p ipwarden-e2e --test system -- --ignored --nocapture --test-threads 1 shared_state::

bench-fleet-limit: binary module ## measure a limit over four Envoys, two control planes and a Redis
	@.ci/tools envoy
	E2E_BIN=target/release/ipwarden cargo test -p ipwarden-e2e --test system -- --ignored --nocapture a_hundred_a_minute

bench-pass: ## measure the detectors, ingest with and without them, and the pass over ten million records
	cargo run --release -p ipwarden-control-plane --example detect_figures

bench-log: ## fill SQLite with ten million records and ask what the dashboard and the pass ask (log_figures -- clickhouse://… does the same there)
	@mkdir -p target/figures && rm -f target/figures/log.db*
	cargo run --release -p ipwarden-control-plane --example log_figures -- sqlite:target/figures/log.db 10_000_000 10

bench-log-outage: ## 2 000 records a second, 60 s without ClickHouse
	cargo test --release -p ipwarden-control-plane --test cli -- --ignored --nocapture sixty_seconds

SCALE_PROXIES ?= 10000
SCALE_DECISIONS ?= 1000000
bench-scale: binary ## measure the service under SCALE_PROXIES polling proxies and SCALE_DECISIONS decisions
	cargo run --release -p ipwarden-control-plane --example scale_figures -- \
	  target/release/ipwarden $(SCALE_PROXIES) $(SCALE_DECISIONS)

tools: ## install every tool the other targets need into .tools/
	@.ci/tools

clean: ## remove the build and the tools; the demo's data (.ipwarden/) stays
	rm -rf target .tools
