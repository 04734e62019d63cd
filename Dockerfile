# The command scvenn, with the tested set of packages for Python 3.12:
#
#   docker build -t scvenn .
#   docker run --rm --gpus all -v "$PWD:/data" scvenn train pbmc.h5mu --out embedded.h5mu
#
# A smaller image for machines without a GPU has PyTorch's build for CPUs:
#
#   docker build -t scvenn --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .

FROM python:3.12-slim-bookworm
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /scvenn
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY src src
RUN pip install -c constraints/py312.txt ".[all]"

# numba and matplotlib write caches, also for the users that `docker run --user` sets
ENV NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --create-home scvenn
USER scvenn
WORKDIR /data
ENTRYPOINT ["scvenn"]
CMD ["--help"]
