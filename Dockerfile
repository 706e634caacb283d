# alexnet-fast as an image. tools/image builds it with the commit and runs the demo in it.
# CUDA comes with the wheels; the driver comes from the host, through NVIDIA's container toolkit.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- what pyproject.toml asks for, in the versions of constraints.txt: again only when one of the two changes
FROM ${BASE_IMAGE} AS packages
ARG EXTRAS="parquet cluster s3 http export"
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN python -m venv --without-pip /opt/venv
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import sys, tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *sum(map(project['optional-dependencies'].get, sys.argv[1:]), []), sep='\n')" ${EXTRAS} \
    > requirements.txt \
    && pip --python /opt/venv install --constraint constraints.txt --requirement requirements.txt
