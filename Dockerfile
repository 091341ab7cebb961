# The three programs, as `cargo build --release --workspace --bins` left them in target/release: build them on a system
# whose C library is not newer than that of the base.
ARG BASE=debian:stable-slim
FROM ${BASE}
ARG BINARIES=target/release
COPY ${BINARIES}/rustygate-control-plane ${BINARIES}/rustygate-data-plane ${BINARIES}/gatectl /usr/local/bin/
RUN mkdir /data && chown 65534:65534 /data
USER 65534:65534
WORKDIR /data
VOLUME /data
