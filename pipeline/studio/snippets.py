"""The request of the page as code: for Python, curl and the command line."""

from __future__ import annotations

import shlex
from typing import NamedTuple


class Snippet(NamedTuple):
    """One snippet: its name, the language and the text."""

    title: str
    text: str


_IMAGE = "image.png"
_COMMANDS = {
    "predict": f"tfx-vision predict {_IMAGE} --top-k 5",
    "segment": f"tfx-vision segment {_IMAGE} --output-dir masks",
    "detect": f"tfx-vision detect {_IMAGE} --output-dir boxes",
}
_PRINTED = {
    "predict": "print(result.label, result.score)",
    "segment": 'Path("mask.png").write_bytes(result.png)',
    "detect": "print(result.above({threshold:g}))",
}


def snippets(method: str, model: str, version: int, *, grpc: str, rest: str, threshold: float = 0.5) -> list[Snippet]:
    """Returns the snippets of one request.

    Args:
      method: `predict`, `segment` or `detect`.
      model: Name of the model.
      version: The version.
      grpc: HOST:PORT of the server.
      rest: URL of its REST API.
      threshold: Smallest score of shown objects.
    """
    printed = _PRINTED[method].format(threshold=threshold)
    imports = "from pathlib import Path\n\n" if "Path(" in printed else ""
    python = (
        f"{imports}from serving.client import GrpcClient\n\n"
        f"with GrpcClient({grpc!r}, {model!r}, version={version}) as client:\n"
        f"    (result,) = client.{method}([{_IMAGE!r}]).or_raise()\n"
        f"{printed}\n"
    )
    body = '{"instances": [{"b64": "%s"}]}'
    url = f"{rest}/v1/models/{model}/versions/{version}:predict"
    curl = f'printf {shlex.quote(body)} "$(base64 -w0 {_IMAGE})" |\n  curl -s --data @- {shlex.quote(url)}\n'
    shell = f"{_COMMANDS[method]} \\\n  --grpc {shlex.quote(grpc)} --model {shlex.quote(model)} --version {version}\n"
    return [Snippet("Python", python), Snippet("curl", curl), Snippet("Command line", shell)]
