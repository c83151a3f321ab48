# Every developer command. A user needs two: make demo, make test.
PYTHON ?=
BIN = .venv/bin
# What drives Chromium, for tests only: not among the pinned packages of the product.
BROWSER = $(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/browser/requirements.txt

.PHONY: help setup demo test lab-test vm-test story-test guided-test crash-matrix check format docs bench bench-forecast lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 20

setup: ## .venv with the pinned packages; the other targets call it
	@PYTHON="$(PYTHON)" sh runbooks_lib/bootstrap.sh

demo: setup ## the main job on this machine: practice host, collection over SSH, example past, report
	@$(BIN)/runbook demo

test: setup ## the tests that need neither root nor system packages
	@$(BIN)/python -m pytest -q -m "not lab and not vm"

lab-test: setup ## the tests on real services and practice machines (root; .ci/run installs what they need)
	@$(BROWSER)
	@$(BIN)/python -m pytest -q -m "lab and not vm" --durations=20
	@$(MAKE) --no-print-directory vm-test

# An emulated machine is late now and then when its host is busy. What fails is tried once more, on a machine that is
# booted anew; what fails twice has failed. The first failures stand in the output.
vm-test: setup ## of these, only the tests on practice machines
	@$(BROWSER)
	@$(BIN)/runbook lab-host prepare
	@$(BIN)/python -m pytest -q -m vm --durations=20 || { echo "Once more, those that failed:"; \
	  $(BIN)/python -m pytest -q -m vm --last-failed --last-failed-no-failures none; }

story-test: setup ## the founding story on one practice machine, headless, from a crawling service to the moved database
	@$(BIN)/python -m pytest -q -s -m vm tests/procedures/test_the_story.py

guided-test: setup ## the incident's notebooks in JupyterLab, question by question; pictures: make guided-test PICTURES=dir
	@$(BROWSER)
	@RUNBOOKS_SCREENSHOTS=$(PICTURES) $(BIN)/python -m pytest -q -m vm tests/browser/test_incident_in_browser.py

crash-matrix: setup ## every place where a run can be cut off, of the engine and of the ways and moves: hours (root, qemu)
	@RUNBOOKS_MATRIX_EVERY=1 RUNBOOKS_RELOCATE_CASES=0 $(BIN)/python -m pytest -q -s --timeout 86400 \
	  tests/runbook/test_crash_matrix.py tests/procedures/relocate_postgres/test_crash_matrix.py \
	  tests/procedures/storage/test_crashes.py tests/procedures/storage/test_crashes_on_a_machine.py
	@RUNBOOKS_RELOCATE_CASES=0 $(BIN)/python -m pytest -q --timeout 3600 -k power_cut \
	  tests/procedures/relocate_postgres/test_on_a_machine.py

check: setup ## style, types, floors of the house
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

format: setup ## rewrite the sources in the house's style
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

docs: setup ## docs/commands.md anew from the commands' help
	@$(BIN)/python docs/commands.py > docs/commands.md

bench: setup ## every benchmark; see docs/benchmarks.md for what each needs
	@for each in history report forecast collect; do $(BIN)/python -m benchmarks.$$each; done

bench-forecast: setup ## accuracy on growth curves: make bench-forecast DATA=directory PEERS=1 (Prophet, statsforecast: 600 MB)
	@$(BIN)/python -m benchmarks.forecast $(if $(DATA),--data $(DATA)) $(if $(PEERS),--peers --origins 6)

lock: ## requirements.txt anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --custom-compile-command "make lock" -o requirements.txt

clean: ## remove .venv and caches; outputs/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
