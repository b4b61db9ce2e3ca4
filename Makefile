# make run    a daemon on ./store, with a short live demonstration
# make test   everything CI runs: ruff, mypy --strict, pytest
# make test-zmq   the tests again, with clients that go by ZeroMQ
# make check  ruff and mypy alone
# make bench  figures, side by side with what they are measured against
# make bench-full   the same with objects of 256 MiB and 1 GiB, and more rounds
# make campaign   the long campaigns behind the README's figures on reliability, some forty minutes
PYTHON ?= python3
BIN := .venv/bin
RUNS := .venv/.runs
READY := .venv/.ready
MEASURES := .venv/.measures

.PHONY: run test test-zmq check bench bench-full campaign

$(RUNS): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "storekeeper needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[daemon,cli]'
	@touch $@

$(READY): $(RUNS)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(MEASURES): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

run: $(RUNS)
	@exec $(BIN)/python tests/demonstration.py store

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST)

test-zmq: $(READY)
	STOREKEEPER_CARRIER=zmq $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST)

bench: $(MEASURES)
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH)

bench-full: $(MEASURES)
	PYTHONPATH=tests $(BIN)/python -m bench --full --rounds 9 $(BENCH)

campaign: $(READY)
	$(BIN)/python -m pytest -s -p no:warnings tests/test_faults.py tests/test_power_cut.py tests/test_hostile.py \
	    tests/test_kills.py tests/test_dead_clients.py tests/test_interruptions.py tests/test_soak.py \
	    --fuzz 200000 --short-lived 100000 --kills 300 --dead-clients 1000 --interruptions 5000 --clients 20000 --minutes 10
	PYTHONPATH=tests $(BIN)/python tests/floods.py table
	PYTHONPATH=tests $(BIN)/python -m bench --only durable
