#!/bin/sh
# Runs Prometheus (Debian: apt-get install prometheus) on this machine for the pods
# of a namespace. Debian's build cannot ask the API server which they are, so that
# this asks for it. In your cluster you have one that can; see README.md.
# usage: monitoring/prometheus.sh NAMESPACE [PORT]
set -eu
namespace=$1 port=${2:-9090}
data=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$data"' EXIT
trap 'exit 0' INT TERM

cat >"$data/prometheus.yml" <<END
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - job_name: pods
    file_sd_configs: [{files: ["$data/targets.json"], refresh_interval: 1s}]
END

# Only pods with an address; each gets its name as the label "pod".
pods='{range .items[?(@.status.podIP)]}{"{\"targets\":[\""}{.status.podIP}{":8080\"],\"labels\":{\"pod\":\""}{.metadata.name}{"\"}}\n"}{end}'
targets() {
  while sleep 1; do
    if found=$(kubectl get pods -n "$namespace" -o jsonpath="$pods"); then
      printf '[%s]' "$(printf '%s' "$found" | paste -sd, -)" >"$data/targets.new"
      mv "$data/targets.new" "$data/targets.json"
    fi
  done
}
targets &
prometheus --config.file="$data/prometheus.yml" --storage.tsdb.path="$data/tsdb" --web.listen-address="127.0.0.1:$port" --log.level=warn &
wait $!
