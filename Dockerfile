# syntax=docker/dockerfile:1
# The harness in an image, for a CPU:
#   docker build -t dit-harness --build-arg TORCH_INDEX=ADDRESS .
#   docker run --rm -v "$PWD/runs:/work/runs" dit-harness run sddit-tiny
# and for NVIDIA GPUs (the driver and its container toolkit are the host's):
#   docker build -t dit-harness:cuda .
#   docker run --rm --gpus all --shm-size=8g -v "$PWD/runs:/work/runs" dit-harness:cuda doctor
# ADDRESS is that of PyTorch's CPU wheels, as its installation page gives it. Without it pip's own index is asked, whose
# torch is the one for CUDA on Linux. The wheels bring their own CUDA libraries, so both are built on the same small base.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=
ARG EXTRAS=vit,lmdb,energy
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/harness
ENV PATH=/opt/harness/bin:$PATH
# The largest layer first, so that a change of the source does not fetch torch again. What these two need comes with the
# rest, from the package index: PyTorch's own has other versions of it.
COPY constraints.txt ./
RUN pip install --no-deps ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} --constraint constraints.txt torch torchvision
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
