# The gates, one word each.
.PHONY: check lint types test bench figures

check: lint types test

lint:
	ruff check . && ruff format --check .

types:
	mypy

test:
	pytest

bench:
	livebrush bench

figures:
	python -m tools.figures
