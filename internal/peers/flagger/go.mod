// Flagger's controller, which rollouts are measured against by
// `make bench-rollout`. A module of its own: it needs older libraries than the
// product.
module github.com/tidegate-ci/tidegate/internal/peers/flagger

go 1.26.3

tool github.com/fluxcd/flagger/cmd/flagger

require github.com/fluxcd/flagger v1.36.1 // indirect
