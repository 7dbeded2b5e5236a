# make up     the whole service on this machine; Ctrl-C ends it
# make test   everything that CI runs
# make faults   the fault matrix with large numbers (COUNT=10000, hours), into docs/reliability.md
# make lock   requirements/*.lock anew, from pyproject.toml: service (what `make up` runs), kafka-server (that, and the
#             server of `make up BROKER=kafka`), dev (all), test (the wheel)

PYTHON ?= python3
export PYTHON

# A test that hangs, and that even its timeout (pyproject.toml) does not end, shows where and ends the run. And so does a
# process of xdist's that is killed: with another in its place, --dist loadfile would wait for ever (xdist 3.8).
export PYTEST_ON_A_HANG := -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true

.DEFAULT_GOAL := up
.PHONY: up test faults lock .venv

up:
	@deploy/venv.sh $(if $(filter kafka,$(BROKER)),kafka-server,service)
	@exec .venv/bin/python -m tornado_celery_bridge up

.venv:
	@deploy/venv.sh dev

test: .venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	.venv/bin/python -m tests.needs
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		--max-worker-restart 0 $(PYTEST_ON_A_HANG)
	.ci/wheel

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
