# Needs Go, git and make; `make test` also wants a C compiler, for the race detector.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

include hack/flags
export GOFLAGS CGO_ENABLED GOWORK

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
# Flags of `routewarden serve` for up and demo, for example SERVE_FLAGS="--outside=warn --log-level=debug".
SERVE_FLAGS ?=
BENCH_FLAGS ?=
TEST_FLAGS ?=

# The race detector needs cgo.
CC_FOUND := $(shell command -v "$$(go env CC)")
RACE := $(if $(CC_FOUND),-race)
test = $(if $(RACE),,echo 'no C compiler: testing without -race' >&2;) CGO_ENABLED=$(if $(RACE),1,0) go test $(RACE) $(TEST_FLAGS)

# A package belongs to the control plane tier when its tests, or it, use hack/localcluster, hack/gateways or hack/node;
# e2e/gateways, e2e/install and hack/release are tiers of their own.
tier = go list -f '{{.ImportPath}} {{join .Imports " "}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./... | awk '$$1 !~ /\/(e2e\/(gateways|install)|hack\/release)$$/ && $(1)/\/hack\/(localcluster|gateways|node)( |$$)/ {print $$1}'

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/routewarden, a static binary
	@. hack/gobuild.sh; compile "$$PWD/bin/routewarden" . . '-s -w -X main.version=$(VERSION)'

.PHONY: controlplane
controlplane: ## Get etcd, kube-apiserver and kubectl: prebuilt ones, or from source (minutes, once) [PREBUILT=never]
	@hack/programs etcd kube-apiserver kubectl

.PHONY: controllers
controllers: controlplane
	@hack/programs kube-controller-manager

.PHONY: gateways
gateways:
	@hack/programs envoy-gateway xds traefik

.PHONY: helm
helm:
	@hack/programs helm helm3

.PHONY: certmanager
certmanager:
	@hack/programs certmanager

.PHONY: prometheus
prometheus:
	@hack/programs prometheus promtool

.PHONY: release-tools
release-tools: ## Build what makes and checks releases into bin/release (a minute, once)
	@hack/release/build

.PHONY: image
image: ## Make the container image as an OCI layout, and its bills of materials, in bin/image
	@VERSION=$(VERSION) hack/release/image.sh

.PHONY: release
release: ## Make the archives of a release in bin/dist
	@VERSION=$(VERSION) hack/release/archives.sh

.PHONY: vulnerabilities
vulnerabilities: ## Look for known vulnerabilities in what the program calls
	@hack/release/vuln.sh

.PHONY: local
local:
	@. hack/gobuild.sh; compile "$$PWD/bin/local" . ./hack/local '-s -w'

.PHONY: up
up: controlplane build local ## Start a local cluster with routewarden in it [SERVE_FLAGS="..."]
	@bin/local up $(SERVE_FLAGS)

.PHONY: down
down: local ## Stop what up has started
	@bin/local down

.PHONY: demo
demo: build local ## Show what routewarden does: check offline, then the local cluster, which is started unless it runs
	@bin/local demo $(SERVE_FLAGS)

.PHONY: test
test: test-unit test-model test-controlplane test-gateways test-install test-release ## Run all tests [TEST_FLAGS="..."]

.PHONY: test-unit
test-unit: ## Test what needs no control plane
	@command -v chromium chromium-browser google-chrome >/dev/null || echo 'no Chromium: the pages of audits are not tested' >&2
	@$(test) -timeout=30m $$($(call tier,!))

.PHONY: packages-unit
packages-unit:
	@$(call tier,!)

.PHONY: test-model
test-model: ## Search the consent model for counterexamples, in seconds
	@CGO_ENABLED=0 go test $(TEST_FLAGS) ./webhook/model

.PHONY: model
model: ## Search the consent model deeper, in minutes, and tell how many states it has
	@CGO_ENABLED=0 go test -timeout=2h -v -run='TestModel|TestTeeth' ./webhook/model -model.deep

