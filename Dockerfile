# One image for pipeline steps, Beam workers and the local server; VARIANT is cpu, or gpu with CUDA's libraries in it.
#   make image                      tfx-vision:cpu
#   make image VARIANT=gpu          tfx-vision:gpu
ARG VARIANT=cpu

FROM debian:13-slim AS build
ARG VARIANT
# g++ for pyfarmhash, which has no wheel; it stays behind in this stage.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates g++ python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
# Debian 13 has Python 3.13, TFX's kfp extra ends at 3.11: uv brings that one.
ENV UV_PYTHON_INSTALL_DIR=/opt/python UV_LINK_MODE=copy
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv
RUN /opt/uv/bin/uv venv --python 3.11 --managed-python /opt/tfx-vision
WORKDIR /src
COPY requirements.lock requirements-${VARIANT}.lock ./
# Compiled here: user 10001 cannot write bytecode, and every pod would compile TensorFlow and TFX again.
RUN /opt/uv/bin/uv pip install --no-cache --compile-bytecode --python /opt/tfx-vision --require-hashes --no-deps \
      -r requirements-${VARIANT}.lock \
 && /opt/tfx-vision/bin/python -m compileall -q -j 0 -x 'lib2to3|/test/' /opt/python
COPY pyproject.toml README.md LICENSE ./
COPY pipeline pipeline
COPY components components
COPY trainer_module trainer_module
COPY serving serving
# What builds the wheel is locked too, and not part of the image.
RUN /opt/uv/bin/uv build --no-cache --python /opt/tfx-vision --wheel --out-dir /wheels \
      --build-constraints requirements.lock --require-hashes \
 && /opt/uv/bin/uv pip install --no-cache --compile-bytecode --python /opt/tfx-vision --no-deps /wheels/*.whl

FROM debian:13-slim
# libstdc++6: every package with native code needs it.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --create-home tfx-vision \
 # Where Kubeflow's launcher puts what a step reads and takes what it writes; it runs as this user.
 && install --directory --owner tfx-vision --group tfx-vision /minio /s3 /gcs
COPY --from=build /opt/python /opt/python
COPY --from=build /opt/tfx-vision /opt/tfx-vision
ENV PATH=/opt/tfx-vision/bin:$PATH PYTHONUNBUFFERED=1 TF_USE_LEGACY_KERAS=0
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /home/tfx-vision
# A pipeline step names its own command, as do Beam workers:
#   python -m apache_beam.runners.worker.worker_pool_main --service_port 50000
# and the local server: tensorflow_model_server --port=8500 ...
ENTRYPOINT ["tfx-vision"]
CMD ["--help"]
