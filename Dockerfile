# syntax=docker/dockerfile:1
# The harness in an image, for a CPU by default:
#   docker build -t dit-harness .
#   docker run --rm -v "$PWD/runs:/work/runs" dit-harness run sddit-tiny
# and for NVIDIA GPUs (the driver and its container toolkit are the host's):
#   docker build -t dit-harness:cuda --build-arg TORCH_INDEX=ADDRESS .
#   docker run --rm --gpus all --shm-size=8g -v "$PWD/runs:/work/runs" dit-harness:cuda doctor
# PyTorch's wheels bring their own CUDA libraries, so both are built on the same small base. On Linux the package
# index's torch is the one for CUDA.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=ADDRESS
ARG EXTRAS=vit,slurm,lmdb,energy
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/harness
ENV PATH=/opt/harness/bin:$PATH
# The largest layer first, so that a change of the source does not fetch torch again. What these two need comes with the
# rest, from the package index: PyTorch's own has other versions of it.
COPY constraints.txt ./
RUN pip install --no-deps --index-url "${TORCH_INDEX}" --constraint constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE CITATION.cff ./
COPY harness harness
COPY baselines baselines
RUN pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="dit-harness" \
      org.opencontainers.image.description="Reproducibility benchmark harness for training-efficient diffusion transformers" \
      org.opencontainers.image.licenses="MIT"
# A compiler, for --compile and Triton's kernels.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 harness && install --directory --owner=harness /work /cache /data
COPY --from=build /opt/harness /opt/harness
ENV PATH=/opt/harness/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HARNESS_CACHE=/cache \
    HARNESS_DATA=/data \
    HF_HOME=/cache/huggingface \
    TORCH_HOME=/cache/torch
USER harness
WORKDIR /work
ENTRYPOINT ["harness"]
CMD ["--help"]
