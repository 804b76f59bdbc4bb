# Every target sets up what it needs; `make serve` and `make test` work from a clean clone.
#   PYTHON=python3.12 make test    another interpreter
#   make serve ARGS="--port 9000"  arguments for `llamafast serve`
#   make test ARGS="-k radix"      arguments for pytest

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin

# One list of build requirements: `requires` of pyproject.toml. The pinned llama-cpp-python in it is also the one
# that runs, so it goes into the environment first and the build runs there (--no-build-isolation).
BUILD_REQUIRES := $(shell sed -n 's/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | sed 's/", "/" "/g')
SOURCES := setup.py pyproject.toml $(shell find llamafast configs -type f \
	-not -name '*.so' -not -name '*.cpp' -not -name '*.c' -not -name '*.pyc')

# Python 3.11+: the current folder stays off sys.path, so `llamafast` is the installed package, not the source folder.
export PYTHONSAFEPATH := 1

.PHONY: serve test test-node test-clients test-schema test-templates test-fuzz test-hostile docs lint coverage bench debug clean
.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.installed ## set everything up and serve the built-in model
	$(BIN)/llamafast serve $(ARGS)

test: $(VENV)/.test-installed ## the tests, as CI runs them
	$(BIN)/pytest $(ARGS)

test-node: $(VENV)/.test-installed ## openai-node against a real server (needs Node.js and npm)
	npm install --silent --no-audit --no-fund --prefix tests/e2e/node
	$(BIN)/pytest -m node $(ARGS)

test-clients: $(VENV)/.test-installed ## LangChain, LlamaIndex, instructor, LiteLLM and openai-agents against a real server
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[clients]"
	$(BIN)/pytest -m clients -W default $(ARGS)

test-schema: $(VENV)/.test-installed ## the OpenAPI document, fuzzed
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[schema]"
	$(BIN)/pytest -m schema -W default $(ARGS)

docs: $(VENV)/.installed ## write the pages that are generated from the code: docs/api.md and docs/configuration.md
	$(BIN)/python tools/api_docs.py > docs/api.md
	$(BIN)/python tools/config_docs.py > docs/configuration.md

test-fuzz: $(VENV)/.test-installed ## every tool format, cut at 200 places and enforced 200 times
	$(BIN)/pytest -m fuzz $(ARGS)

test-hostile: $(VENV)/.test-installed ## 50,000 odd request bodies beside a stream that must not wait
	$(BIN)/pytest -s -m hostile $(ARGS)

# The sdist of the llama-cpp-python that runs holds llama.cpp's templates and the example server's configurations.
SDIST := $(VENV)/sdist
test-templates: $(VENV)/.test-installed $(SDIST)/.unpacked ## llama.cpp's chat templates against transformers
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[templates]"
	LLAMAFAST_SDIST=$(abspath $(SDIST)) $(BIN)/pytest -m templates $(ARGS)

$(SDIST)/.unpacked: pyproject.toml
	$(BIN)/python -m pip download --quiet --no-binary :all: --no-deps --dest $(SDIST) \
		"$$(sed -n 's/^    "\(llama-cpp-python==.*\)",/\1/p' pyproject.toml | head -1)"
	tar -xzf $(SDIST)/llama_cpp_python-*.tar.gz -C $(SDIST) --strip-components 1
	touch $@

lint: $(VENV)/.lint-installed ## format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PATH="$(BIN):$$PATH" cython-lint --max-line-length 120 llamafast
	$(BIN)/mypy

coverage: $(VENV)/.test-installed ## which lines the tests reach (servers that tests start do not count)
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[coverage]"
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage report

bench: $(VENV)/.test-installed ## all benchmarks
	set -e; for script in benchmarks/bench_*.py; do PYTHONPATH=benchmarks $(BIN)/python $$script $(ARGS); done

# Bounds checks and live-handle counters. Its C++ files differ from a release build's: none of them may stay.
debug: ## the tests on a build with bounds checks
	rm -rf build llamafast/*.cpp
	LLAMAFAST_DEBUG=1 $(MAKE) VENV=.venv-debug test; status=$$?; rm -rf build llamafast/*.cpp; exit $$status

clean: ## remove everything that was built
	rm -rf $(VENV) .venv-debug build dist *.egg-info llamafast/*.so llamafast/*.cpp .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.build-requires: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(BUILD_REQUIRES)
	touch $@

# build/ keeps the objects of the last build; Python files in it would put deleted modules back into the wheel.
$(VENV)/.installed: $(VENV)/.build-requires $(SOURCES)
	if [ -d build ]; then find build -name '*.py' -delete; fi
	$(BIN)/python -m pip install --quiet --no-build-isolation .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[test]"
	touch $@

$(VENV)/.lint-installed: $(VENV)/.test-installed
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[lint]"
	touch $@
