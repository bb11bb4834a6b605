# make demo   build the package into .venv and compare two policies on a recorded kernel
# make test   build, and run the tests: all on $(PYTHON), the core's on every other interpreter here
# make lint   style, spelling, types;  make sanitize   the pool's locks under sanitizers
# make fuzz   every reader of traces under a fuzzer that sees into the compiled ones (needs clang); FUZZ_MINUTES=10 each
# make bench, make test-long, make clean

PYTHON ?= python3
VENV := .venv
SOURCES := pyproject.toml meson.build meson.options $(shell find src -type f -not -name '*.pyc')
PIP := -q --disable-pip-version-check
CORE_TESTS := tests/test_vectors.py tests/test_rules.py tests/test_operations.py tests/test_misuse.py \
	tests/test_threads.py

.PHONY: demo test test-main test-others test-long lint sanitize fuzz bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/lab
	@echo '$$ pcpbuddy compare recordings/affinity-cut-4c --policy mainline,fixed'
	@$(VENV)/bin/pcpbuddy compare recordings/affinity-cut-4c --policy mainline,fixed

# Two at a time: the other interpreters build and run while the main one does.
test:
	@$(MAKE) --no-print-directory -j2 -Oline test-main test-others

test-main: $(VENV)/test
	$(VENV)/bin/python -m pytest

# Each in an environment of its own, .venv-3.12 and so on; those without headers or venv are left out.
test-others: $(VENV)/test
	@main=$$($(VENV)/bin/python tools/tag.py); \
	tools/interpreters.sh | while read -r python; do \
	  tag=$$($$python tools/tag.py); [ "$$tag" != "$$main" ] || continue; \
	  echo "== Python $$tag"; \
	  $(MAKE) -s VENV=.venv-$$tag PYTHON=$$python .venv-$$tag/core-test || exit 1; \
	  .venv-$$tag/bin/python -m pytest $(CORE_TESTS) || exit 1; \
	done

test-long: $(VENV)/test
	PCPBUDDY_LONG=1 $(VENV)/bin/python -m pytest
	$(MAKE) sanitize SANITIZE="20 3"

lint: $(VENV)/lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint src/pcpbuddy/*/*.pyx src/pcpbuddy/*/*.pxd src/pcpbuddy/*/*.pxi
	$(VENV)/bin/codespell README.md CHANGELOG.md docs src tests bench examples tools recordings/README.md
	$(VENV)/bin/mypy src/pcpbuddy

# The pool's locks under the thread, address and undefined-behaviour sanitizers; SANITIZE="SECONDS SEEDS" for longer.
sanitize: $(VENV)/lint
	PYTHON=$(VENV)/bin/python CYTHON=$(VENV)/bin/cython tools/sanitize.sh $(SANITIZE)

# FUZZ: some readers ("tracefs dat7"), or a finding to try again; FUZZ_JOBS: readers at the same time.
FUZZ_MINUTES ?= 10
FUZZ_JOBS ?= 1
fuzz: $(VENV)/fuzz
	nice $(VENV)/bin/python tests/fuzz/run.py --minutes $(FUZZ_MINUTES) --jobs $(FUZZ_JOBS) $(FUZZ)

bench: $(VENV)/bench
	$(VENV)/bin/python bench/run.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pcpbuddy needs Python 3.11 or newer; $(PYTHON) is older. Use: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "pcpbuddy needs a C compiler; set CC to it" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per extra: the package is built again when a source is newer.
$(VENV)/lab $(VENV)/test $(VENV)/core-test $(VENV)/fuzz $(VENV)/bench: $(VENV)/%: $(SOURCES) | $(VENV)/bin/python
	@echo "Building pcpbuddy into $(VENV) (two to four minutes) ..."
	@$(VENV)/bin/python -m pip install $(PIP) '.[$*]'
	@touch $@

$(VENV)/lint: pyproject.toml | $(VENV)/bin/python
	@$(VENV)/bin/python -m pip install $(PIP) 'ruff>=0.9' 'cython-lint>=0.16' 'codespell>=2.3' 'mypy>=1.13' numpy rich pyarrow-stubs
	@touch $@

clean:
	rm -rf .venv .venv-* build
