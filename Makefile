# Two commands for a fresh checkout: `make demo` and `make test`. Everything is set up in .venv and target/.
PYTHON ?= python3
# .venv is for python3; another one, as in `make PYTHON=python3.12 test`, has its own beside it, so both can be kept.
ifeq ($(PYTHON),python3)
VENV := .venv
else
VENV := target/venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
MEASURING := $(VENV)/.measuring
# What needs neither a broker nor other processes, and takes no more than milliseconds for each test.
PURE := not kafka and not processes and not simulation
# What starts processes or a broker and mostly waits for them: beside the rest it would starve, but four go well together.
WAITING := kafka or processes
# For `make matrix`: the versions to look for, where besides PATH, and which tests.
VERSIONS := 3.11 3.12 3.13 3.14
PYENV_ROOT ?= $(HOME)/.pyenv
MARKED := $(PURE)

.DEFAULT_GOAL := help
.PHONY: help demo test check browser postgresql pure matrix lint format bench bench-check chaos clean

help: ## Show what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY) ## Run the banking simulation: two supervised workers, killed as they run, audited. No Kafka needed.
	$(PY) -m examples.banking

test: $(READY) lint browser postgresql ## Run the whole test suite, a real Apache Kafka included (Java and Maven are needed).
	$(PY) -m pytest -n auto --dist worksteal -m "not ($(WAITING))"
	$(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "$(WAITING)"

check: $(READY) lint ## The quick half: style, types, pure tests. Under a minute, no broker.
	$(PY) -m pytest -n auto --dist worksteal -m "$(PURE)"

# A CI machine may be changed, a person's is not: there the test of the page is skipped without a browser.
browser:
	@for name in chromium-headless-shell chromium chromium-browser google-chrome; do \
		if command -v $$name >/dev/null; then exit 0; fi; \
	done; \
	if [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium-headless-shell >/dev/null; \
	else \
		echo "No Chromium: the tests of the documentation page need one, such as Debian's chromium-headless-shell." >&2; \
	fi

# As with the browser: there the tests of PostgreSQL are skipped without it.
postgresql:
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; then \
		exit 0; \
	elif [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql >/dev/null; \
	else \
		echo "No PostgreSQL: the tests of projections need one, such as Debian's postgresql." >&2; \
	fi

pure: $(READY)
	$(PY) -m pytest -n auto --dist worksteal -m "$(MARKED)"

# A name on PATH may be a shim of pyenv that leads nowhere: so each one is asked for its version.
matrix: ## The pure tests on every Python from 3.11 to 3.14 that PATH or pyenv has; others: MARKED="processes and not kafka".
	@passed= ; failed= ; missing= ; \
	for version in $(VERSIONS); do \
		found= ; \
		for python in python$$version $(PYENV_ROOT)/versions/$$version.*/bin/python; do \
			if [ "$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = $$version ]; then \
				found=$$python; break; \
			fi; \
		done; \
		if [ -z "$$found" ]; then missing="$$missing $$version"; continue; fi; \
		echo "== $$($$found --version): $$found"; \
		if $(MAKE) --no-print-directory PYTHON=$$found VENV=target/venv-$$version pure; \
		then passed="$$passed $$version"; else failed="$$failed $$version"; fi; \
	done; \
	echo "== passed:$${passed:- none}; failed:$${failed:- none}; not found:$${missing:- none}"; \
	[ -z "$$failed" ] && [ -n "$$passed" ]

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(READY) ## Format, and fix what the tools can fix.
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

chaos: $(READY) ## Break a real Kafka and real workers by a seed (MINUTES=2, SEED=1), kill at every point (ROUNDS=20), fire 100,000 timers at once, fuzz (INPUTS=1000000), compare the logs.
	$(PY) -m tests.campaigns.chaos --minutes $(or $(MINUTES),2) --seed $(or $(SEED),1)
	$(PY) -m tests.campaigns.chaos --minutes $(or $(MINUTES),2) --seed $(or $(SEED),1) --bank
	$(PY) -m tests.campaigns.chaos --minutes $(or $(MINUTES),2) --seed $(or $(SEED),1) --shop
	REPERTORY_KILL_ROUNDS=$(or $(ROUNDS),20) $(PY) -m pytest tests/bridge/test_kill_matrix.py tests/bridge/test_kill_matrix_asks.py tests/bridge/test_kill_matrix_timers.py tests/bridge/test_kill_matrix_effects.py
	REPERTORY_KILL_ROUNDS=$(or $(ROUNDS),20) $(PY) -m pytest tests/bridge/test_kill_matrix_sagas.py
	REPERTORY_PROJECTION_SEEDS=$(or $(SEEDS),2000) $(PY) -m pytest -o timeout=900 -n 2 tests/repertory/simulation/test_projections.py
	REPERTORY_SAGA_SEEDS=$(or $(SEEDS),2000) $(PY) -m pytest -o timeout=900 -n auto tests/repertory/simulation/test_sagas.py
	KILLED_DELIVERY=at-least-once PAYING_DELIVERY=at-least-once RINGING_DELIVERY=at-least-once ERRANDS_DELIVERY=at-least-once REPERTORY_KILL_ROUNDS=2 $(PY) -m pytest tests/bridge/test_kill_matrix.py tests/bridge/test_kill_matrix_asks.py tests/bridge/test_kill_matrix_timers.py tests/bridge/test_kill_matrix_effects.py
	REPERTORY_TIMERS=100000 $(PY) -m pytest -o timeout=900 tests/bridge/test_many_timers.py
	$(PY) -m tests.campaigns.fuzz --inputs $(or $(INPUTS),1000000) --sockets 5000 --seed $(or $(SEED),1)
	REPERTORY_DIFFERENTIAL=$(or $(HISTORIES),200) $(PY) -m pytest tests/bridge/log/test_differential.py
	REPERTORY_RECORDED_KILLS=$(or $(KILLS),40) $(PY) -m pytest tests/bridge/log/test_recorded.py

bench: $(MEASURING) ## Measure all on a Kafka of its own, Kafka Streams, Quix Streams and Faust beside it (an hour, on a machine with nothing else to do), and write docs/performance.rst.
	$(PY) -m benchmarks $(BENCH)

bench-check: $(READY) ## Name each ratio that became worse by more than a tenth since the last `make bench` (ten minutes).
	$(PY) -m benchmarks.check

clean: ## Remove what make has set up.
	rm -rf $(VENV) target build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(MEASURING): $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]' --config-settings editable_mode=compat
	@touch $@

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "repertory needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --config-settings editable_mode=compat
	@touch $@
