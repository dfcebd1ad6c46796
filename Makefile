# Two commands do all: `make demo` and `make test`. Both set up what is missing first and may be run again.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

help:            ## what there is
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:           ## system packages (apt) and the virtual environment from uv.lock
	@scripts/setup

demo: setup      ## two clusters, a policy across them, real packets; leaves the lab up
	@.venv/bin/isthmus demo

clean-demo: setup ## take the demo's lab down
	@.venv/bin/isthmus lab delete --all

lint: setup      ## style, types, import rules
	@scripts/check

test: setup      ## lint, types, import rules and the whole test suite
	@scripts/check
	@scripts/run-tests

bench: setup     ## measure; prints tables (docs/benchmarks.md holds the last results)
	@scripts/run-in-sandbox .venv/bin/python -m benchmarks

.PHONY: help setup demo clean-demo lint test bench
