# Two commands: `make demo` builds three verified models for the chips of this machine,
# `make test` runs everything that guards the project. Both share one environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN ?= runs/demo
TESTS ?= not heavy

.PHONY: demo test setup check types lint contracts unit heavy web agent wheel clean

demo: setup
	@$(BIN)/factory build recipes/demo.toml --out $(RUN)

# Most tests use one core: two at once, a file stays on one of them, the longest come first.
# `make test TESTS=` runs the heavy ones too (.ci/run does).
test: setup lint types contracts
	$(BIN)/python -m pytest -n auto --maxprocesses 2 --dist loadfile --no-loadscope-reorder -m "$(TESTS)"

setup: $(READY)

# The version check and the disk check come first: a failed installation costs minutes.
$(READY): pyproject.toml
	@$(PYTHON) tools/check_setup.py $(VENV)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the package and its dependencies into $(VENV) (5.4 GB, a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(READY)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

unit: setup
	$(BIN)/python -m pytest -m "not heavy"

heavy: setup
	$(BIN)/python -m pytest -m heavy

# ONNX Runtime Web for `factory profile --browser`: one pinned release, its hash checked.
web:
	@$(PYTHON) tools/fetch_ort_web.py

# tools/device_agent.py is made from the package's own modules; a test compares the two.
agent: setup
	$(BIN)/python -m factory.devices.agent_bundle

wheel: setup web
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
