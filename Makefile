# What there is to do here: `make` lists it. Nothing else is needed beyond Python >= 3.11, a Rust toolchain, a C compiler and what these
# commands install: the Python packages of requirements-dev.lock into .venv, the Rust core into the source tree, and, as root on Debian and its
# like, the system packages that a test or benchmark runs against.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))) python3.11-or-newer)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CORE := $(VENV)/.core

# The profile of tests and clippy: most of the speed of `release` for a fraction of its build time.
QUICK := --locked --profile quick --workspace
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)
EXTENSION := $(wildcard python/vanrouter/_core*.so)

# One interpreter for every cargo command, otherwise each of them would build the bindings anew.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

# Random networks that `make test` simulates: about 30 ms of CPU each. VAN_SIMULATION_CASES=100 for less, =20000 after a change of routing.
export VAN_SIMULATION_CASES ?= 2000

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(CORE) ## two sites, one token, one exposed service, on this machine
	$(BIN)/van demo

.PHONY: test test-rust test-python test-cluster
test: test-rust test-python test-cluster ## all tests, Rust and Python; TEST_ARGS for pytest
	@echo "make test: passed. Not run: $$(cat $(NO_CLUSTERS))benchmarks (make bench)"

test-rust: $(INSTALLED)
	@.ci/need valgrind || echo "make test: instructions are not counted"
	cargo test $(QUICK) --no-fail-fast

test-python: $(CORE)
	@.ci/need ip=iproute2 nft=nftables pgbench=postgresql || echo "make test: tests that need these are skipped"
	$(BIN)/pytest -n 2 --dist worksteal $(if $(strip $(TEST_ARGS)),,-m "not api_server") $(TEST_ARGS)

# On real API servers and on two real Kubernetes clusters, after the others: those want the machine for themselves. Where clusters cannot be, or TEST_ARGS wants something
# else, the last line of `make test` says so; with VAN_CLUSTER_REQUIRED=1 (CI) it is an error that they cannot be.
NO_CLUSTERS := build/no-clusters
test-cluster: ## tests on two real Kubernetes clusters, which it builds (10 minutes, once); CLUSTER_ARGS for pytest
	@mkdir -p build
ifneq ($(strip $(TEST_ARGS)),)
	@printf 'tests on Kubernetes clusters (make test-cluster), ' >$(NO_CLUSTERS)
else
	@if why=$$(tests/cluster/build.sh --can); then \
		: >$(NO_CLUSTERS); \
		.ci/need nginx; \
		$(MAKE) image; \
		tests/cluster/build.sh; \
		VAN_CLUSTER_REQUIRED=1 $(BIN)/pytest -m api_server $(CLUSTER_ARGS); \
	else \
		printf 'tests on Kubernetes clusters (%s), ' "$$why" >$(NO_CLUSTERS); \
		[ -z "$${VAN_CLUSTER_REQUIRED:-}" ] || { echo "make test-cluster: $$why"; exit 1; }; \
	fi
endif

