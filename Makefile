# Everything here works on a machine with Go, git, make and root; see README.md.

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
BIN      := .bin
TIDEGATE := $(BIN)/tidegate
CLUSTER  := $(BIN)/tidegate-cluster
PEERS    := $(BIN)/buildkitd

# One way of compiling for all that is built here, the tests, the linter and the
# local Kubernetes, so that a package is compiled once: without C, which makes the
# binary run on any Linux, and with the paths that tests have. Only the race
# detector needs C.
export CGO_ENABLED := 0

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# What rollouts are compared with.
ROLLOUT_PEERS := $(BIN)/rollouts-controller $(BIN)/flagger

# Without internal/component and e2e: the one links all of Kubernetes, the other runs it.
CLUSTER_TESTS := ./build/... $(patsubst deploy/cluster/%,./%,$(filter-out %/component,$(wildcard deploy/cluster/internal/*)))

.DEFAULT_GOAL := help
.PHONY: help packages packages-test build cluster-build kwok cluster-up cluster-down demo test test-unit test-e2e test-crash peers peers-rollout bench bench-build bench-rollout lint clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

packages: ## Install the Debian packages that the demo needs
	@./.ci/packages

packages-test: ## Install those that the tests need as well
	@./.ci/packages test

build: ## Build the tidegate binary into .bin/
	@mkdir -p $(BIN)
	go build -ldflags '$(LDFLAGS)' -o $(TIDEGATE) ./cmd/tidegate

cluster-build: ## Compile the local Kubernetes (minutes the first time, seconds after)
	@mkdir -p $(BIN)
	cd deploy/cluster && go run ./build -o ../../$(CLUSTER)

kwok: $(BIN)/kwok ## Compile KWOK, for tests with nodes that this machine has no room for

# A tool of the local Kubernetes' module: it is made of the same packages.
$(BIN)/kwok: deploy/cluster/go.mod deploy/cluster/go.sum
	@mkdir -p $(BIN)
	cd deploy/cluster && go build -ldflags '-s -w' -o ../../$@ tool
	@touch $@

cluster-up: cluster-build ## Start the local Kubernetes
	$(CLUSTER) up

cluster-down: ## Stop the local Kubernetes and remove its state
	@if [ -x $(CLUSTER) ]; then $(CLUSTER) down; fi

demo: packages build cluster-build ## The whole story on this machine (KEEP=1 leaves it running)
	$(TIDEGATE) demo $(if $(KEEP),--keep)

test: lint test-unit test-e2e ## Everything that CI runs

# Vetted by lint. The image builder comes first because its tests take longest: they
# run while the rest compiles. Two packages have tests without the race detector (!race).
test-unit: packages-test ## Unit, property and race tests of every package
	CGO_ENABLED=1 go test -race -vet=off -timeout 30m ./stages/image ./...
	go test -vet=off ./cmd/tidegate ./internal/baseimage
	cd examples/shop && go test ./...
	cd deploy/cluster && go test $(CLUSTER_TESTS)

test-e2e: packages-test build peers cluster-build kwok ## End-to-end tests through the real binary on the real cluster
	./.ci/e2e

test-crash: packages-test build cluster-build kwok ## Rollouts killed at each of their writes, with real pods under live traffic (test-e2e: with KWOK's)
	TIDEGATE_CRASHES=traffic ./.ci/e2e -run TestKilledAtEvery -v

bench: packages build cluster-build ## Whole-system measurements, as quoted in README.md
	./.ci/bench

peers: $(PEERS) ## Compile what the image builder is compared with (minutes the first time)

$(PEERS): internal/peers/go.mod internal/peers/go.sum
	@mkdir -p $(BIN)
	cd internal/peers && go build -ldflags '-s -w' -o ../../$(BIN)/ tool
	@touch $@

bench-build: packages build peers ## The image builder against BuildKit and Buildah (ROWS=regexp selects)
	./.ci/bench-build -run '$(ROWS)'

peers-rollout: $(ROLLOUT_PEERS) ## Compile what rollouts are compared with (minutes the first time)

$(BIN)/rollouts-controller: internal/peers/argo/go.mod internal/peers/argo/go.sum
$(BIN)/flagger: internal/peers/flagger/go.mod internal/peers/flagger/go.sum
$(ROLLOUT_PEERS):
	@mkdir -p $(BIN)
	cd $(<D) && go build -ldflags '-s -w' -o ../../../$@ tool
	@touch $@

bench-rollout: packages-test build cluster-build kwok peers-rollout ## Rollouts against Deployments, Argo Rollouts, Flagger (ROWS=regexp selects)
	./.ci/bench-rollout -run '$(ROWS)'

lint: ## gofmt, vet, golangci-lint; govulncheck where its data can be reached
	./.ci/lint $(GOLANGCI_LINT) $(GOVULNCHECK)

clean: cluster-down ## Remove what was built and started
	rm -rf $(BIN) .cluster
