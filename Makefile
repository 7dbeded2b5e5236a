# make up     the whole service on this machine; Ctrl-C ends it
# make test   everything that CI runs, in some 14 minutes on two cores
# make site   the documentation, with the API reference, into .test/site
# make unit   the tests that need no server, in less than a minute
# make nightly   all tests, those that take minutes included, and the fault matrix with larger numbers: under two hours
# make weekly    that, and whatever can be had in large numbers: hours
# make faults   the fault matrix with large numbers (COUNT=10000, hours), into docs/reliability.md
# make lock   requirements/*.lock anew, from pyproject.toml: service (what `make up` runs), kafka-server (that, and the
#             server of `make up BROKER=kafka`), dev (all), test (the wheel)

PYTHON ?= python3
export PYTHON

# A test that hangs, and that even its timeout (pyproject.toml) does not end, shows where and ends the run.
export PYTEST_ON_A_HANG := -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true
# The tests wait most of the time, so there are more processes than cores. The tests of a file share servers and workers,
# so a file stays in one process; tests/conftest.py has their order. A process that is killed ends the run: with another in
# its place, --dist loadfile would wait for ever (xdist 3.8).
PROCESSES := 4
PYTEST := .venv/bin/python -m pytest --durations 10 $(PYTEST_ON_A_HANG) \
	--numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# The tests start hundreds of Pythons, each of which would compile the package anew where this is set.
test unit nightly weekly: export PYTHONDONTWRITEBYTECODE :=
COVERAGE := --cov tornado_celery_bridge --cov-report term:skip-covered

.DEFAULT_GOAL := up
.PHONY: up test lint types frontend site needs suite wheel versions unit nightly weekly faults lock .venv

up:
	@deploy/venv.sh $(if $(filter kafka,$(BROKER)),kafka-server,service)
	@exec .venv/bin/python -m tornado_celery_bridge up

.venv:
	@deploy/venv.sh dev

# Side by side. What the suite writes is seen at once (that is what + does), and each other's output whole, at its end.
test: .venv
	@$(MAKE) --no-print-directory --jobs --output-sync=target lint types frontend site wheel versions suite

# What only computes gives way to the suite, whose tests look at times.
lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-logo
types:
	nice .venv/bin/mypy
	nice .ci/pyright
frontend:
	nice .ci/frontend/check
site: needs
	nice .ci/site/build
wheel:
	.ci/wheel
versions:
	.ci/versions --short celery-5.4
needs:
	.venv/bin/python -m tests.needs
suite: needs
	+$(PYTEST) -m "not nightly" $(COVERAGE)

unit: .venv
	$(PYTEST) -m "not server and not up and not nightly"

nightly: .venv lint types frontend site wheel needs
	$(PYTEST) $(COVERAGE)
	.ci/pythons
	.ci/image
	.venv/bin/python -m tests.faults --count 500 --no-report
	.venv/bin/python -m tests.faults --count 500 --no-report --stock
	.venv/bin/python -m tests.faults --minutes 10 --no-report

weekly: nightly faults
	.ci/versions
	.venv/bin/python -m pytest -o timeout=0 --hypothesis-profile=long tests/ledger/test_states.py
	.venv/bin/python -m tests.transports.kills
	.venv/bin/python -m tests.conformance.kills
	.venv/bin/python -m tests.conformance

COUNT := 10000
faults: .venv
	.venv/bin/python -m tests.faults --count $(COUNT) --stock
	.venv/bin/python -m tests.faults --minutes 30
	.venv/bin/python -m tests.faults --count $(COUNT)

# uv resolves for every platform and every Python from 3.11 on at once, which pip cannot. It has an environment of
# its own: nothing needs it at run time. --no-emit-index-url: a lock names no registry.
UV := .test/uv/bin/uv
LOCK := $(UV) pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock'
SERVED := --extra service --extra kafka --extra activemq --group sample
lock:
	test -x $(UV) || { $(PYTHON) -m venv .test/uv && .test/uv/bin/python -m pip install --quiet 'uv>=0.13,<0.14'; }
	$(LOCK) $(SERVED) --group dev --output-file requirements/dev.lock
	$(LOCK) $(SERVED) --constraints requirements/dev.lock --output-file requirements/service.lock
	$(LOCK) $(SERVED) --group kafka-server --constraints requirements/dev.lock --output-file requirements/kafka-server.lock
	$(LOCK) --group test --constraints requirements/dev.lock --output-file requirements/test.lock
