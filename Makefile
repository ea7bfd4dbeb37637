# The commands of this project. The first one that needs the environment .venv makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PART ?= 0/1
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER := 0

.PHONY: install demo test test-browser test-ray test-slow test-all check format bench-optimizers bench-scale compose-check clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[service,ray,dev,bench]"
	@touch $(STAMP)

demo: install ## tune a real job on this machine and save the recommended config
	$(BIN)/python examples/demo.py

test: install ## the quick suite: about five minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-browser: install ## the pages, in the chromium that is installed
	$(BIN)/python -m pytest -m browser

test-ray: install ## the engine ray, on a real Ray that listens on loopback only
	$(BIN)/python -m pytest -m "ray and not slow"

test-slow: install ## real jobs and killed processes: about an hour; PART=0/6 runs a sixth of it
	$(BIN)/python -m pytest -m "slow and not browser" --ignore tests/docker --part $(PART)

test-all: test test-browser test-ray compose-check test-slow ## everything

check: install ## ruff, the format, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-optimizers: install ## WarpAdam beside its peers, all tuned alike; resumes where it was stopped
	$(BIN)/python -m benchmarks.optimizers

bench-scale: install ## 10,000 trials from 1,000 slots that train nothing
	$(BIN)/python -m benchmarks.scale

compose-check: install ## docker-compose.yml against the code, then its services natively on loopback
	$(BIN)/python -m pytest -m "" tests/docker

clean:
	rm -rf $(VENV) build *.egg-info