.PHONY: test-controlplane
test-controlplane: controlplane helm certmanager prometheus ## Test against a real etcd and kube-apiserver
	@$(test) -timeout=45m $$($(call tier,))

.PHONY: test-gateways
test-gateways: controlplane gateways ## Test with Envoy Gateway and Traefik, in a network namespace
	@cd e2e/gateways && $(test) -timeout=20m

.PHONY: test-release
test-release: release-tools ## Test the image, the archives, and the checks of licences and vulnerabilities
	@$(test) ./hack/release

.PHONY: test-install
test-install: controlplane helm certmanager ## Test what people install, in a cluster with Pods and Services, in network namespaces
	@cd e2e/install && $(test) -timeout=20m

.PHONY: fuzz
fuzz: ## Fuzz every input, each for FUZZTIME (10m) [FUZZTIME=1m TARGETS=FuzzCheck]
	@FUZZTIME="$(FUZZTIME)" TARGETS="$(TARGETS)" hack/fuzz

# All other runs have the same random cases, so that they say the same of the same commit.
.PHONY: test-random
test-random: ## Test the engine and check with other random cases [ROUNDS=10, or SEED=4711 for one certain round]
	@for seed in $(or $(SEED),$$(shuf -n $(or $(ROUNDS),10) -i 1-4294967295)); do \
		echo "SEED=$$seed"; SEED=$$seed CGO_ENABLED=0 go test $(TEST_FLAGS) ./policy ./policy/check || exit 1; \
	done

.PHONY: mutants
mutants: ## Change policy in thousands of small ways: the tests must notice, or policy/mutants.yaml say why not (minutes)
	@go run ./hack/mutants -slow=matchconditions.go,vap.go ./policy

.PHONY: coverage
coverage: ## Measure how much of the program the tests run that need no control plane: at least 95 % of policy, 80 % of everything
	@hack/coverage unit

.PHONY: bench
bench: controlplane build ## Measure the engine, an admission, checking files, and creating routes through the API server (minutes) [BENCH_FLAGS="-n 2000 -rounds 3"]
	go test -run='^$$' -bench=. -benchmem -benchtime=200ms ./policy/... ./webhook/...
	go run ./hack/bench handler -n 300 -rounds 3
	go run ./hack/bench check -rounds 3
	go run ./hack/bench relocate -n 200 -rounds 1
	go run ./hack/bench $(or $(BENCH_FLAGS),-quick)

.PHONY: faults
faults: controlplane ## Break the control plane and routewarden under load, and write hack/BENCHMARKS-FAULTS.md (half an hour)
	@cd e2e/faults && go test -count=1 -v -timeout=60m -run=TestFaults -faults.long -faults.markdown='$(CURDIR)/hack/BENCHMARKS-FAULTS.md'

.PHONY: bench-scale
bench-scale: controlplane build ## Measure a burst and clusters of up to 100,000 routes, and draw the results (about ten minutes)
	@hack/plot/build
	@mkdir -p hack/plots
	go run ./hack/bench burst -data hack/plots/burst.csv -markdown hack/BENCHMARKS-BURST.md
	go run ./hack/bench scale -data hack/plots/scale.csv -markdown hack/BENCHMARKS-SCALE.md
	bin/plot/plot hack/plots

.PHONY: gate
gate: ## Compare allocations and instructions with hack/gate/baseline.txt; Valgrind counts the latter [UPDATE=1]
	@CGO_ENABLED=0 go build -o bin/gate ./hack/gate
	@bin/gate $(if $(UPDATE),-update)

.PHONY: generate
generate: helm ## Regenerate the reference documentation and the list of licences, and render the chart
	go generate ./...
	@hack/release/build licenses
	@bin/release/licenses > bin/release/LICENSES.md && mv bin/release/LICENSES.md hack/release/LICENSES.md
	manifests/render

.PHONY: lint
lint: ## Check formatting and run go vet
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then printf 'not formatted, run gofmt -w:\n%s\n' "$$unformatted" >&2; exit 1; fi
	go vet ./...
