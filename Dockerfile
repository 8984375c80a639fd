# The image of pyproxy, for amd64 and arm64: `make image`, or docker buildx build --platform ...
#
# Debian's own Python rather than the python image: Python, nft and the C library then have one supplier
# and one stream of security fixes, it is what the tests run on, and it is a third smaller. The tag is
# that of a release, which Debian rebuilds with its fixes.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip
WORKDIR /build
COPY deploy/requirements.lock deploy/requirements-build.lock ./
# Wheels only: there is no compiler here. Each has its hash in the lock, those for both architectures.
RUN python3 -m venv --without-pip /opt/build \
    && python3 -m venv --without-pip /opt/pyproxy \
    && python3 -m pip --python /opt/build/bin/python install --no-cache-dir --only-binary :all: \
       --require-hashes -r requirements-build.lock \
    && python3 -m pip --python /opt/pyproxy/bin/python install --no-cache-dir --only-binary :all: \
       --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY deploy/examples deploy/examples
COPY pyproxy pyproxy
COPY deploy/image deploy/image
# Without stat(2) for each module at the start: nothing in the image changes.
RUN /opt/build/bin/python -m hatchling build -t wheel -d /build/dist \
    && python3 -m pip --python /opt/pyproxy/bin/python install --no-cache-dir --no-deps --no-index \
       /build/dist/*.whl \
    && /opt/pyproxy/bin/python deploy/image/prune.py /opt/pyproxy \
    && /opt/pyproxy/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/pyproxy/lib

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 nftables \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=build /opt/pyproxy /opt/pyproxy
ENV PATH=/opt/pyproxy/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pyproxy" \
      org.opencontainers.image.description="A userspace Service proxy for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
# root, as capabilities of a pod are effective for root only; deploy/base takes all others away. What
# needs none, such as `pyproxy explain --manifests`, runs as any user.
USER 0
ENTRYPOINT ["/opt/pyproxy/bin/pyproxy"]
CMD ["--help"]
