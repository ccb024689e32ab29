#!/usr/bin/env bash
# All that can be said of the source without running it, cheapest first.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$repository"

requirements=scripts/lint-requirements.txt
linters="$cache/lint/$(fingerprint "$requirements")"
cached "$linters" virtual_environment "$repository/$requirements"

step() {
    say "$*"
    "$@"
}

step cargo fmt --check
step "$linters/bin/typos" --quiet
step "$linters/bin/ruff" check --quiet --no-cache tests/python
step "$linters/bin/ruff" format --check --quiet --no-cache tests/python
step "$linters/bin/shellcheck" -x scripts/*.sh .ci/run
step "$linters/bin/python" -m yamllint --strict -c scripts/yamllint.yaml docker-compose.yml collector-config tests/peers
if docker compose version >/dev/null 2>&1; then
    step docker compose config --quiet
fi
step cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps --document-private-items
