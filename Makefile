# One entry for everyone. `make test` is what CI runs; it and `demo` install what they need from Debian's packages.

TARGET  := $(shell rustc -vV | sed -n 's/^host: //p')
RELEASE := $(CURDIR)/target/$(TARGET)/release
PREFIX  ?= /usr/local
UNITS   ?= /etc/systemd/system
BENCH   ?= help

export PONTOON_BIN ?= $(RELEASE)/pontoon
export PONTOON_WEB ?= $(RELEASE)/web

.PHONY: help deps build check unit sim fuzz conformance e2e test demo demo-end bench install clean

help:
	@echo "make demo                     three hosts on this machine, one cluster, one stack (KEEP=1 leaves it up)"
	@echo "make test                     all checks and tests; needs root for the end-to-end tests"
	@echo "make check                    format, lints, documentation"
	@echo "make unit | make e2e          the tests without | with hosts"
	@echo "make fuzz SECONDS=60          mutated input for each target that long; FUZZ_SEED=n replays what one has named"
	@echo "make sim SEEDS=10000           the control plane simulated, with faults; SEED=n replays one seed with its trace"
	@echo "make conformance              the OCI runtime specification, case by case, on ours and on runc; CASES='names' picks"
	@echo "make bench BENCH='name args'  one figure; BENCH=help lists them"
	@echo "make install PREFIX=/usr/local"

deps:
	@deploy/install-deps.sh build test

build:
	cargo build --release -p pontoon -p pontoon-tests --bins

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --quiet

unit:
	cargo test --workspace --exclude pontoon-tests
	cargo test -p pontoon-tests --test dependencies

# The targets are tests that `unit` runs as well, for a fixed set of inputs.
SECONDS ?= 60
fuzz:
	FUZZ_SECONDS=$(SECONDS) cargo test -p pontoon-identity --test fuzz -- --nocapture
	FUZZ_SECONDS=$(SECONDS) cargo test -p pontoon-store --test fuzz -- --nocapture
	FUZZ_SECONDS=$(SECONDS) cargo test -p pontoon-raft --lib -- fuzz --nocapture
	FUZZ_SECONDS=$(SECONDS) cargo test -p pontoon-controller --lib -- fuzz --nocapture
	FUZZ_SECONDS=$(SECONDS) cargo test -p pontoon-controller --test hostile -- --nocapture
	FUZZ_SECONDS=$(SECONDS) cargo test -p pontoon-agent --lib -- fuzz --nocapture

# Part of `unit` too.
sim:
	cargo test -p pontoon-sim $(if $(SEED)$(SEEDS),--test seeds no_seed) -- --nocapture

# Part of `unit` too, on the runtime's own test program; here on the program that users get. Without runc there is nothing to compare with.
conformance: build
	PONTOON_CONFORMANCE_BIN=$(PONTOON_BIN) cargo test -p pontoon-runtime --test conformance -- $(CASES)

# Every test makes hosts of its own; more than two at a time only make each other slow on two cores.
e2e: build
	cargo test -p pontoon-tests --no-fail-fast -- --test-threads=2

test: deps check unit e2e

demo:
	@deploy/install-deps.sh build demo
	@$(MAKE) --no-print-directory build
	@$(RELEASE)/demo

demo-end:
	@$(RELEASE)/demo end

bench:
	@deploy/install-deps.sh build bench
	@$(MAKE) --no-print-directory build
	@$(RELEASE)/bench $(BENCH)

install: build
	install -D -m 0755 $(RELEASE)/pontoon $(DESTDIR)$(PREFIX)/bin/pontoon
	install -d $(DESTDIR)$(UNITS)
	sed 's|@PREFIX@|$(PREFIX)|g' deploy/pontoon.service >$(DESTDIR)$(UNITS)/pontoon.service

clean:
	cargo clean
