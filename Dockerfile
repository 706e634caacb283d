# alexnet-fast as an image; tools/image builds it with the commit and runs the demo in it.
# CUDA comes with the wheels, the driver from the host through NVIDIA's container toolkit.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- our own wheel, with its C files compiled
FROM ${BASE_IMAGE} AS build
# Debian keeps one version of a package: a pinned one would be gone with its next update.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY alexnet_fast alexnet_fast
RUN PIP_CONSTRAINT=/src/constraints.txt pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# --- what pyproject.toml asks for
FROM ${BASE_IMAGE} AS requirements
COPY pyproject.toml /
ARG EXTRAS="parquet cluster s3 http export"
RUN python -c "import sys, tomllib; project = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *sum(map(project['optional-dependencies'].get, sys.argv[1:]), []), sep='\n')" ${EXTRAS} \
    > /requirements.txt

# --- the image. First its packages, made again only when the requirements or the constraints change; with bytecode, which
# a read-only root could not keep, of all but a few files for other Pythons.
FROM ${BASE_IMAGE}
ENV PATH=/opt/venv/bin:$PATH
# Triton compiles a part of itself when it is first used on a GPU.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=requirements,source=/requirements.txt,target=/requirements.txt \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv install --no-compile --constraint /constraints.txt --requirement /requirements.txt \
    && { python -W ignore -m compileall -qq -j 0 /usr/local/lib/python3* /opt/venv || true; }
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip --python /opt/venv install --no-cache-dir --no-index --no-deps /wheels/*.whl

# Any --user may write to the volumes, and nothing needs a home or a name: caches go to /tmp.
# The command line's own default paths, shards/imagenet and runs/..., lie on them too. `video`: the toolkit mounts
# libnvcuvid, through which nvJPEG uses the GPU's JPEG hardware.
RUN mkdir --mode=1777 /data /runs && ln -s /data /shards
ENV HOME=/tmp USER=alexnet-fast MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
WORKDIR /
VOLUME ["/data", "/runs"]
USER 10001:10001
ENTRYPOINT ["alexnet-fast"]
CMD ["--help"]
HEALTHCHECK --interval=1m --timeout=10s CMD ["alexnet-fast", "--version"]

ARG COMMIT=unknown
ENV ALEXNET_FAST_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="alexnet-fast" \
      org.opencontainers.image.description="A fast AlexNet trainer for ImageNet-style data" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${COMMIT}"