.PHONY: image
image: $(CORE) ## build/vanrouter-image.tar, the image of deploy/Containerfile without a container engine (as root on Debian)
	@.ci/need debootstrap
	rm -rf build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" maturin build --quiet --profile release --locked --out build/wheel
	$(BIN)/python deploy/image/build.py --wheel build/wheel/*.whl --out build/vanrouter-image.tar

.PHONY: soak
soak: $(CORE) ## faults and load at full size, also on two clusters, about 2 hours; SOAK_ARGS for pytest, for example -k black_hole
	.ci/need ip=iproute2 nft=nftables
	! tests/cluster/build.sh --can || { $(MAKE) image && tests/cluster/build.sh; }
	VANROUTER_LONG=1 $(BIN)/pytest --timeout 3600 tests/system/faults tests/conformance/test_scale.py tests/cluster/test_operations.py $(SOAK_ARGS)

.PHONY: bench
bench: $(CORE) ## compare with a direct connection, the baseline and what else people use; BENCH_ARGS=--help, SKROUTERD=path
	@.ci/need haproxy stunnel4 nginx wrk iperf3 ip=iproute2 pgbench=postgresql redis-benchmark=redis-tools redis-server h2load=nghttp2-client \
		go=golang-go pkg-config || echo "make bench: what needs these is left out"
	benches/peers/build.sh
	SKROUTERD="$(SKROUTERD)" $(BIN)/python -m benches $(BENCH_ARGS)
ifeq ($(strip $(BENCH_ARGS)),)
	$(BIN)/pytest benches --benchmark-disable-gc --benchmark-columns=median,iqr,ops,rounds
endif

.PHONY: bench-routing
bench-routing: $(CORE) ## what one change costs in networks of 10 to 1,000 interiors, 10,000 edges; BENCH_ARGS="--sizes 10,100 --sampled 100"
	$(BIN)/python -m benches.routing $(BENCH_ARGS)

.PHONY: bench-embed
bench-embed: $(CORE) ## streams of a Python program against ports and socket pairs; BENCH_ARGS="--rounds 3 --out figures.json"
	$(BIN)/python -m benches.embed $(BENCH_ARGS)

.PHONY: bench-kube
bench-kube: $(CORE) ## the marks of sites in Kubernetes, on two real clusters, about 15 minutes; BENCH_ARGS="--only operations --rounds 1"
	tests/cluster/build.sh --can
	$(MAKE) image
	tests/cluster/build.sh
	$(BIN)/python -m benches.kube $(BENCH_ARGS)

.PHONY: lint lint-style lint-types lint-imports lint-rustfmt lint-clippy
lint: lint-style lint-types lint-imports lint-rustfmt lint-clippy ## ruff, mypy, stubtest, import contracts, rustfmt, clippy
	@echo "make lint: passed"

lint-style: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@! grep -nE 'https?://|^ *--[^h]' requirements.lock requirements-dev.lock || { echo "a lock file names an index; see make lock"; exit 1; }

lint-types: $(CORE)
	$(BIN)/mypy
	MYPYPATH=tests/cluster:tests/system/faults:tests/system:tests:deploy/image $(BIN)/mypy -p benches
	MYPYPATH=deploy/image $(BIN)/mypy deploy/image/build.py
	$(BIN)/mypy examples
	$(BIN)/stubtest --concise --mypy-config-file pyproject.toml vanrouter._core

lint-imports: $(CORE)
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/light_imports.py

lint-rustfmt:
	cargo fmt --all --check

lint-clippy: $(INSTALLED)
	cargo clippy $(QUICK) --all-targets -- -D warnings

.PHONY: format
format: $(INSTALLED) ## bring Python and Rust sources into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	cargo fmt --all

.PHONY: setup
setup: $(CORE) ## only what the others begin with: .venv and the Rust core (release profile)

LOCKED := --quiet pyproject.toml --python-version 3.11 --universal --generate-hashes --no-header --no-annotate --no-emit-index-url
.PHONY: lock
lock: $(INSTALLED) ## renew the lock files after a change of pyproject.toml; LOCK_ARGS=--upgrade for newer releases
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet uv
	build/uv/bin/uv pip compile $(LOCKED) --group dev $(LOCK_ARGS) -o requirements-dev.lock
	build/uv/bin/uv pip compile $(LOCKED) --constraints requirements-dev.lock -o requirements.lock

.PHONY: clean
clean: ## remove what these commands made
	rm -rf build target $(VENV) python/vanrouter/_core*.so .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks

$(INSTALLED): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; name it: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/need --always python3-venv
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

# The extension counts as a source too: one that somebody built by hand, perhaps with another profile, is newer than the stamp and built again.
$(CORE): $(INSTALLED) pyproject.toml $(RUST) $(EXTENSION) $(if $(EXTENSION),,force)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings=build-args="--profile release --locked" --editable .
	touch $@

.PHONY: force
force:
