# Each target makes what it needs. Needs Python 3.10+, Rust, gcc and make; the network is used for the package indexes only.
PYTHON ?= python3
BIN := .venv/bin
SEEDS ?= 20000
KILLS ?= 60
EXTRAS := cpu,train,eval,test,dev
SOURCES := $(shell find rust_core Cargo.toml Cargo.lock -name '*.rs' -o -name 'Cargo.*')

.PHONY: quickstart quickstart-full test lint fuzz kill bench results clean

quickstart: .venv/ready  ## set up, then distil and measure a student on a small real collection (about 5 minutes)
	$(BIN)/python scripts/quickstart.py

quickstart-full: .venv/ready  ## the same, but trains the teacher too instead of taking its shipped scores
	$(BIN)/python scripts/quickstart.py --train-teacher

test: .venv/ready  ## set up, then run the tests
	$(BIN)/python -m pytest
	$(BIN)/python -c "import rankdistill"

lint: .venv/ready  ## formatters, linters, type checkers, import contracts
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml rankdistill._core
	$(BIN)/lint-imports

fuzz: .venv/ready  ## generated and damaged inputs for every parser and store (SEEDS of each target); `make test` tries a few
	$(BIN)/python scripts/fuzz.py --seeds $(SEEDS)

kill: .venv/ready  ## kill every command that writes before its system calls that write, KILLS times each (0: before all)
	$(BIN)/python -m tests.kill --most $(KILLS) --output eval/results/kill.json

bench: .venv/ready  ## the benchmarks, against their peers
	$(BIN)/uv pip install -q -p $(BIN)/python -e ".[bench]"
	$(BIN)/python scripts/bench_scores.py
	$(BIN)/python scripts/bench_merge.py
	$(BIN)/python scripts/bench_batches.py
	$(BIN)/python scripts/bench_training.py
	$(BIN)/python scripts/bench_exits.py
	$(BIN)/python scripts/bench_encode.py
	$(BIN)/python scripts/bench_trie.py
	$(BIN)/python scripts/bench_decoding.py
	$(BIN)/python scripts/bench_linking.py

results: .venv/ready  ## docs/results.md and docs/robustness.md from eval/results/*.json
	$(BIN)/python scripts/render_results.py
	$(BIN)/python scripts/render_robustness.py

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q uv

# uv installs several GB of wheels in a minute where pip takes five; the system's certificates are what pip uses too.
.venv/ready: .venv/bin/uv pyproject.toml $(SOURCES)
	UV_SYSTEM_CERTS=1 $(BIN)/uv pip install -q -p $(BIN)/python -e ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf .venv target runs dist rankdistill/*.so
