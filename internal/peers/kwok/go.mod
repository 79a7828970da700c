// KWOK, which plays the kubelet of nodes that do not exist, for measurements
// with more pods than one machine can run. A module of its own, so that none of
// it is in the product's.
module github.com/tidegate-ci/tidegate/internal/peers/kwok

go 1.26.3

tool sigs.k8s.io/kwok/cmd/kwok

require sigs.k8s.io/kwok v0.7.0 // indirect
