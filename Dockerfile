# syntax=docker/dockerfile:1

# The bridge in a small image: one binary, no shell, not root.
FROM rust:1.90-bookworm AS build
# aws-lc, the TLS library, is C that cmake builds.
RUN apt-get update && apt-get install --yes --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin snakepit-otel-bridge && \
    strip --strip-debug -o /snakepit-otel-bridge target/release/snakepit-otel-bridge

# glibc, libgcc and certificates, and nothing that could be run but the bridge.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /snakepit-otel-bridge /usr/local/bin/snakepit-otel-bridge
# Workers, and the admin port. Both listen on loopback unless told otherwise (SNAKEPIT_BRIDGE_LISTEN,
# SNAKEPIT_BRIDGE_ADMIN_LISTEN): see docker-compose.yml.
EXPOSE 50061 9464
# There is no curl here, so the binary asks itself.
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/snakepit-otel-bridge", "check", "--ready", "http://127.0.0.1:9464"]
ENTRYPOINT ["/usr/local/bin/snakepit-otel-bridge"]
CMD ["serve"]
