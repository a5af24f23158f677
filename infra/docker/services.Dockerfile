# Web server, daemon, code location, run workers, MLflow and migrations: no GPU libraries. From the repository's root:
#   docker build -f infra/docker/services.Dockerfile --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) \
#     -t <registry>/backdrop/services:$(git rev-parse --short HEAD) .
# BuildKit reads the ignore file beside this one; SOURCE_DATE_EPOCH dates the image by its commit. Python's packages
# are pinned by hash; the base by its tag, unless PYTHON is given as python@sha256:…
ARG PYTHON=python:3.11.13-slim-bookworm
FROM ${PYTHON} AS build
ARG SOURCE_DATE_EPOCH=0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONHASHSEED=0
WORKDIR /build
RUN python -m venv --copies /opt/backdrop
COPY requirements.txt pyproject.toml infra/docker/lock.py ./
# Without dependencies: the lock is complete, and what was left out must not come back.
RUN python lock.py requirements.txt pyproject.toml services > chosen.txt \
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
RUN groupadd --gid 10001 backdrop \
 && useradd --uid 10001 --gid 10001 --home-dir /state --no-create-home --shell /usr/sbin/nologin backdrop \
 && pip uninstall --yes --quiet --root-user-action ignore setuptools wheel pip
COPY --from=build /opt/backdrop /opt/backdrop
ENV PATH=/opt/backdrop/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/state BACKDROP_STATE=/state
WORKDIR /tmp
USER 10001:10001
# No ENTRYPOINT: run workers are started by their arguments alone.
CMD ["backdrop", "--help"]
