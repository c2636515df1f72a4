# Every target does its own set-up: Python 3.11, pip and make are enough.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
BENCH_STAMP = $(VENV)/.installed-bench
NODE_PEER = tests/benchmarks/peers/node
NODE_STAMP = $(NODE_PEER)/node_modules/.installed
NPM_STAMPS = tests/browser/node_modules/.installed tests/js/node_modules/.installed tests/interop/node_modules/.installed

.PHONY: demo test test-all attacks check bench docs screenshots rolling-restart autobahn clean

demo: $(STAMP)
	$(BIN)/trioserver demo $(ARGS)

test: $(STAMP) $(NPM_STAMPS)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

# The suite on every Python of 3.11 and up that is found: on PATH, and those of pyenv and uv, the newest
# of each minor version. ARGS=--ends takes the oldest and the newest only, ARGS=--list lists them.
test-all:
	@command -v $(PYTHON) >/dev/null || { echo "trioserver needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@MAKE="$(MAKE)" $(PYTHON) -m tests.pythons $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m protocol.generate --check

# Attacks real servers, in some six minutes on two idle cores, and writes what their good clients saw
# into docs/operating.md. ARGS="-k clock" is one of them; FIGURES= writes nothing.
FIGURES ?= --write-figures
attacks: $(STAMP)
	$(BIN)/python -m pytest -m attack --capture no --quiet $(FIGURES) $(ARGS) tests/attacks tests/websocket/test_hostile.py

# Measures this server and its peers, and writes docs/benchmarks.md. ARGS=--quick tries it out.
bench: $(BENCH_STAMP) $(NODE_STAMP)
	$(BIN)/python -m tests.benchmarks $(ARGS)

# Writes what is generated from the code: schemas, AsyncAPI document, tables, the list of options, and
# the picture of the rooms.
docs: $(STAMP)
	$(BIN)/python -m protocol.generate
	$(BIN)/trioserver config --markdown > docs/configuration.md
	$(BIN)/python -m tests.docs.architecture

# Takes the pictures of docs/systems.md, with Chromium.
screenshots: $(STAMP)
	$(BIN)/python -m tests.browser.screenshots

# Restarts a server under load, and writes what its clients saw into docs/operating.md.
rolling-restart: $(STAMP)
	$(BIN)/python -m tests.server.operations.rolling_restart

# Autobahn's fuzzing client against the data plane, which wants a Python 2.7; PYTHON27 may say where.
autobahn: $(STAMP)
	$(BIN)/python -m tests.autobahn.fuzz

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "trioserver needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "trioserver needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

# Native parts are built here: nothing is downloaded that somebody else has built.
$(NODE_STAMP): $(NODE_PEER)/package.json
	@if ! command -v npm >/dev/null; then echo "npm is missing: the benchmarks leave Node.js out"; exit 0; fi; \
	cd $(NODE_PEER) && npm install --silent --ignore-scripts --no-audit --no-fund --no-package-lock \
	&& { npm rebuild --silent --build-from-source || echo "npm could not build better-sqlite3 and bufferutil"; } \
	&& touch node_modules/.installed || echo "npm has failed: the benchmarks leave Node.js out"

# What tests need of npm: axe-core judges the pages' accessibility, Ajv compiles the schemas. Without
# npm those tests are skipped.
$(NPM_STAMPS): %/node_modules/.installed: %/package.json
	@if ! command -v npm >/dev/null; then echo "npm is missing: tests that need $* are skipped"; exit 0; fi; \
	cd $* && npm install --silent --ignore-scripts --no-audit --no-fund --no-package-lock \
	&& touch node_modules/.installed || echo "npm has failed: tests that need $* are skipped"

clean:
	rm -rf $(VENV) .venvs $(NODE_PEER)/node_modules tests/browser/node_modules tests/js/node_modules tests/interop/node_modules .venv-autobahn .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
