# One set of commands for people and CI. Whatever is longer than a line is in scripts/.
.PHONY: check test peers demo bench ci

# Format, spelling, lints, documentation.
check:
	scripts/check.sh

# Every test, the end-to-end ones with the real Collector, the real Jaeger and Python workers included.
test: peers
	cargo test --locked

# What the end-to-end tests need beside this repository; some minutes once per machine, then nothing.
peers:
	scripts/peers.sh
	scripts/python-env.sh

# The bridge with simulated workers, and the traces that it rebuilds.
demo:
	cargo run --release --locked -- demo

bench:
	cargo bench --locked

# What CI runs.
ci:
	.ci/run
