# make up     the whole service on this machine; Ctrl-C ends it
# make test   everything that CI runs
# make lock   works requirements/*.lock out anew from pyproject.toml

PYTHON ?= python3
export PYTHON

.DEFAULT_GOAL := up
.PHONY: up test lock .venv

up:
	@deploy/venv.sh service
	@exec .venv/bin/python -m deploy.up

.venv:
	@deploy/venv.sh dev

test: .venv
	.venv/bin/python -m deploy.check

# uv resolves for every platform and every Python from 3.11 on at once, which pip cannot. It has an environment of
# its own: nothing needs it at run time. --no-emit-index-url: a lock names no registry.
UV := .test/uv/bin/uv
COMPILE := $(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' --extra service
lock:
	test -x $(UV) || { $(PYTHON) -m venv .test/uv && .test/uv/bin/python -m pip install --quiet 'uv>=0.13,<0.14'; }
	$(COMPILE) --upgrade --output-file requirements/service.lock
	$(COMPILE) --upgrade --group dev --constraints requirements/service.lock --output-file requirements/dev.lock
