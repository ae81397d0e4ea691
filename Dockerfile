# Kimi K2 on NVIDIA GPUs: Triton, SGLang with its CUDA dependencies, and this package. Not built here (not run), and not
# measured on GPU. docs/deployment.md says what was checked without a GPU and how to run the image on one node and on two.
#
#   docker build -t kimi-k2-triton .
#
# Use Triton 26.05 or later: with earlier ones clients may map the server's shared memory. In production, name the image
# by its digest: --build-arg TRITON_IMAGE=nvcr.io/nvidia/tritonserver@sha256:...
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.09-py3
FROM ${TRITON_IMAGE}

USER 0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# The engine compiles kernels when it starts for the first time: with g++ and Python's headers, which the base image may
# lack, and with the lock's nvcc. Without libibverbs NCCL silently takes sockets between nodes.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      g++ ibverbs-providers libibverbs1 python3-dev \
 && rm -rf /var/lib/apt/lists/*

# A virtual environment, because pip can't replace the image's Debian packages. Triton's Python stub (3.12) takes its
# packages from the first python3 on PATH. The lock has pyproject.toml's pins without nvidia-pytriton (the image is
# Triton), the CUDA build of torch that SGLang requires, and all their dependencies.
ENV PATH=/opt/kimi-k2/bin:${PATH}
COPY requirements/serve-gpu.txt /opt/kimi-k2/
RUN python3 -m virtualenv /opt/kimi-k2 \
 && pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: -r /opt/kimi-k2/serve-gpu.txt

# flashinfer's precompiled kernels for Blackwell. They are fetched here, into a directory that no volume hides, and never
# by a running server. flashinfer's own command reports success for a failed download, so its list is checked.
ENV FLASHINFER_CUBIN_DIR=/opt/kimi-k2/cubins
RUN python3 -c "from flashinfer import artifacts; artifacts.download_artifacts(); \
missing = [name for name, found in artifacts.get_artifacts_status() if not found]; \
raise SystemExit(f'{len(missing)} kernels are missing, such as {missing[0]}' if missing else 0)" \
 && chmod -R a+rX,go-w /opt/kimi-k2/cubins
ENV FLASHINFER_NO_DOWNLOAD=1

WORKDIR /opt/kimi-k2/src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY backend ./backend
COPY client ./client
COPY backend/sglang/model.py /opt/tritonserver/backends/sglang/model.py
COPY model_repository /models
# All users may read these files and only root may write them, whatever the umask of the checkout was. The server writes
# only to its home directory: the tokenizer made from tiktoken.model, and the kernels that SGLang compiles when it starts
# for the first time.
RUN pip install --no-cache-dir --no-deps . \
 && chmod -R a+rX,go-w /models /opt/tritonserver/backends/sglang \
 && install --directory --owner=1000 --group=1000 --mode=0750 /var/lib/kimi-k2 \
 && install --directory --mode=0755 /checkpoint

# The toolkit of the lock's wheels, for every compiler that looks for one. If it does not compile, the build fails.
ENV CUDA_HOME=/opt/kimi-k2/lib/python3.12/site-packages/nvidia/cu13
RUN python3 -m kimi_k2_serving.launch.prove_cuda --complete

COPY --chmod=0755 <<'EOF' /opt/kimi-k2/bin/kimi-k2-server
#!/bin/sh
# tritonserver, hardened. Your arguments come last: the last value of a repeated flag counts. The closed interfaces
# demand a header that no request can carry, so nobody can use them.
set -eu
umask 077
: "${KIMI_K2_PRESET:?set it to the preset that fits this machine, for example b200-8}"
closed='shared-memory,trace,logging:no header:opens=this'
exec tritonserver \
  --model-repository=/models \
  --model-control-mode=none \
  --disable-auto-complete-config \
  --exit-on-error=true \
  --strict-readiness=true \
  --exit-timeout-secs=600 \
  --allow-sagemaker=false \
  --allow-vertex-ai=false \
  --http-restricted-api="$closed" \
  --grpc-restricted-protocol="$closed" \
  --log-verbose=0 \
  "$@"
EOF

# KIMI_K2_PRESET has no default, because it depends on the machine. No byte code is written, because /models is read-only.
ENV HOME=/var/lib/kimi-k2 \
    KIMI_K2_CHECKPOINT=/checkpoint \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1
VOLUME ["/checkpoint", "/var/lib/kimi-k2"]
EXPOSE 8000 8001 8002

# The user triton-server of NVIDIA's images, as a number: an orchestrator can then check that it is not root.
USER 1000:1000
WORKDIR /var/lib/kimi-k2

# Loading a terabyte of weights and a first compilation take long: until a check has succeeded, failures do not count for
# as long as the presets' start_timeout_seconds.
HEALTHCHECK --start-period=7200s --interval=10s --timeout=5s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]

# NVIDIA's entrypoint sets up the CUDA compatibility libraries, then runs what follows.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "kimi-k2-server"]
CMD []
