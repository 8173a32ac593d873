"""The commands that send images to a model server: predict, segment, detect, explain, similar. No TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from pipeline.cli.console import BAD_USAGE, FAILED, print_error, print_json, stop
from pipeline.cli.options import JsonOption, read_token, with_options
from trainer_module.error_text import first_line

if TYPE_CHECKING:
    from serving import client as clients

Result = TypeVar("Result")
Entry = TypeVar("Entry")
Errors = list[dict[str, str]]

# Of a model without a served threshold, such as one of the TF Object Detection API, whose tools take this value too.
_MIN_SCORE = 0.5
_IMAGE_SUFFIXES = (".gif", ".jpeg", ".jpg", ".png")

ImagesArgument = Annotated[list[Path], typer.Argument(help="JPEG or PNG files.", metavar="IMAGE...")]


class UnknownModelError(Exception):
    """The options do not name a model, and the server does not decide which one is meant."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """The model server of a command. The fields are options of all commands here."""

    model: Annotated[
        str | None, typer.Option(help="Name of the model; not needed if the server has only one.", show_default=False)
    ] = None
    grpc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Use gRPC (the default).")] = None
    rest: Annotated[str | None, typer.Option(metavar="URL", help="Use REST.")] = None
    version: Annotated[int | None, typer.Option(min=0, help="Model version; default: the newest.")] = None
    label: Annotated[str | None, typer.Option(help="Label of the model version.")] = None
    timeout: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="Deadline of a batch, retries included.")
    ] = 30.0
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum number of images in one request.")] = 32
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS with gRPC; REST uses it with https://.")] = False
    ca_file: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Certificate authorities; default: the system's.")
    ] = None
    cert_file: Annotated[Path | None, typer.Option(metavar="PEM", help="Certificate of the client.")] = None
    key_file: Annotated[Path | None, typer.Option(metavar="PEM", help="Its private key.")] = None
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Contains the bearer token; requires TLS except on this machine."),
    ] = None

    def connect(self) -> clients.Client:
        """Creates the client.

        Raises:
          ValueError: If options do not fit together, or a file cannot be read.
          UnknownModelError: If `--model` is required.
          ServerError: If the server cannot be asked for its models.
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
            "token": read_token(self.token_file),
        }

        def client(model: str) -> clients.Client:
            if self.rest:
                return clients.RestClient(self.rest, model, **options)
            return clients.GrpcClient(self.grpc or "127.0.0.1:8500", model, **options)

        if self.model is not None:
            return client(self.model)
        with client("") as nameless:
            try:
                names = nameless.model_names()
            except clients.UnimplementedError:
                raise UnknownModelError("The server does not list its models. Give --model NAME.") from None
        if len(names) != 1:
            models = f"several models: {', '.join(sorted(names))}" if names else "no model"
            raise UnknownModelError(f"The server has {models}. Give --model NAME.")
        return client(names[0])


