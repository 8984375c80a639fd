# The two commands that matter: `make demo` shows pyproxy at work, `make test` runs every test.
# Each sets up all it needs, in .venv and (as root on Debian, for the tests) with apt-get.

PYTHON ?= python3
BIN := .venv/bin
SOAK_MINUTES ?= 10
TEST_PROCESSES ?= 3
IMAGE ?= pyproxy:dev
KUBECTL := kubectl --context kind-pyproxy
.DEFAULT_GOAL := help
.PHONY: help venv demo test check format bench soak lock licences audit system-packages clean
.PHONY: image image-rehearsal kind-up kind-load kind-deploy kind-smoke kind-down

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.installed ## the virtual environment: pyproxy and the test tools, from the lock

.venv/.installed: deploy/requirements-dev.lock pyproject.toml deploy/venv.sh
	PYTHON=$(PYTHON) deploy/venv.sh .venv
	@touch $@

demo: venv ## three backends, two Services, one killed endpoint: no cluster, no root
	@$(BIN)/pyproxy demo

test: venv system-packages ## every test, with branch coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --fail-under=90
	$(BIN)/coverage report --fail-under=100 --include='pyproxy/core/*,pyproxy/model/*'

check: venv ## format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## format the code and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv ## beside HAProxy and nginx, and at 10,000 Services; writes docs/benchmarks.md, asserts nothing
	@deploy/system-packages.sh bench
	$(BIN)/python -m tests.bench --write docs/benchmarks.md $(BENCH_ARGS)

soak: venv ## a real agent under load while all around it fails: SOAK_MINUTES of it, then a verdict
	$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES) $(SOAK_ARGS)

image: ## the container image pyproxy:dev, with Docker
	docker build -t $(IMAGE) --build-arg REVISION="$$(git rev-parse HEAD)" \
		--build-arg VERSION="$$($(PYTHON) -c 'import pyproxy; print(pyproxy.__version__)')" .

image-rehearsal: venv ## the same steps without a container engine, as root: sizes and times
	$(BIN)/python -m tests.image $(or $(REHEARSAL_DIR),build/image)

kind-up: ## a kind cluster without kube-proxy: two families, two zones
	kind create cluster --config kind-config.yaml

kind-load: image ## the image onto its nodes
	@mkdir -p build
	docker image save --platform "$$(docker version -f '{{.Server.Os}}/{{.Server.Arch}}')" -o build/image.tar $(IMAGE)
	kind load image-archive build/image.tar --name pyproxy

kind-deploy: ## pyproxy onto every node of it
	$(KUBECTL) apply -k deploy/overlays/kind
	$(KUBECTL) -n kube-system rollout restart daemonset/pyproxy
	$(KUBECTL) -n kube-system rollout status daemonset/pyproxy --timeout=300s

kind-smoke: ## do Services work on it: PASS or FAIL for each claim
	deploy/kind/smoke.sh

kind-down: ## remove the cluster
	kind delete cluster --name pyproxy

lock: venv ## resolve the dependencies of pyproject.toml anew
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 pyproject.toml -o deploy/requirements.lock
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 --group build -o deploy/requirements-build.lock
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 pyproject.toml --group dev -o deploy/requirements-dev.lock

licences: venv ## write docs/licences.md anew, after the lock has changed
	$(BIN)/python -m tests.support.licences > docs/licences.md

audit: venv ## ask the Python packaging advisory database about every dependency; takes the network
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r deploy/requirements.lock

system-packages:
	@deploy/system-packages.sh
	@deploy/kubectl.sh

clean: ## remove what the other targets made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*
