"""The commands that ask a model server: predict, segment, explain, similar. They start without TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, FAILED, print_json, say, stop
from pipeline.cli.errors import one_message
from pipeline.cli.options import JsonOption, with_options
from trainer_module.error_text import first_line

if TYPE_CHECKING:
    from serving import client as clients

Answer = TypeVar("Answer")
Entry = TypeVar("Entry")
Errors = list[dict[str, str]]

_PICTURE_SUFFIXES = (".gif", ".jpeg", ".jpg", ".png")

ImagesArgument = Annotated[list[Path], typer.Argument(help="JPEG or PNG files.", metavar="IMAGE...")]


@dataclass(frozen=True, kw_only=True)
class Server:
    """The server that a command asks. The fields are options of all the commands here."""

    model: Annotated[str, typer.Option(help="The name that the server knows.")] = "digits"
    grpc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Ask over gRPC (the default).")] = None
    rest: Annotated[str | None, typer.Option(metavar="URL", help="Ask over REST.")] = None
    version: Annotated[int | None, typer.Option(min=0, help="Ask this version; default: the newest.")] = None
    label: Annotated[str | None, typer.Option(help="Ask the version of this label.")] = None
    timeout: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="The longest that a batch may take, retries included.")
    ] = 30.0
    batch_size: Annotated[int, typer.Option(min=1, help="The most pictures in one request.")] = 32
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS over gRPC; REST does so by https://.")] = False
    ca_file: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Authorities to trust instead of the system's.")
    ] = None
    cert_file: Annotated[Path | None, typer.Option(metavar="PEM", help="The client's own certificate.")] = None
    key_file: Annotated[Path | None, typer.Option(metavar="PEM", help="Its key.")] = None
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the bearer token; needs TLS but on this machine.")
    ] = None

    def connect(self) -> clients.Client:
        """Makes the client.

        Raises:
          ValueError: If options do not go together, or a file cannot be read.
        """
        from serving import client as clients

        if self.grpc and self.rest:
            raise ValueError("Give --grpc or --rest, not both.")
        options: clients.ClientOptionKeys = {
            "version": self.version,
            "label": self.label,
            "timeout_s": self.timeout,
            "batch_size": self.batch_size,
            "tls": self.tls,
            "ca_file": self.ca_file,
            "cert_file": self.cert_file,
            "key_file": self.key_file,
            "token": self._token(),
        }
        if self.rest:
            return clients.RestClient(self.rest, self.model, **options)
        return clients.GrpcClient(self.grpc or "127.0.0.1:8500", self.model, **options)

    def _token(self) -> str | None:
        """Out of a file: whoever lists the processes of a machine reads their command lines."""
        if self.token_file is None:
            return None
        try:
            return self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ValueError(f"--token-file: {self.token_file}: {reason}") from None


@with_options(Server, "server")
def predict(
    images: ImagesArgument,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes to show for each picture.")] = 1,
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Asks a model server what is on pictures."""
    rows, errors = [], Errors()
    asked = _asked(server, images, images, lambda client, batch: client.predict(batch, top_k), errors)
    for path, prediction in asked:
        if not as_json:
            print(f"{path}  {'  '.join(f'{label} {score:.6f}' for label, score in prediction.top)}")
        top = [{"label": label, "score": score} for label, score in prediction.top]
        rows.append({"image": str(path), "label": prediction.label, "score": prediction.score, "top": top})
    _finish("predict", {"predictions": rows}, errors, as_json)


