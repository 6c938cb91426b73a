# Two commands do all the set-up: `make demo` and `make test`. VENV=path reuses an environment.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
# processes that test at once, one thread each: one more than CPUs, since some tests wait
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n + 1 : 4)))
# bytecode is kept whatever the environment says: tens of processes import the same modules
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
STAMP := $(VENV)/.faceveil-installed

.PHONY: demo test quick lint chromium bench install clean
install: $(STAMP)

$(STAMP): pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(PY) main.py fit --config demo.yaml --overwrite

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --cache-dir $(VENV)/.mypy_cache .

# mypy works beside the tests; its last line follows theirs. What it learnt of other packages stays where these are
test: $(STAMP) chromium
	@start=$$(date +%s); types=$$(mktemp); \
	$(PY) -m ruff check . && $(PY) -m ruff format --check . || exit 1; \
	$(PY) -m mypy --cache-dir $(VENV)/.mypy_cache . >$$types 2>&1 & mypy=$$!; \
	$(PYTEST); tests=$$?; \
	wait $$mypy; wrong=$$?; \
	echo "mypy: $$(cat $$types)"; rm -f $$types; \
	echo "make test: $$(($$(date +%s) - start)) s with ruff and mypy"; \
	test $$tests -eq 0 && test $$wrong -eq 0

# for after every change: without mypy and the tests that start processes
quick: $(STAMP)
	$(PY) -m ruff check .
	$(PYTEST) -m "not slow"

# report.html is tested in a browser where there is one: CI fetches it, nobody else's machine is touched
chromium:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && ! command -v chromium >/dev/null; then \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >/dev/null 2>&1 \
	  || echo "chromium could not be installed: the test that needs it is skipped"; fi

bench: $(STAMP)
	$(PY) -m benchmarks

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
