# Every target makes the virtual environment it needs; python3 (3.11 or later) with venv and pip is enough.
# What fills them is uv, which takes a sixth of pip's time.
PYTHON ?= python3
VENV ?= .venv
# Empty it to run the tests without measuring coverage.
COVERAGE ?= --cov --cov-report=term
# More arguments of pytest: which tests, how many examples.
SELECT ?=

BIN := $(VENV)/bin
READY := $(VENV)/.installed
UV := .venv-uv/bin/uv
# The SAM CLI's pins clash with ours; one environment of it serves every VENV.
SAM_TOOLS := .venv-sam/.installed
K8S_TOOLS := .venv-k8s/.installed
# What the Lambda package is built for: x86_64 or arm64.
LAMBDA_ARCH ?= x86_64

.PHONY: run test check fmt bench soak fuzz clean images monitoring k8s-tools sam-tools sam-build sam-local lambda-image lambda-local container-engine

run: $(READY)  ## serve handlers/ on 127.0.0.1:8080
	$(BIN)/nexus serve

test: $(READY) $(SAM_TOOLS) $(K8S_TOOLS)  ## run the tests, on all cores; fails below the coverage floor of pyproject.toml
	$(BIN)/pytest -n auto --dist worksteal $(COVERAGE) $(SELECT)

check: $(READY)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(READY)  ## format, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## measure, and print the table
	$(BIN)/python -m bench

soak: $(READY)  ## the tests that run for minutes
	$(BIN)/pytest -m soak

fuzz: $(READY)  ## every property, with many more random examples than `make test` tries
	$(BIN)/pytest -m "hypothesis and not soak" --hypothesis-profile=fuzz

monitoring: $(READY)  ## write the dashboard and the rules of k8s/monitoring
	$(BIN)/python -m infra.monitoring

images: $(READY)  ## build the image, run it as a pod would, and print its size; needs Docker, or root and dockerd
	$(BIN)/python -m infra.images

k8s-tools: $(K8S_TOOLS)  ## kubectl, and what knows which manifests are right, in .venv-k8s

sam-tools: $(SAM_TOOLS)  ## the SAM CLI with its Lambda emulator, and cfn-lint, in .venv-sam

sam-build: $(READY) $(SAM_TOOLS)  ## the package of the Lambda function and its template, in .aws-sam/build
	LAMBDA_ARCH=$(LAMBDA_ARCH) BUILD_PYTHON=$(BIN)/python .venv-sam/bin/sam build --parameter-overrides Architecture=$(LAMBDA_ARCH)

lambda-local: $(READY) $(SAM_TOOLS)  ## the function under AWS's emulator on 127.0.0.1:9000; needs no container
	@$(BIN)/python -m functions.aws_lambda.local

sam-local: container-engine sam-build  ## serve the function on 127.0.0.1:3000 as its HTTP API does; needs Docker
	.venv-sam/bin/sam local start-api --parameter-overrides Architecture=$(LAMBDA_ARCH) TokenAuth=off

lambda-image: container-engine  ## the same function as a container image, nexus-lambda
	docker build -f infra/lambda.Dockerfile -t nexus-lambda .

container-engine:
	@docker info >/dev/null 2>&1 || finch info >/dev/null 2>&1 || { \
		echo "error: no container engine runs here: start Docker or Finch, or take \`make lambda-local\`, which needs none"; exit 1; }

clean:  ## remove what these targets made
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov build dist
	rm -rf nexus.egg-info .aws-sam
	find nexus_core functions bench infra tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Nexus needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

$(UV):
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

$(SAM_TOOLS): infra/lambda/sam-requirements.txt | $(UV)
	$(PYTHON) -m venv .venv-sam
	$(UV) pip install --quiet --python .venv-sam/bin/python --no-deps -r $<
	@touch $@

$(K8S_TOOLS): tests/k8s/requirements.txt | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-k8s
	$(UV) pip install --quiet --python .venv-k8s --no-deps -r $<
	@touch $@
