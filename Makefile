# Commands for developers. Most of them create .venv first if it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GENERATOR := .venv-generator
FUZZER := .venv-fuzz
AUDITOR := .venv-audit
STAMP := $(VENV)/.installed
PART ?= 0/1
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER := 0

.PHONY: install demo test test-browser test-ray test-slow chaos test-all check format docs bench-optimizers bench-scale atlas gpu-check compose-check client-check fuzz audit clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[service,ray,dev,bench,docs]"
	@touch $(STAMP)

demo: install ## tune a real job on this machine and save the recommended config
	$(BIN)/python examples/demo.py

test: install ## run the quick tests: about eight minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-browser: install ## test the web pages in the installed Chromium
	$(BIN)/python -m pytest -m browser

test-ray: install ## test the engine ray on a real Ray that listens on loopback only
	$(BIN)/python -m pytest -m "ray and not slow"

test-slow: install ## run real jobs and kill processes: about an hour; PART=0/6 runs one sixth of it
	$(BIN)/python -m pytest -m "slow and not browser and not chaos" --ignore tests/docker --part $(PART)

chaos: install ## kill or stop each process at each moment of a job, in about two hours; CHAOS_SAMPLE=0/40 runs a part, CHAOS_SEED=1 tries other calls, CHAOS_REPEATS=20 strikes 20 jobs in each cell
	$(BIN)/python -m pytest -m chaos tests/chaos

test-all: test test-browser test-ray compose-check client-check test-slow chaos fuzz ## run every test

check: install ## check lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install ## build the documentation as a site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

bench-optimizers: install ## compare WarpAdam with other optimizers; continues where it stopped
	$(BIN)/python -m benchmarks.optimizers

bench-scale: install ## time the service with 10,000 simulated trials on 1,000 slots
	$(BIN)/python -m benchmarks.scale

atlas: install ## run the scenarios of docs/atlas.md that have no result yet, and write the page
	$(BIN)/python -m benchmarks.atlas run
	$(BIN)/python -m benchmarks.atlas report

gpu-check: ## test and time the optimizer on this machine's CUDA device, in nine minutes; needs torch, safetensors, pytest
	$(or $(if $(filter file,$(origin PYTHON)),$(wildcard $(BIN)/python)),$(PYTHON)) -m benchmarks.gpu

compose-check: install ## check docker-compose.yml, then run its services without containers
	$(BIN)/python -m pytest -m "" tests/docker

client-check: install ## run a job with a client that openapi-python-client generates from the document of the API
	$(PYTHON) -m venv $(GENERATOR)
	$(GENERATOR)/bin/python -m pip install --quiet --disable-pip-version-check openapi-python-client==0.29.1
	$(BIN)/python -m pytest -m generator

fuzz: install ## send thousands of requests that schemathesis makes from the document of the API; FUZZ_EXAMPLES=400 sends more
	$(PYTHON) -m venv $(FUZZER)
	$(FUZZER)/bin/python -m pip install --quiet --disable-pip-version-check schemathesis==4.32.5
	$(BIN)/python -m pytest -m fuzz tests/fuzz

audit: ## ask api.osv.dev whether a version in constraints.txt has a known vulnerability
	$(PYTHON) -m venv $(AUDITOR)
	$(AUDITOR)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@$(AUDITOR)/bin/pip-audit --vulnerability-service osv --no-deps --disable-pip -r constraints.txt 2>$(AUDITOR)/errors; \
	status=$$?; \
	if grep -q requests.exceptions.ConnectionError $(AUDITOR)/errors; then \
		echo "api.osv.dev, the source of the advisories, cannot be reached from here: nothing was checked"; \
	else cat $(AUDITOR)/errors; fi; \
	exit $$status

clean: ## delete .venv and build files
	rm -rf $(VENV) $(GENERATOR) $(FUZZER) $(AUDITOR) build *.egg-info