@with_options(Server, "server")
def segment(
    images: ImagesArgument,
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Receives a PNG of class ids for every picture.")],
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Asks a model server for the class of every pixel."""
    paths = _written_paths(images, output_dir, ".png", "mask")
    rows, errors = [], Errors()
    pairs = list(zip(images, paths, strict=True))
    for (path, written), mask in _asked(server, images, pairs, lambda client, batch: client.segment(batch), errors):
        _write(written, mask.png)
        if not as_json:
            total = sum(mask.class_pixels)
            shares = [f"{count / total:.1%} {id_}" for id_, count in enumerate(mask.class_pixels) if count]
            print(f"{path}  {written}  of class: {', '.join(shares)}")
        rows.append({"image": str(path), "mask": str(written), "class_pixels": list(mask.class_pixels)})
    _finish("segment", {"masks": rows}, errors, as_json)


@with_options(Server, "server")
def explain(
    images: ImagesArgument,
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Receives every picture with its heat map over it.")],
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Write the heat maps too: .npy, float32, range [0, 1].")
    ] = False,
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Asks a model server where it looks on pictures (Grad-CAM), and what it finds there."""
    import io

    import numpy as np

    paths = _written_paths(images, output_dir, ".png", "explanation")
    rows, errors = [], Errors()
    table = [("picture", "class", "score", "explanation")]
    pairs = list(zip(images, paths, strict=True))
    asked = _asked(server, images, pairs, lambda client, batch: client.explain(batch), errors, progress=True)
    for (path, written), found in asked:
        _write(written, found.overlay_png)
        row = {
            "image": str(path),
            "label": found.label,
            "class_id": found.class_id,
            "score": found.score,
            "overlay": str(written),
        }
        if heatmaps:
            buffer = io.BytesIO()
            np.save(buffer, found.heatmap)
            heatmap = written.with_name(f"{written.stem}.npy")
            _write(heatmap, buffer.getvalue())
            row["heatmap"] = str(heatmap)
        name = f"class {found.class_id}" if found.label is None else found.label
        table.append((str(path), name, f"{found.score:.6f}", str(written)))
        rows.append(row)
    if rows and not as_json:
        # By hand, since a table of rich's cuts paths to fit a terminal.
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    _finish("explain", {"explanations": rows}, errors, as_json)


@with_options(Server, "server")
def similar(
    image: Annotated[Path, typer.Argument(help="JPEG or PNG file to look for.", metavar="IMAGE")],
    directory: Annotated[Path, typer.Argument(help="Where to look, folders below included.", metavar="DIR")],
    top_k: Annotated[int, typer.Option(min=1, help="How many pictures to show.")] = 5,
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Finds the pictures of a folder that look most like another one to the model."""
    from serving import similarity

    stderr = Console(stderr=True)
    if not directory.is_dir():
        stop(stderr, BAD_USAGE, f"{directory} is not a folder.")
    if not image.is_file():
        stop(stderr, BAD_USAGE, f"{image}: No such file")
    known = [path for path in _pictures_below(directory) if not path.samefile(image)]
    if not known:
        stop(stderr, BAD_USAGE, f"{directory} holds no other picture ({', '.join(_PICTURE_SUFFIXES)}).")
    images, errors = [image, *known], Errors()
    asked = _asked(server, images, images, lambda client, batch: client.embed(batch), errors, progress=True)
    first = next(asked, None)
    if first is None or first[0] != image:
        raise typer.Exit(FAILED)  # why has been said
    answered = [first, *asked]
    if len(versions := {found.version for _, found in answered}) > 1:
        message = f"Versions {', '.join(map(str, versions))} answered, and vectors of two cannot be compared."
        stop(stderr, FAILED, f"{message} Ask again, or pin one with --version.")
    (_, query), *others = answered
    try:
        matches = similarity.most_similar(query.vector, [found.vector for _, found in others], top_k)
    except ValueError as error:
        stop(stderr, FAILED, f"The model's vectors cannot be compared: {error}")
    rows = [{"image": str(others[place][0]), "similarity": cosine} for place, cosine in matches]
    if not as_json:
        for place, cosine in matches:
            print(f"{cosine:.6f}  {others[place][0]}")
    _finish("similar", {"image": str(image), "searched": len(others), "similar": rows}, errors, as_json)


def _asked(
    server: Server,
    images: Sequence[Path],
    entries: Sequence[Entry],
    question: Callable[[clients.Client, list[Path]], Iterable[Answer | clients.ServerError]],
    errors: Errors,
    *,
    progress: bool = False,
) -> Iterator[tuple[Entry, Answer]]:
    """Asks batch by batch, each with the whole timeout; ends the command if nothing can be answered.

    Args:
      server: Whom to ask.
      images: The pictures.
      entries: What to give back with the answer to each.
      question: What to ask about a batch.
      errors: Receives those of pictures that have no answer; each is also said.
      progress: Whether to show on a terminal how far it is.

    Yields:
      Entry and answer, as they come.
    """
    from rich.progress import track

    from serving import client as clients

    stderr = Console(stderr=True)
    for path in images:
        try:
            path.open("rb").close()
        except OSError as error:
            stop(stderr, BAD_USAGE, f"{path}: {error.strerror}")
    try:
        client = server.connect()
    except ValueError as error:
        stop(stderr, BAD_USAGE, str(error))
    starts = range(0, len(images), server.batch_size)
    hidden = not progress or len(starts) == 1 or not stderr.is_terminal
    answered = False
    with client:
        for start in track(starts, "asking", console=stderr, transient=True, disable=hidden):
            batch = slice(start, start + server.batch_size)
            try:
                answers = list(question(client, list(images[batch])))
            except clients.ServerError as error:
                if not answered:
                    stop(stderr, FAILED, f"{error.code}: {first_line(error)}")
                # Not a picture's fault: the rest is not asked any more, and what was answered stands.
                batch = slice(start, len(images))
                answers = [error] * len(images[batch])
            for path, entry, answer in zip(images[batch], entries[batch], answers, strict=True):
                if isinstance(answer, clients.ServerError):
                    say(stderr, f"{path}: {answer.code}: {first_line(answer)}")
                    errors.append({"image": str(path), "code": answer.code, "message": answer.message})
                else:
                    answered = True
                    yield entry, answer
            if batch.stop >= len(images):
                break


def _finish(command: str, values: dict[str, Any], errors: Errors, as_json: bool) -> None:
    """Prints the JSON object if that is wanted; ends with 1 if a picture has no answer."""
    if as_json:
        print_json(command, {**values, "errors": errors})
    if errors:
        raise typer.Exit(FAILED)


def _written_paths(images: list[Path], output_dir: Path, suffix: str, what: str) -> list[Path]:
    """A file for every picture; of those that have one name, from several folders, the later ones are numbered."""
    taken: dict[str, None] = {}
    for path in images:
        numbered = (f"{path.stem}-{number}{suffix}" for number in itertools.count(2))
        # `a-2.png` may be the name of a picture too.
        name = next(name for name in itertools.chain([f"{path.stem}{suffix}"], numbered) if name not in taken)
        taken[name] = None
    paths = [output_dir / name for name in taken]
    stderr = Console(stderr=True)
    for path, written in zip(images, paths, strict=True):
        if path.absolute() == written.absolute():
            stop(stderr, BAD_USAGE, f"--output-dir: {path} would be replaced by its own {what}. Name another folder.")
    return paths


def _write(path: Path, content: bytes) -> None:
    with one_message(lambda: path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _pictures_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.suffix.lower() in _PICTURE_SUFFIXES and path.is_file())
