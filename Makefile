# llmos: `make up` installs and starts it, `make test` checks everything. `make help` lists the rest.
# Everything lands in this folder (.venv and tool caches); llmos itself keeps to LLMOS_HOME (~/.llmos).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help up down test check soak starter bench wheel clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The stamps carry a hash of what was asked for, so a change of either file installs anew.
WANTED := $(shell cat pyproject.toml constraints.txt | cksum | tr -c '0-9\n' '-')
RUNTIME := $(VENV)/.installed-$(WANTED)
DEV := $(VENV)/.installed-dev-$(WANTED)

TEXT ?= src/llmos/starter/text/tales.txt
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_CACHE_DIR := 1
export PYTHONUTF8 := 1

help: ## List what make can do here
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "  %-12s %s\n", $$1, $$2}'

up: $(RUNTIME) ## Install llmos, start it, and prove that it works (PORT=N picks another port)
	@$(BIN)/llmos up --prove $(if $(PORT),--port $(PORT))
	@echo
	@echo "Next:"
	@echo "  source $(VENV)/bin/activate                    # puts llmos on your PATH"
	@echo "  llmos list                                   # the models there are"
	@echo "  llmos run starter-chat                       # chat in the terminal"
	@echo "  llmos train recipes/char-gpt.yaml --set data.path=FILE.txt --name my-model"
	@echo "  make down                                    # stops llmos"

down: ## Stop llmos
	@if [ -x $(BIN)/llmos ]; then $(BIN)/llmos down; else echo "llmos is not installed here"; fi

# One process a core, each with whole files: what a file's tests share is made once.
TESTERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: check ## Run every check and test but the soak
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest $(TESTERS)

check: $(DEV) ## Run ruff, mypy --strict and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(DEV) ## Run what takes long: kill sweeps, soak, long training (before a release)
	$(BIN)/python -m pytest -m soak --timeout 7200

starter: $(RUNTIME) ## Train the starter models anew and put them into the package
	@for task in chat translate sentiment entities; do \
		$(BIN)/llmos train recipes/starter-$$task.yaml --name starter-$$task \
		&& rm -rf src/llmos/starter/models/starter-$$task \
		&& $(BIN)/llmos export starter-$$task src/llmos/starter/models/starter-$$task || exit 1; done

bench: $(DEV) ## Run the quick benchmarks (PEERS="NAMES" adds installed peers, TEXT=FILE trains on another text)
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/serve_http.py --quick --name quick_http
	$(BIN)/python bench/serve_throughput.py --quick --name quick_throughput --peers "llmos int8" $(PEERS)
	$(BIN)/python bench/serve_prefix.py --quick --name quick_prefix --peers "llmos int8" $(PEERS)
	$(BIN)/python bench/job_queue.py --quick --name quick_job_queue
	$(BIN)/python bench/decide.py --name quick_decide
	$(BIN)/python bench/word_vectors.py --quick --name quick_word_vectors
	$(BIN)/python bench/data.py --quick --name quick_data
	$(BIN)/python bench/train.py $(TEXT)

wheel: $(DEV) ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## Remove what make made in this folder (never LLMOS_HOME)
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): | $(BIN)/python
	@echo "Installing llmos and what it needs into $(VENV) (a few minutes the first time) ..."
	@$(MAKE) --silent --no-print-directory $(VENV)/.torch-$(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(DEV): | $(RUNTIME)
	@echo "Installing what the checks and tests need ..."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# Linux without an NVIDIA device gets the CPU build from PyTorch's own index where that answers;
# everyone else, and whoever cannot reach it, gets the build their package index has.
$(VENV)/.torch-%: | $(BIN)/python
	@if [ "$$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1 \
		&& $(BIN)/python -c "import urllib.request as r; r.urlopen('$(TORCH_CPU_INDEX)/torch/', timeout=5)" \
			2>/dev/null; then \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt \
			--extra-index-url $(TORCH_CPU_INDEX) "torch==$*+cpu"; \
	else \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==$*"; \
	fi
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "llmos needs Python 3.11 or newer, and $(PYTHON) is" \
			"$$($(PYTHON) --version 2>&1 || echo missing): try make up PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		[ "$$(id -u)" = 0 ] && apt-get install -y -q python3-venv && $(PYTHON) -m venv $(VENV); } \
		|| { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu," \
			"sudo apt-get install python3-venv" >&2; exit 1; }
