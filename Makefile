# Every target makes .venv itself when it is missing and renews it when the lock changed.
# Needed on the machine: Python 3.11 or newer and a package registry. Nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA ?= visionloop-data

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-images test-images-large test-kill test-cluster test-fuzz bench-serving bench-serving-gpu bench-ingest bench-training bench-accuracy bench-accuracy-peers \
	bench-labeling-scale bench-labelling-page bench-gate bench-backbones perf-analyzer charts-verify charts-snapshots charts-checkov soak lint format protos lock \
	lock-images images pictures charts-run serve label up clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

venv: $(READY) ## the virtual environment that all targets use

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY) ## the whole loop on real photographs: import, train, serve, correct, retrain, swap
	$(BIN)/python -m visionloop.demo --output build/demo

test: $(READY) ## all tests that need no long run (ALL_DATABASES=1: labeling's core on Postgres, too)
	$(BIN)/python -m pytest tests -m 'not images and not large_images and not cluster' --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-kill: $(READY) ## the kill tests, each many times over, and those that `make test` leaves out
	KILL_ROUNDS=25 $(BIN)/python -m pytest tests -m 'kill or long'

test-images: $(READY) ## builds the images for real and runs the charts' pods from them (root; Debian's buildah, mmdebstrap, podman)
	$(BIN)/python -m pytest tests/images -m images

test-images-large: $(READY) ## the images with CUDA, too: builds them, trains in one, serves what it made (20 GB of disk)
	$(BIN)/python -m pytest tests/images/test_large_images.py -m large_images

charts-run: $(READY) ## the charts' serving pods, run by podman from freshly built images (root; Debian's buildah, mmdebstrap, podman)
	$(BIN)/python -m pytest tests/images/test_rendered_pods.py -m images

test-cluster: $(READY) ## the loop on the cluster that KUBECONFIG points at (CLUSTER_VALUES=…: registry of the images)
	$(BIN)/python -m pytest tests/cluster -m cluster

test-fuzz: $(READY) ## the fuzz tests, each with FUZZ_CASES cases (100000) or, where one takes long, a share of them
	FUZZ_CASES=$${FUZZ_CASES:-100000} $(BIN)/python -m pytest --timeout 7200 tests/core/test_images_hostile.py \
		tests/inference/test_open_inference_hostile.py tests/inference/test_raw_contents.py tests/inference/test_faults_fuzz.py \
		tests/labeling/test_inspectors.py tests/labeling/importers/test_archives.py \
		tests/labeling/importers/test_hostile_files.py tests/labeling/test_schemathesis.py

bench-serving: $(READY) ## the inference service beside its limits and its peers (PEERS=… MODELS=…); build/bench/serving.json
	$(BIN)/python -m bench.serving

bench-serving-gpu: $(READY) ## the inference service on an NVIDIA GPU beside bare onnxruntime; build/bench/serving_gpu.json
	$(BIN)/python -m bench.serving_gpu

bench-ingest: $(READY) ## labeling-ingest's intake beside its limit and Label Studio; build/bench/ingest.json
	$(BIN)/python -m bench.ingest

bench-accuracy: $(READY) ## test accuracy on ELPV by the published protocol, five seeds (SPLITS=grouped, PRESETS=…); build/bench/accuracy.json
	$(BIN)/python -m bench.accuracy --splits $(or $(SPLITS),plain) --presets $(or $(PRESETS),balanced)

bench-accuracy-peers: $(READY) ## scikit-learn, torchvision, timm and fastai on the same data for five minutes a seed; build/bench/accuracy/runs
	$(BIN)/python -m bench.accuracy.peers

bench-training: $(READY) ## training's throughput beside a synthetic-data loop of the same network; build/bench/training.json
	$(BIN)/python -m bench.training

bench-labeling-scale: $(READY) ## a million images: the queue's and the snapshot's queries, their plans and times; build/bench/labeling_scale.json
	$(BIN)/python -m bench.labeling_scale

bench-labelling-page: $(READY) ## from keypress to the next image in Chromium; build/bench/labelling_page.json
	$(BIN)/python -m bench.labelling_page

bench-backbones: $(READY) ## size, latency and parity of each backbone (NAMES=…); build/bench/backbones.json, docs/backbones.md
	$(BIN)/python -m bench.backbones

bench-gate: $(READY) ## how often the promotion gate passes models of known quality; build/bench/gate.json
	$(BIN)/python -m bench.gate

perf-analyzer: $(READY) ## NVIDIA's load generator in an environment of its own, for tests that use it
	$(BIN)/python -m bench.serving.load

soak: $(READY) ## half an hour of load, swaps and kills (SOAK_SECONDS=…): do memory and latency stay flat? build/bench/soak.json
	$(BIN)/python -m bench.soak

charts-verify: $(READY) ## the charts: rendered by real helm on Kubernetes 1.30 to 1.37, judged, compared with their snapshots
	CHARTS_PODS=1 $(BIN)/python -m pytest tests/charts

charts-snapshots: $(READY) ## schemas, tables and snapshots of the charts made anew, for a look at `git diff`
	$(BIN)/python -m charts.tooling
	UPDATE_SNAPSHOTS=1 $(BIN)/python -m pytest tests/charts/test_snapshots.py

charts-checkov: $(READY) ## checkov's findings in the charts, each with the reason why it stays
	test -x build/checkov/bin/checkov || { $(PYTHON) -m venv build/checkov && build/checkov/bin/pip install --quiet checkov==3.3.30; }
	$(BIN)/python -m tests.support.checkov build/checkov/bin/checkov

lint: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## let ruff format and repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(READY) ## stubs from protos/ into visionloop/proto/
	$(BIN)/python protos/generate.py

lock: build/lock/bin/uv ## exact versions of all extras into constraints.txt, and those of the images
	build/lock/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--upgrade --no-annotate --no-header --output-file build/lock/constraints.txt
	{ head -n 1 constraints.txt; cat build/lock/constraints.txt; } > build/lock/new && mv build/lock/new constraints.txt
	$(MAKE) lock-images

lock-images: build/lock/bin/uv ## images/locks/: what each image installs, with hashes, in the versions of constraints.txt
	UV=build/lock/bin/uv sh images/locks/lock.sh

build/lock/bin/uv:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv

images: ## the container images (BASE_IMAGE=…@sha256:…  IMAGES="inference-cpu …"  TAG=…  PREFIX=…  BUILDER=…)
	@BASE_IMAGE="$(BASE_IMAGE)" IMAGES="$(IMAGES)" TAG="$(TAG)" PREFIX="$(PREFIX)" \
		BUILDER="$(BUILDER)" BUILD_FLAGS="$(BUILD_FLAGS)" $(PYTHON) images/build.py

pictures: $(READY) ## the pictures that docs/labeling.md shows, taken anew from a running service (Debian's chromium)
	$(BIN)/python -m docs.pictures.render

serve: $(READY) ## the inference service with embedded defaults, data in $(DATA)
	$(BIN)/visionloop-inference --store file://$(abspath $(DATA))/store

label: $(READY) ## the labeling-ingest service with embedded defaults, data in $(DATA)
	$(BIN)/visionloop-labeling --store file://$(abspath $(DATA))/store --database sqlite:///$(abspath $(DATA))/labeling.db

up: $(READY) ## all programs on this machine, data in $(DATA)
	$(BIN)/visionloop up --data $(DATA)

clean: ## remove the virtual environment and everything built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
