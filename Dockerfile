# One small image with the programs claygate, ingest and worker. docker-compose.yml says how they are run.

# What decides about dependencies: the manifests, the lock file, and an empty source for every target. Docker compares
# copied files by content, so the dependencies below are built again only when one of these changes.
FROM debian:trixie-slim AS manifests
WORKDIR /src
COPY . .
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock ! -name build.rs \
        ! -path './*/src/lib.rs' ! -path './*/src/main.rs' ! -path './*/benches/*.rs' -delete \
    && find . -type d -empty -delete \
    && find . -name '*.rs' -exec sh -c 'for file; do echo "fn main() { }" > "$file"; done' stubs {} +

FROM rust:1.95-slim-trixie AS build
WORKDIR /src
# Lines of code in backtraces would double the size; the names of functions stay.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
COPY --from=manifests /src .
RUN cargo build --locked --release --package cli --package ingest --package worker
COPY . .
# Cargo compares times, and what was copied may be older than the empty sources.
RUN find . -name '*.rs' -exec touch {} + \
    && cargo build --locked --release --package cli --package ingest --package worker

FROM debian:trixie-slim
# Destinations' certificates are checked against these.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/claygate /src/target/release/ingest /src/target/release/worker /usr/local/bin/
# A fresh volume takes the owner of the folder that it is mounted over.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/claygate/secrets /var/lib/claygate/spool \
    && install --directory --owner=10001 --group=10001 /services/postgres /services/rabbitmq
USER 10001:10001
WORKDIR /var/lib/claygate
EXPOSE 8080 8081
CMD ["claygate", "--help"]
