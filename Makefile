# Everything a contributor does, one command each. Plain `make` lists them.

CARGO    ?= cargo
TARGET   := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
OSTRAKON := $(TARGET)/release/ostrakon
PLUGINS  := build/plugins
WASM     := wasm32-unknown-unknown
GUESTS   := block-bert block-llama exact-reference graph-block scheduler secret-sharing verifier
# Guests are built for their own target, in their own profile, and linted there.
HOSTED   := --workspace $(addprefix --exclude ,$(GUESTS))
# Paths of this machine do not belong into a component: its digest must not depend on them.
REMAP    := --remap-path-prefix=$(CURDIR)=/ostrakon --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
SENTENCES := examples/sentences.txt

.DEFAULT_GOAL := help
.PHONY: help setup toolchain openvino build run test chaos clients bench conformance kernels plugins fmt lint clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: toolchain openvino ## add the WebAssembly target to the Rust toolchain and fetch OpenVINO, if they are missing

toolchain:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust 1.95 or newer with rustup" >&2; exit 1; }
	@test -d "$$(rustc --print sysroot)/lib/rustlib/$(WASM)" || rustup target add $(WASM)

# Into the user's data directory, or that of OSTRAKON_HOME. Without it everything but one backend works.
openvino:
	@python3 host/nn/src/openvino/fetch.py

# The same selection as the tests, so that nothing is compiled twice with other features.
build: ## build the binary
	$(CARGO) build --release $(HOSTED)

plugins: toolchain build ## build the plugins and turn them into components, in build/plugins
	RUSTFLAGS="$(REMAP)" $(CARGO) build --profile plugin --target $(WASM) $(addprefix -p ,$(GUESTS))
	@mkdir -p $(PLUGINS)
	@for guest in $(GUESTS); do \
		"$(OSTRAKON)" plugin build "$(TARGET)/$(WASM)/plugin/$$(echo $$guest | tr - _).wasm" \
			--out "$(PLUGINS)/$$guest.wasm" || exit 1; \
	done

run: plugins openvino ## pack MiniLM if that was not done yet, compare a few sentences, then the same by a swarm of four nodes
	@"$(OSTRAKON)" inspect minilm >/dev/null 2>&1 || "$(OSTRAKON)" pack minilm
	@"$(OSTRAKON)" run minilm --input $(SENTENCES)
	@"$(OSTRAKON)" pack "$$("$(OSTRAKON)" --json inspect minilm | python3 -c 'import json,sys; print(json.load(sys.stdin)["path"])')" \
		--shards 3 --out build/packages/minilm-swarm >/dev/null
	@examples/swarm.sh "$(OSTRAKON)" "$(CURDIR)/build/packages/minilm-swarm" "$(CURDIR)/$(PLUGINS)" $(SENTENCES)

# The page is tested in a browser where one can be had; where not, that is said.
test: fmt-check lint kernels-check test-data ## check format and lints, then run every test
	-@[ -n "$$OSTRAKON_CHROMIUM" ] || tests/fetch-chromium.sh build/chromium
	OSTRAKON_PLUGINS="$(CURDIR)/$(PLUGINS)" OSTRAKON_HOME="$(CURDIR)/build/home" OSTRAKON_REQUIRE_OPENVINO=1 \
		$(CARGO) test --release $(HOSTED)

chaos: test-data ## the tests in which machines die, at full length: 1000 jobs, 500 private runs
	OSTRAKON_PLUGINS="$(CURDIR)/$(PLUGINS)" OSTRAKON_HOME="$(CURDIR)/build/home" OSTRAKON_CHAOS_JOBS=1000 \
		$(CARGO) test --release $(HOSTED) --test chaos jobs -- --nocapture
	OSTRAKON_PLUGINS="$(CURDIR)/$(PLUGINS)" OSTRAKON_HOME="$(CURDIR)/build/home" OSTRAKON_CHAOS_JOBS=500 \
		$(CARGO) test --release $(HOSTED) --test chaos private -- --nocapture

# Tests and benchmarks keep keys, downloads and compiled code under build, away from the user's own.
test-data: export OSTRAKON_HOME = $(CURDIR)/build/home
test-data: plugins openvino
	"$(OSTRAKON)" pack minilm --out build/packages/minilm-1
	@for n in 2 3 6; do "$(OSTRAKON)" pack build/packages/minilm-1 --shards $$n --out build/packages/minilm-$$n || exit 1; done
	"$(OSTRAKON)" pack smollm2 --out build/packages/smollm2-1
	@for model in magika ppocr-direction ppocr-recogniser; do \
		"$(OSTRAKON)" pack $$model --out build/packages/$$model || exit 1; done
	@test -f build/data/lee.cor || tests/fetch-data.sh build/data

clients: export OSTRAKON_HOME = $(CURDIR)/build/home
clients: test-data ## run clients that others wrote, a browser among them, against `ostrakon serve`
	tests/clients/clients.sh "$(OSTRAKON)" build/packages/smollm2-1 build/packages/minilm-1
	@[ -n "$$OSTRAKON_CHROMIUM" ] || tests/fetch-chromium.sh build/chromium
	OSTRAKON_PLUGINS="$(CURDIR)/$(PLUGINS)" OSTRAKON_REQUIRE_CHROMIUM=1 $(CARGO) test --release $(HOSTED) --test serve page::

conformance: plugins openvino ## hold every operation on this machine against the scalar reference, on each backend
	"$(TARGET)/release/conformance" --backend cpu
	"$(TARGET)/release/conformance" --backend openvino

bench: export OSTRAKON_HOME = $(CURDIR)/build/home
bench: test-data ## measure against the engines people use today
	"$(TARGET)/release/audit-cost" build/packages/minilm-1 "$(CURDIR)/$(PLUGINS)"
	"$(TARGET)/release/fleet-bench" "$(CURDIR)/$(PLUGINS)"
	"$(TARGET)/release/swarm-bench" "$(OSTRAKON)" build/packages/minilm-3 "$(CURDIR)/$(PLUGINS)"
	$(CARGO) build --release $(HOSTED) -q --example audit_speed --bench operations --bench decode
	"$(TARGET)/release/examples/audit_speed"
	$(CARGO) bench $(HOSTED) -q --bench operations --bench decode
	OSTRAKON_PLUGINS="$(CURDIR)/$(PLUGINS)" tests/peers/bench.sh "$(OSTRAKON)" "$(TARGET)/release/embed-peer" build/packages/minilm-1
	OSTRAKON_PLUGINS="$(CURDIR)/$(PLUGINS)" tests/peers/decode.sh "$(TARGET)/release/generate-peer" build/packages/smollm2-1

kernels: ## compile the CUDA kernels to the PTX that the binary ships, and hold it against the rules of exactness
	python3 host/nn/src/cuda/ptx.py build
	python3 host/nn/src/cuda/ptx.py check

# 3: there is no compiler for this machine, or no network to fetch it.
.PHONY: fmt-check kernels-check test-data
kernels-check: export OSTRAKON_HOME = $(CURDIR)/build/home
kernels-check:
	python3 host/nn/src/cuda/ptx.py check || [ $$? -eq 3 ]

fmt-check:
	$(CARGO) fmt --all --check

fmt: ## format the sources
	$(CARGO) fmt --all

lint: toolchain ## clippy, warnings are errors
	$(CARGO) clippy --release $(HOSTED) --all-targets -- -D warnings
	$(CARGO) clippy --profile plugin --target $(WASM) $(addprefix -p ,$(GUESTS)) -- -D warnings

clean: ## remove what was built (packages, keys and downloads stay where `ostrakon doctor` says)
	$(CARGO) clean
	rm -rf build
