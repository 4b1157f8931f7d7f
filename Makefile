# Needs Go, git and make; `make test` also wants a C compiler, for the race detector.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

include hack/flags
export GOFLAGS CGO_ENABLED GOWORK

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
# Flags of `routesteward serve` for up and demo, for example SERVE_FLAGS="--outside=warn --log-level=debug".
SERVE_FLAGS ?=
BENCH_FLAGS ?=
TEST_FLAGS ?=

MODULE := github.com/routesteward/routesteward

# The race detector needs cgo.
RACE := $(if $(shell command -v "$$(go env CC)"),-race)
# The packages in which goroutines share memory: only their tests run with the race detector.
raced = grep -rlE --include='*.go' --exclude='*_test.go' '^\s+(defer )?go [a-zA-Z]|\bchan |"golang.org/x/sync|"sync(/atomic)?"|"sigs.k8s.io/controller-runtime(/pkg/(manager|controller))?"' policy webhook | xargs -n1 dirname | sort -u | sed 's|^|$(MODULE)/|'
# Packages with tiers of their own.
apart := ^$(MODULE)/(e2e/(charts|faults|gateways|install|observability|page)|hack|hack/(bench|localcluster|node.*|release))$$
# All other packages belong to the control plane tier when they, or their tests, use hack/localcluster, else to the unit tier.
tier = go list -f '{{.ImportPath}} {{join .Imports " "}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./... | awk '$$1 !~ "$(apart)" && $(1)/\/hack\/localcluster( |$$)/ {print $$1}'
# $(call test,TIER,FLAGS) runs the tests of a tier.
test = packages=$$($(call tier,$(1))) raced=$$($(raced)); \
	go test -vet=off $(TEST_FLAGS) $(2) $$(grep -vxF "$$raced" <<<"$$packages"); \
	raced=$$(grep -xF "$$raced" <<<"$$packages"); \
	CGO_ENABLED=$(if $(RACE),1,0) go test -vet=off $(RACE) $(TEST_FLAGS) $(2) $$raced

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/routesteward, a static binary
	@. hack/gobuild.sh; compile "$$PWD/bin/routesteward" . . '-s -w -X main.version=$(VERSION)'

.PHONY: controlplane
controlplane: ## Get etcd, kube-apiserver and kubectl: prebuilt ones, or from source (minutes, once) [PREBUILT=never]
	@hack/programs etcd kube-apiserver kubectl

.PHONY: controllers
controllers: controlplane
	@hack/programs kube-controller-manager

.PHONY: gateways
gateways:
	@hack/programs envoy-gateway xds traefik

.PHONY: helm helm4
helm: helm4
	@hack/programs helm3
helm4:
	@hack/programs helm

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
up: controlplane build local ## Start a local cluster with routesteward in it [SERVE_FLAGS="..."]
	@bin/local up $(SERVE_FLAGS)

.PHONY: down
down: local ## Stop what up has started
	@bin/local down

.PHONY: demo
demo: build local ## Show what routesteward does: check offline, then the local cluster, which is started unless it runs
	@bin/local demo $(SERVE_FLAGS)

.PHONY: test
test: test-unit test-controlplane ## Test the engine, and routesteward against a real API server [TEST_FLAGS="..."]

# Without KUBECONFIG, which would have somebody's cluster tested.
.PHONY: test-all
test-all: ## Run every tier of tests
	@env -u KUBECONFIG $(MAKE) --no-print-directory test test-tools test-charts test-certs test-install test-gateways test-release test-faults

.PHONY: test-unit
test-unit: ## Test what needs no control plane
	@$(if $(RACE),,echo 'no C compiler: testing without the race detector' >&2)
	@$(call test,!,-timeout=20m)
	@go test -vet=off $(TEST_FLAGS) -run=Allocations $$($(raced)) # the race detector allocates too

.PHONY: packages-unit
packages-unit:
	@$(call tier,!)

.PHONY: test-controlplane
test-controlplane: controlplane ## Test against a real etcd and kube-apiserver
	@$(call test,,-count=1 -timeout=30m -skip='^TestCertManager$$|^TestNamespaceWithManagedGrantsCanBeDeleted$$')

