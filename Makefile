# `make demo` and `make test` each do all that is needed on a fresh clone with Python >= 3.10 and make.
#
#   make demo [DEMO_OUT=DIR]      the whole way on a made-up cohort
#   make test                     the tests; `make test-slow` the slow ones
#   make check                    ruff and mypy
#   make bench                    all benchmarks, then docs/benchmarks.md; `make bench-quick` a short run into build/
#   make docs                     the documentation site, in build/site
#   make notebook                 examples/quickstart.ipynb from examples/quickstart.py
#   make clean                    removes what was built, not the environment
#
# PYTHON=python3.12 chooses the interpreter. VENV=DIR CONSTRAINTS=/dev/null uses an environment of yours with your own
# build of torch; see CONTRIBUTING.md.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
DEMO_OUT ?= demo_results
TEST_PROCESSES ?= 2

RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench
DOCS_INSTALLED := $(VENV)/.installed-docs
ROOT_FOLDERS := trainers plans dataset_conversion
TYPES := build/types/bdfm_nnunet
# Whatever makes a result.
BENCHMARKS = $(filter-out benchmarks/harness.py,$(shell grep -lw Result benchmarks/*.py))

.PHONY: demo test test-slow check bench bench-quick docs notebook install clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(VENV)/bin/bdfm demo --out "$(DEMO_OUT)"

# Whole files go to one of TEST_PROCESSES processes, in the order of tests/conftest.py.
test: $(INSTALLED)
	$(RUN) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow

notebook: $(INSTALLED)
	$(RUN) examples/to_notebook.py

check: $(INSTALLED)
	$(RUN) -m ruff check .
	rm -rf "$(TYPES)"
	mkdir -p "$(TYPES)"
	for entry in bdfm_nnunet/* $(ROOT_FOLDERS); do ln -s "$(CURDIR)/$$entry" "$(TYPES)/" || exit 1; done
	$(RUN) -m mypy "$(TYPES)"

# A benchmark that fails does not keep the others from running.
bench-quick: BENCH_OPTIONS := --quick
bench bench-quick: $(BENCH_INSTALLED)
	@failed=; \
	for script in $(BENCHMARKS); do \
		echo "== $$script $(BENCH_OPTIONS)"; \
		$(RUN) "$$script" $(BENCH_OPTIONS) || failed="$$failed $$script"; \
	done; \
	$(RUN) benchmarks/report.py $(BENCH_OPTIONS) || failed="$$failed benchmarks/report.py"; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

docs: $(DOCS_INSTALLED)
	$(RUN) -m docs.site.build

install: $(INSTALLED)

# torch and torchvision go into one command, so that pip chooses a pair that fits.
$(INSTALLED): setup.py pyproject.toml $(CONSTRAINTS)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'Python 3.10 or later is needed: name one with `make PYTHON=python3.12 ...`' >&2; exit 1; }
	$(RUN) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)" || \
		{ echo 'no environment could be made: install the venv module of $(PYTHON) (Debian: python3-venv)' >&2; exit 1; }
	$(RUN) -m pip install -c "$(CONSTRAINTS)" torch torchvision -e '.[dev]'
	touch "$@"

$(BENCH_INSTALLED): $(INSTALLED)
	$(RUN) -m pip install -c "$(CONSTRAINTS)" -e '.[bench]'
	touch "$@"

$(DOCS_INSTALLED): $(INSTALLED)
	$(RUN) -m pip install -c "$(CONSTRAINTS)" -e '.[docs]'
	touch "$@"

clean:
	rm -rf build dist bdfm_nnunet.egg-info bdfm_nnunet/__pycache__ .mypy_cache .pytest_cache .ruff_cache
