# `make demo` and `make test` do everything on a fresh machine that has Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := -e '.[all]' -e plugins/hashzoo-dsbh -e plugins/hashzoo-dphb -e plugins/hashzoo-dahp -e plugins/hashzoo-baselines

.PHONY: demo test lint lowest docs index mutants

# a process that imports torch starts in half the time where Python may keep what it compiled; some containers forbid it
export PYTHONDONTWRITEBYTECODE :=

# uv installs into the environment; its cache makes a second checkout quick
.venv/ready: pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "uv>=0.5"
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(PACKAGES) --group dev
	touch $@

# IMAGES=folder searches a folder of your own
demo: .venv/ready
	$(BIN)/hashzoo demo $(IMAGES)

# TESTS="tests/data plugins" runs a part
test: lint
	HASHZOO_DATA=$${HASHZOO_DATA:-$(abspath ../shared/lossless)} $(BIN)/python -m pytest -q -n auto $(TESTS)

lint: .venv/ready
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# the lowest versions that pyproject.toml allows, laid over the environment; torch stays as it is
lowest: .venv/ready
	rm -rf lowest && mkdir lowest
	$(BIN)/uv pip compile -q --python $(BIN)/python --resolution lowest-direct pyproject.toml --extra train --extra export --no-header --no-annotate \
	  | grep -vE '^(torch|torchvision|triton|nvidia-.*|cuda-.*)==' > lowest/requirements.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --target lowest --no-deps -r lowest/requirements.txt
	PYTHONPATH=lowest $(BIN)/hashzoo --version
	PYTHONPATH=lowest $(BIN)/hashzoo index examples/photos --out lowest/index
	PYTHONPATH=lowest $(BIN)/hashzoo search lowest/index examples/photos/cat-1.jpg
	PYTHONPATH=lowest $(BIN)/python -m pytest -q -m "hostile or lowest" \
	  $$(grep -rlE --include='test_*.py' 'mark\.(hostile|lowest)' tests)

docs: .venv/ready
	$(BIN)/mkdocs build --strict

# after a change in model_cards/
index: .venv/ready
	$(BIN)/python -m tools.zoo

# make mutants MODULE=hashzoo/codes.py TESTS=tests/test_codes.py
mutants: .venv/ready
	$(BIN)/python benchmarks/mutants.py $(MODULE) $(TESTS)
