# `make demo` and `make test` set up everything they need in .venv (or in the active virtual environment).

PYTHON ?= python3
VENV ?= $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
MINUTES ?= 5
PROCESSES ?= 2
WHEEL_TESTS ?=

SOURCES := pyproject.toml setup.py CMakeLists.txt tools/build_backend.py $(shell find csrc -type f)

.PHONY: demo test test-slow test-browser test-distributed docs bench lint format wheel constraints clean
.DEFAULT_GOAL := help

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

demo: $(VENV)/.fastmunit  ## Train MUNIT on the built-in photos for MINUTES (default 5) and write runs/demo/report.html
	$(BIN)/fastmunit demo --minutes $(MINUTES) --output runs/demo

# Workers take neighboring tests, which share fixtures, until they have none left. Bytecode is kept, since many tests start
# programs, each of which would compile the package again.
test: $(VENV)/.fastmunit-test  ## Run the tests and run every benchmark once as a check
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest tests bench -m "not slow and not browser" \
	    -n $(PROCESSES) --dist worksteal

test-slow: $(VENV)/.fastmunit-test  ## Run the long tests
	$(BIN)/python -m pytest tests bench -m slow

test-browser: $(VENV)/.fastmunit-test  ## Draw on the page in Chromium; skipped where it is not installed
	-$(BIN)/python -m pip install --quiet playwright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser -m browser

test-distributed: $(VENV)/.fastmunit-test  ## Kill, stop and cut off processes of trainings; about ten minutes
	$(BIN)/python -m pytest tests/distributed

docs: $(VENV)/.fastmunit-docs  ## Build the documentation into build/docs, without warnings, and run its examples
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going --quiet -b html docs build/docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going --quiet -b doctest -d build/docs/.doctrees docs build/docs_examples

bench: $(VENV)/.fastmunit-test  ## Time the fused ops; run it with nothing else running
	$(BIN)/python -m pytest bench --benchmark

lint: $(VENV)/.fastmunit-dev  ## Check style, types and plain English
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_prose.py

format: $(VENV)/.fastmunit-dev  ## Rewrite the Python files in the project's style, and the lines in links to code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tools.link_code

# WHEEL_TESTS=tests runs all tests instead of a quick part.
wheel: $(VENV)/.fastmunit-release  ## Build sdist and wheels in dist/, check them, and test an installed wheel
	$(BIN)/python tools/release/build.py
	$(BIN)/python tools/release/try_wheel.py $(WHEEL_TESTS)

constraints: wheel  ## Record the versions that the wheel was tested with in tests/constraints.txt
	cp dist/constraints.txt tests/constraints.txt

clean:  ## Remove what building and testing left; runs/ and .venv stay
	rm -rf build dist *.egg-info fastmunit/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -f $(VENV)/.fastmunit $(VENV)/.fastmunit-test $(VENV)/.fastmunit-dev $(VENV)/.fastmunit-docs $(VENV)/.fastmunit-release

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first: the build then uses it instead of fetching a second one for its isolated environment. The other targets
# name the installed package, so that they add the requirements of an extra without compiling again.
$(VENV)/.fastmunit: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet "torch>=2.10" torchvision
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.fastmunit-test: $(VENV)/.fastmunit
	$(BIN)/python -m pip install --quiet "fastmunit[test]"
	-$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11))" && $(BIN)/python -m pip install --quiet --no-deps \
	    --ignore-requires-python "ttsem==0.1.0"  # asks for 3.12, runs on 3.11
	@touch $@

$(VENV)/.fastmunit-dev: $(VENV)/.fastmunit-test
	$(BIN)/python -m pip install --quiet "fastmunit[dev]"
	@touch $@

$(VENV)/.fastmunit-release: $(VENV)/.fastmunit
	$(BIN)/python -m pip install --quiet "fastmunit[release]"
	@touch $@

$(VENV)/.fastmunit-docs: $(VENV)/.fastmunit
	$(BIN)/python -m pip install --quiet "fastmunit[docs]"
	@touch $@
