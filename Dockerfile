# The same lock, on a system whose C runtime is new enough for TFX 1.21's wheels.
FROM debian:13-slim AS build
# g++ for pyfarmhash, which has no wheel; it stays behind in this stage.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates g++ python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
# Debian 13 has Python 3.13, TFX's kfp extra ends at 3.11: uv brings that one.
ENV UV_PYTHON_INSTALL_DIR=/opt/python UV_LINK_MODE=copy
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv
RUN /opt/uv/bin/uv venv --python 3.11 /opt/tfx-vision
WORKDIR /src
COPY requirements.lock ./
RUN /opt/uv/bin/uv pip install --no-cache --python /opt/tfx-vision --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY pipeline pipeline
COPY components components
COPY trainer_module trainer_module
COPY serving serving
RUN /opt/uv/bin/uv pip install --no-cache --python /opt/tfx-vision --no-deps --no-build-isolation .

FROM debian:13-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --create-home tfx-vision
COPY --from=build /opt/python /opt/python
COPY --from=build /opt/tfx-vision /opt/tfx-vision
ENV PATH=/opt/tfx-vision/bin:$PATH PYTHONUNBUFFERED=1 TF_USE_LEGACY_KERAS=0
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /home/tfx-vision
ENTRYPOINT ["tfx-vision"]
CMD ["--help"]