.PHONY: test-tools
test-tools: controllers build ## Test hack/programs, the local cluster and the measurements, and what needs kube-controller-manager
	@go test -count=1 -timeout=20m $(TEST_FLAGS) ./hack ./hack/localcluster ./hack/bench
	@go test -count=1 -timeout=20m $(TEST_FLAGS) -run='^TestNamespaceWithManagedGrantsCanBeDeleted$$' ./e2e

.PHONY: test-charts
test-charts: controllers helm prometheus ## Test the chart, the alerts and the page of an audit
	@go test -count=1 -timeout=20m $(TEST_FLAGS) ./e2e/charts ./e2e/observability ./e2e/page

.PHONY: test-certs
test-certs: controlplane certmanager ## Test with cert-manager's certificates
	@go test -count=1 -timeout=20m $(TEST_FLAGS) -run='^TestCertManager$$' ./e2e/certs

.PHONY: test-gateways
test-gateways: controllers gateways ## Test with Envoy Gateway and Traefik, in a network namespace
	@cd e2e/gateways && go test -count=1 -timeout=20m $(TEST_FLAGS)

.PHONY: test-install
test-install: $(if $(KUBECONFIG),,controllers) helm certmanager ## Test what people install, in a node on this machine, or in the cluster of KUBECONFIG
	@$(if $(KUBECONFIG),,hack/programs kube-proxy)
	@cd e2e/install && go test -count=1 -timeout=20m $(TEST_FLAGS)

.PHONY: test-release
test-release: release-tools ## Test the image, the archives, and the checks of licenses and vulnerabilities
	@go test -count=1 -timeout=20m $(TEST_FLAGS) ./hack/release

.PHONY: test-faults
test-faults: controlplane ## Break the control plane and routesteward under load, each fault once
	@cd e2e/faults && CGO_ENABLED=$(if $(RACE),1,0) go test -count=1 -timeout=45m $(RACE) $(TEST_FLAGS)

.PHONY: model
model: ## Search the consent model deeper, in minutes, and count its states
	@go test -timeout=2h -v -run='TestModel|TestTeeth' ./webhook/model -model.deep

.PHONY: fuzz
fuzz: ## Fuzz every input, each for FUZZTIME (10m) [FUZZTIME=1m TARGETS=FuzzCheck]
	@FUZZTIME="$(FUZZTIME)" TARGETS="$(TARGETS)" hack/fuzz

# All other runs have the same random cases, so that they say the same of the same commit.
.PHONY: test-random
test-random: ## Test the engine and check with other random cases [ROUNDS=10, or SEED=4711 for one certain round]
	@for seed in $(or $(SEED),$$(shuf -n $(or $(ROUNDS),10) -i 1-4294967295)); do \
		echo "SEED=$$seed"; SEED=$$seed go test $(TEST_FLAGS) ./policy ./policy/check || exit 1; \
	done

.PHONY: coverage
coverage: ## Measure how much of the program the tests run that need no control plane: at least 95 % of policy, 80 % of everything
	@hack/coverage unit

.PHONY: bench
bench: controlplane build ## Measure, beside a baseline in the same run, and print Markdown for hack/BENCHMARKS.md [BENCH="admission burst check relocation"]
	@go test -run='^$$' -bench=. -benchmem -benchtime=200ms ./policy/... ./webhook/...
	@for name in $(or $(BENCH),admission burst check relocation); do go run ./hack/bench $$name $(BENCH_FLAGS) || exit 1; done

.PHONY: faults
faults: controlplane ## Break the control plane and routesteward under load, and print the tables for hack/BENCHMARKS.md (half an hour)
	@cd e2e/faults && go test -count=1 -v -timeout=60m -run=TestFaults -faults.long -faults.markdown=/dev/stdout

.PHONY: generate
generate: helm4 ## Regenerate the reference documentation and the list of licenses, and render the chart
	go generate ./...
	@mkdir -p bin/release && hack/release/licenses.sh table > bin/release/LICENSES.md && mv bin/release/LICENSES.md hack/release/LICENSES.md
	manifests/render

.PHONY: lint
lint: ## Check formatting and run go vet
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then printf 'not formatted, run gofmt -w:\n%s\n' "$$unformatted" >&2; exit 1; fi
	go vet ./...
