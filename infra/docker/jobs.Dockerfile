# GPU jobs, and the studio: the whole line with PyTorch and its CUDA libraries, which come from the lock too; the node
# brings the driver. From the repository's root:
#   docker build -f infra/docker/jobs.Dockerfile --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) \
#     -t <registry>/backdrop/jobs:$(git rev-parse --short HEAD) .
# BuildKit reads the ignore file beside this one; SOURCE_DATE_EPOCH dates the image by its commit. Python's packages
# are pinned by hash; the base by its tag, unless PYTHON is given as python@sha256:…; gcc is Debian's of the day.
ARG PYTHON=python:3.11.13-slim-bookworm
FROM ${PYTHON} AS build
ARG SOURCE_DATE_EPOCH=0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONHASHSEED=0
WORKDIR /build
RUN python -m venv --copies /opt/backdrop
COPY requirements.txt pyproject.toml infra/docker/lock.py ./
# Without dependencies: the lock is complete.
RUN python lock.py requirements.txt pyproject.toml jobs > chosen.txt \
 && /opt/backdrop/bin/pip install --require-hashes --no-deps --no-compile --only-binary :all: -r chosen.txt
COPY README.md LICENSE pyproject.toml /opt/backdrop/src/
COPY orchestration /opt/backdrop/src/orchestration
COPY assets /opt/backdrop/src/assets
COPY training /opt/backdrop/src/training
COPY evaluation /opt/backdrop/src/evaluation
COPY deploy /opt/backdrop/src/deploy
COPY infra /opt/backdrop/src/infra
# As `make install` does it: data versions are hashes of these sources, wherever they lie.
RUN /opt/backdrop/bin/pip install --no-deps --no-build-isolation --editable /opt/backdrop/src \
 && /opt/backdrop/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/backdrop/lib /opt/backdrop/src \
 && /opt/backdrop/bin/pip uninstall --yes --quiet pip

FROM ${PYTHON}
# torch.compile: Triton builds a small launcher for its kernels with the C compiler, in the pod.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache
RUN groupadd --gid 10001 backdrop \
 && useradd --uid 10001 --gid 10001 --home-dir /scratch --no-create-home --shell /usr/sbin/nologin backdrop \
 && pip uninstall --yes --quiet --root-user-action ignore setuptools wheel pip
COPY --from=build /opt/backdrop /opt/backdrop
ENV PATH=/opt/backdrop/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/scratch BACKDROP_STATE=/scratch \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
USER 10001:10001
# The launcher says `python -m infra.jobs.kubernetes.pod …`.
CMD ["python", "-m", "infra.jobs.kubernetes.pod", "--help"]
