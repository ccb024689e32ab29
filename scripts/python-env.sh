#!/usr/bin/env bash
# Makes the virtual environment in which the tests run Python workers, once per machine, and prints its interpreter.
#
#   scripts/python-env.sh           make it if it is not there; print the path of its python
#   scripts/python-env.sh --where   print the path only, fail if the environment is not there
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

requirements=$repository/tests/python/requirements.txt
environment="$cache/python/$(fingerprint "$requirements")"

case "${1:-}" in
"") cached "$environment" virtual_environment "$requirements" ;;
--where) [ -d "$environment" ] || die "the tests' Python environment is not there; run: make peers" ;;
*) die "unknown argument $1" ;;
esac
echo "$environment/bin/python"