@with_options(Server, "server")
def predict(
    images: ImagesArgument,
    top_k: Annotated[int, typer.Option(min=1, help="Number of classes per image.")] = 1,
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Classifies images with a model server."""
    rows, errors = [], Errors()
    results = _results(server, images, images, lambda client, batch: client.predict(batch, top_k), errors)
    for path, prediction in results:
        if not as_json:
            scores = "  ".join(f"{label} {score:.6f}" for label, score in prediction.top)
            print(f"{path}  {scores or '(no class)'}")
        row = {"image": str(path), "label": prediction.label, "score": prediction.score}
        for key, entries in (("top", prediction.top), ("labels", prediction.labels)):
            if entries is not None:
                row[key] = [entry._asdict() for entry in entries]
        rows.append(row)
    _finish("predict", {"predictions": rows}, errors, as_json)


@with_options(Server, "server")
def segment(
    images: ImagesArgument,
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for one PNG of class ids per image.")],
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Predicts the class of every pixel with a model server."""
    paths = _output_paths(images, output_dir, "mask")
    rows, errors = [], Errors()
    pairs = list(zip(images, paths, strict=True))
    for (path, output), mask in _results(server, images, pairs, lambda client, batch: client.segment(batch), errors):
        _write(output, mask.png)
        if not as_json:
            total = sum(mask.class_pixels)
            shares = [f"{count / total:.1%} {id_}" for id_, count in enumerate(mask.class_pixels) if count]
            print(f"{path}  {output}  pixels by class id: {', '.join(shares)}")
        rows.append({"image": str(path), "mask": str(output), "class_pixels": list(mask.class_pixels)})
    _finish("segment", {"masks": rows}, errors, as_json)


@with_options(Server, "server")
def detect(
    images: ImagesArgument,
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for one image with boxes per image.")],
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Smallest score of the objects that are drawn and printed; default: the model's served threshold, or "
            f"{_MIN_SCORE} if it has none.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Finds objects with a model server, prints them and draws their boxes."""
    paths = _output_paths(images, output_dir, "drawing")
    rows, errors = [], Errors()
    pairs = list(zip(images, paths, strict=True))
    for (path, output), detections in _results(
        server, images, pairs, lambda client, batch: client.detect(batch), errors
    ):
        served = _MIN_SCORE if detections.served_threshold is None else detections.served_threshold
        smallest = served if min_score is None else min_score
        objects = detections.above(smallest)
        _write(output, _draw_objects(path, objects))
        if not as_json:
            plural = "" if len(objects) == 1 else "s"
            print(f"{path}  {output}  {len(objects)} object{plural} with a score of at least {smallest:.3g}")
            for entry in objects:
                name = f"class {entry.class_id}" if entry.label is None else entry.label
                print(f"  {name} {entry.score:.4f}  {' '.join(f'{value:.4f}' for value in entry.box)}")
        rows.append(
            {
                "image": str(path),
                "drawing": str(output),
                "min_score": smallest,
                "objects": [entry._asdict() for entry in objects],
            }
        )
    _finish("detect", {"images": rows}, errors, as_json)


@with_options(Server, "server")
def explain(
    images: ImagesArgument,
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for one overlay per image.")],
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Write the heat maps too: .npy, float32, range [0, 1].")
    ] = False,
    every_label: Annotated[
        bool, typer.Option("--every-label", help="Explain every predicted class of a multi-label model.")
    ] = False,
    every_detection: Annotated[
        bool, typer.Option("--every-detection", help="Explain every object that a detector detects.")
    ] = False,
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Writes Grad-CAM overlays for images and prints the explained predictions."""
    if every_label and every_detection:
        raise typer.BadParameter("--every-label and --every-detection are for different models: use one of them")
    paths = _output_paths(images, output_dir, "explanation")
    rows: list[dict[str, Any]] = []
    errors, table = Errors(), [("image", "class", "score", "explanation")]
    pairs = list(zip(images, paths, strict=True))

    def request(client: clients.Client, batch: list[Path]) -> Iterable[Any]:
        if every_label:
            return client.explain_labels(batch)
        return client.explain_detections(batch) if every_detection else client.explain(batch)

    explained: list[tuple[Path, Path, clients.Explanation]] = []
    for (path, output), result in _results(server, images, pairs, request, errors, progress=True):
        if every_label:
            explained = [(path, output.with_stem(f"{output.stem}_class{each.class_id}"), each) for each in result]
        elif every_detection:
            explained = [
                (path, output.with_stem(f"{output.stem}_object{number}"), each)
                for number, each in enumerate(result, start=1)
            ]
        else:
            explained = [(path, output, result)]
        if not explained:
            table.append((str(path), "(no object)" if every_detection else "(no class)", "", ""))
        for path, output, explanation in explained:
            _write_explanation(path, output, explanation, heatmaps, rows, table)
    if len(table) > 1 and not as_json:
        # Not a table of rich, which cuts paths to fit a terminal.
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    _finish("explain", {"explanations": rows}, errors, as_json)


def _write_explanation(
    path: Path,
    output: Path,
    explanation: clients.Explanation,
    heatmaps: bool,
    rows: list[dict[str, Any]],
    table: list[tuple[str, str, str, str]],
) -> None:
    """Writes the files of one explanation, and adds it to the rows of `--json` and of the table."""
    import io

    import numpy as np

    _write(output, explanation.overlay_png)
    row: dict[str, Any] = {
        "image": str(path),
        "label": explanation.label,
        "class_id": explanation.class_id,
        "score": explanation.score,
        "overlay": str(output),
    }
    if explanation.box is not None:
        row["box"] = explanation.box
    if heatmaps:
        buffer = io.BytesIO()
        np.save(buffer, explanation.heatmap)
        heatmap = output.with_name(f"{output.stem}.npy")
        _write(heatmap, buffer.getvalue())
        row["heatmap"] = str(heatmap)
    name = f"class {explanation.class_id}" if explanation.label is None else explanation.label
    table.append((str(path), name, f"{explanation.score:.6f}", str(output)))
    rows.append(row)


@with_options(Server, "server")
def similar(
    image: Annotated[Path, typer.Argument(help="JPEG or PNG file to compare with.", metavar="IMAGE")],
    directory: Annotated[Path, typer.Argument(help="Folder to search, subfolders included.", metavar="DIR")],
    top_k: Annotated[int, typer.Option(min=1, help="Number of images to show.")] = 5,
    as_json: JsonOption = False,
    *,
    server: Server,
) -> None:
    """Finds the images of a folder that are most similar to one image, by the model's embeddings."""
    from serving import similarity

    stderr = Console(stderr=True)
    if not directory.is_dir():
        stop(stderr, BAD_USAGE, f"{directory} is not a folder.")
    if not image.is_file():
        stop(stderr, BAD_USAGE, f"{image}: No such file")
    candidates = [path for path in _images_below(directory) if not path.samefile(image)]
    if not candidates:
        stop(stderr, BAD_USAGE, f"{directory} contains no other image ({', '.join(_IMAGE_SUFFIXES)}).")
    images, errors = [image, *candidates], Errors()
    results = _results(server, images, images, lambda client, batch: client.embed(batch), errors, progress=True)
    first = next(results, None)
    if first is None or first[0] != image:
        raise typer.Exit(FAILED)  # the reason is printed already
    embeddings = [first, *results]
    if len(versions := {embedding.version for _, embedding in embeddings}) > 1:
        message = f"Several model versions responded ({', '.join(map(str, versions))}): their embeddings differ."
        stop(stderr, FAILED, f"{message} Run the command again, or choose one with --version.")
    (_, query), *others = embeddings
    try:
        matches = similarity.most_similar(query.vector, [embedding.vector for _, embedding in others], top_k)
    except ValueError as error:
        stop(stderr, FAILED, f"The embeddings cannot be compared: {error}")
    rows = [{"image": str(others[position][0]), "similarity": cosine} for position, cosine in matches]
    if not as_json:
        for position, cosine in matches:
            print(f"{cosine:.6f}  {others[position][0]}")
    _finish("similar", {"image": str(image), "searched": len(others), "similar": rows}, errors, as_json)


def _draw_objects(path: Path, objects: Sequence[clients.DetectedObject]) -> bytes:
    """Draws the boxes on the upright image, enlarged by a whole factor if it is small; returns a PNG file."""
    import io

    import numpy as np
    from PIL import Image

    from trainer_module import box_drawing, box_labels, image_statistics

    pixels = np.asarray(image_statistics.decode_rgb(path.read_bytes()))
    names = {entry.class_id: entry.label for entry in objects}
    classes = [names.get(id_) or f"class {id_}" for id_ in range(1, max(names, default=0) + 1)]
    rows = [(*entry.box, entry.class_id - 1, box_labels.OBJECT, entry.score) for entry in objects]
    scale = box_drawing.readable_scale(*pixels.shape[:2])
    drawn = box_drawing.draw(pixels, np.array(rows, np.float64).reshape(-1, 7), classes, scale=scale)
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "PNG")
    return buffer.getvalue()


def _results(
    server: Server,
    images: Sequence[Path],
    entries: Sequence[Entry],
    request: Callable[[clients.Client, list[Path]], Iterable[Result | clients.ServerError]],
    errors: Errors,
    *,
    progress: bool = False,
) -> Iterator[tuple[Entry, Result]]:
    """Sends the images batch by batch, each with the whole timeout; ends the command if nothing succeeds.

    Args:
      server: The server.
      images: The images.
      entries: One entry per image, which is returned with its result.
      request: Sends one batch.
      errors: Receives the errors of single images, which are also printed.
      progress: Whether to show a progress bar on a terminal.

    Yields:
      Entry and result, as they arrive.
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
    except (ValueError, UnknownModelError) as error:
        stop(stderr, BAD_USAGE, str(error))
    except clients.ServerError as error:
        stop(stderr, FAILED, f"{error.code}: {first_line(error)}")
    starts = range(0, len(images), server.batch_size)
    hidden = not progress or len(starts) == 1 or not stderr.is_terminal
    succeeded = False
    with client:
        for start in track(starts, "sending", console=stderr, transient=True, disable=hidden):
            batch = slice(start, start + server.batch_size)
            try:
                results = list(request(client, list(images[batch])))
            except clients.ServerError as error:
                if not succeeded:
                    stop(stderr, FAILED, f"{error.code}: {first_line(error)}")
                # Not an error of one image: the rest is not sent, and the earlier results are kept.
                batch = slice(start, len(images))
                results = [error] * len(images[batch])
            for path, entry, result in zip(images[batch], entries[batch], results, strict=True):
                if isinstance(result, clients.ServerError):
                    print_error(stderr, f"{path}: {result.code}: {first_line(result)}")
                    errors.append({"image": str(path), "code": result.code, "message": result.message})
                else:
                    succeeded = True
                    yield entry, result
            if batch.stop >= len(images):
                break


def _finish(command: str, values: dict[str, Any], errors: Errors, as_json: bool) -> None:
    """Prints the JSON object if requested; ends with exit code 1 if an image has no result."""
    if as_json:
        print_json(command, {**values, "errors": errors})
    if errors:
        raise typer.Exit(FAILED)


def _output_paths(images: list[Path], output_dir: Path, noun: str) -> list[Path]:
    """One PNG file per image; numbers tell images with the same name in several folders apart."""
    names: dict[str, None] = {}
    for path in images:
        numbered = (f"{path.stem}-{number}.png" for number in itertools.count(2))
        # `a-2.png` can be the name of an image too.
        name = next(name for name in itertools.chain([f"{path.stem}.png"], numbered) if name not in names)
        names[name] = None
    paths = [output_dir / name for name in names]
    for path, output in zip(images, paths, strict=True):
        if path.absolute() == output.absolute():
            message = f"--output-dir: {path} would be replaced by its own {noun}. Choose another folder."
            stop(Console(stderr=True), BAD_USAGE, message)
    return paths


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        stop(Console(stderr=True), FAILED, f"{error.filename or path}: {error.strerror or error}")


def _images_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file())
