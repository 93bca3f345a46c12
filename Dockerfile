# For CUDA machines; the steps are the README's.
#
#     docker build -t mmmanikey .
#     docker run --gpus all --shm-size 8g -it -v /path/to/data:/workspace/data mmmanikey
#
# The toolkit's major version must be that of torch.version.cuda, since mmcv compiles its
# operators with it.
FROM nvidia/cuda:13.0.2-devel-ubuntu22.04

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++ git libgl1 libglib2.0-0 make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /workspace
COPY . .

# No GPU is in sight during a build: say that one is meant, and which ones.
ARG TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0+PTX"
RUN FORCE_CUDA=1 make setup EXTRA=demo

# As in the build: else make, run without a GPU, would compile mmcv anew.
ENV FORCE_CUDA=1 \
    PATH=/workspace/.venv/bin:$PATH
CMD ["bash"]
