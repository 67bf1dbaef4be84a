# One way to do each chore. PYTHON=python3.12 chooses the interpreter; ARGS="…" is passed on to the command.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NODE := tests/interop/node
HOT := $(shell find src -name '*.pxd' -o -name '*.pyx')
BUILT_FROM := pyproject.toml setup.py $(HOT) $(wildcard $(HOT:.pxd=.py))

# Most tests wait for the network more than they compute: several at a time, and those that want the machine afterwards.
JOBS ?= 3
TESTS = $(if $(ARGS),$(BIN)/python -m pytest $(ARGS),$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not alone" && \
	$(BIN)/python -m pytest -q -m alone)

.PHONY: run test fuzz lint long bench autobahn build clean

run: $(VENV)/portico.stamp
	$(BIN)/portico demo $(ARGS)

test: build/system.stamp $(VENV)/portico.stamp $(VENV)/tools.stamp $(NODE)/node_modules/.package-lock.json
	$(TESTS)
	export PORTICO_PURE=1; $(TESTS)

fuzz: $(VENV)/portico.stamp $(VENV)/tools.stamp
	$(BIN)/python -m fuzz $(ARGS)

lint: $(VENV)/portico.stamp $(VENV)/tools.stamp
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy --strict src

bench: $(VENV)/portico.stamp $(VENV)/tools.stamp $(NODE)/node_modules/.package-lock.json
	$(BIN)/python -m pip install -q --group bench
	$(BIN)/python bench/run.py $(ARGS)
	$(if $(ARGS),,$(BIN)/python bench/clients.py --document bench/results/$(shell date +%F)-clients.md)

long: $(VENV)/portico.stamp $(VENV)/tools.stamp
	PORTICO_LONG=1 $(BIN)/python -m pytest -s $(shell grep -rl --include='test_*.py' PORTICO_LONG tests) $(ARGS)
	PORTICO_LONG=1 PORTICO_PURE=1 $(BIN)/python -m pytest tests/client/test_reconnect_simulated.py tests/hostile/test_headers.py $(ARGS)

autobahn: $(VENV)/portico.stamp
	$(BIN)/python tests/autobahn/run.py $(ARGS)

build: $(VENV)/tools.stamp
	$(BIN)/python -m pip install -q build
	$(BIN)/python -m build $(ARGS)

clean:
	rm -rf $(VENV) build bench/.build dist src/*.egg-info $(NODE)/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests bench '(' -name '*.so' -o -name '*.pyd' -o -name __pycache__ ')' -prune -exec rm -rf {} + 2>/dev/null || true

# What the chores stand on. Each stamp is newer than what it was made from; the environment holds them all, so that
# another PYTHON, which begins a new environment, makes them again.
MADE := $(VENV)/python-$(subst /,_,$(PYTHON)).stamp

$(MADE):
	$(PYTHON) -c 'import sys; sys.exit("Portico needs Python 3.11 or newer: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/portico.stamp: $(MADE) $(BUILT_FROM)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/tools.stamp: $(MADE) pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -q --group test --group lint
	touch $@

build/system.stamp: scripts/system-packages.sh
	PYTHON=$(PYTHON) scripts/system-packages.sh
	mkdir -p build && touch $@

$(NODE)/node_modules/.package-lock.json: $(NODE)/package.json $(NODE)/package-lock.json
	cd $(NODE) && npm ci --silent --no-audit --no-fund && touch node_modules/.package-lock.json
