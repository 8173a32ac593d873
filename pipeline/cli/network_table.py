"""Console output of `model`: a table of layers and a summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.cli.console import print_line
from pipeline.preview.network_summary import Inspection
from trainer_module.architecture import Layer, ReceptiveField

# Narrower terminals get a table without receptive fields.
_WIDE = 110
_UNITS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


def show(console: Console, inspection: Inspection, *, expand: bool) -> None:
    """Prints a network.

    Args:
      console: The output.
      inspection: The network and its configuration.
      expand: Whether to list the layers of networks within the network.
    """
    config, network = inspection.config, inspection.architecture
    size, channels = _by(config.transform.image_size), config.transform.num_channels
    print_line(
        console,
        f"[bold]{escape(config.model.name)}[/bold]  {config.task.name} of {size} "
        f"{'colour' if channels == 3 else 'grey'} images, {inspection.num_classes.number:,} classes "
        f"({escape(inspection.num_classes.origin)})",
    )
    if inspection.num_classes.problem:
        print_line(
            console,
            f"[yellow]note:[/yellow] {inspection.num_classes.number} classes are assumed: "
            f"{escape(inspection.num_classes.problem)}. --num-classes sets another number.",
        )
    console.print(_table(network.layers, wide=console.width >= _WIDE, expand=expand))
    summarised = [row.name for row in network.layers if row.layers]
    if summarised and not expand:
        print_line(console, f"[dim]--expand shows the layers of {', '.join(map(escape, summarised))}[/dim]\n")

    frozen = network.parameters - network.trainable_parameters
    _entry(
        console, "Parameters", f"{network.parameters:,}: {network.trainable_parameters:,} trainable, {frozen:,} frozen"
    )
    if network.macs is None:
        _entry(console, "MACs", "unknown: some layers do not report their operations")
    else:
        _entry(console, "MACs", f"{network.macs:,} ({_short(network.macs)} multiply-adds) per image")
    if network.feature_map is not None:
        row = network.feature_map
        _entry(console, "Feature map", f"{escape(row.name)}, {_by(row.output_shapes[-1])}")
        _entry(console, "", _describe(row.receptive_field, size))


def _table(rows: Sequence[Layer], *, wide: bool, expand: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    # On a narrow terminal, rich first cuts columns that may wrap: the types.
    table.add_column("type", min_width=9)
    for name in (
        ("output", "kernel", "parameters", "MACs", "field") if wide else ("output", "kernel", "parameters", "MACs")
    ):
        table.add_column(name, justify="left" if name == "kernel" else "right", no_wrap=True)
    for row, depth in _visible(rows, expand):
        is_network = bool(row.layers)
        more = f" +{len(row.output_shapes) - 1}" if len(row.output_shapes) > 1 else ""
        cells: list[str | Text] = [
            "  " * depth + escape(row.name),
            Text(f"{len(row.layers)} layers" if is_network else row.type, no_wrap=True, overflow="ellipsis"),
            _by(row.output_shapes[-1]) + more,
            _kernel(row),
            f"{row.parameters:,}" if row.parameters else "",
            "unknown" if row.macs is None else _short(row.macs) if row.macs else "",
        ]
        if wide:
            cells.append(_field(row.receptive_field))
        # Layers with kernels are prominent; the others are dimmed.
        table.add_row(*cells, style="bold" if is_network else None if row.macs != 0 else "dim")
    return table


def _visible(rows: Sequence[Layer], expand: bool, depth: int = 0) -> Iterator[tuple[Layer, int]]:
    for row in rows:
        yield row, depth
        if expand:
            yield from _visible(row.layers, expand, depth + 1)


def _by(sides: Sequence[float]) -> str:
    return "x".join(f"{side:.0f}" for side in sides)


def _kernel(row: Layer) -> str:
    """`3x3`, or `3x3 /2` with stride 2."""
    if row.kernel is None or row.stride is None:
        return ""
    return _by(row.kernel) + ("" if max(row.stride) == 1 else f" /{_stride(row.stride)}")


def _stride(stride: tuple[int, int]) -> str:
    return str(stride[0]) if stride[0] == stride[1] else _by(stride)


def _field(field: ReceptiveField | None) -> str:
    if field is None:
        return ""
    return "all" if field.is_whole_image else _by(field.size)


def _describe(field: ReceptiveField | None, image_size: str) -> str:
    if field is None:
        return "receptive field unknown"
    size = "the whole image" if field.is_whole_image else f"{_by(field.size)} pixels of {image_size}"
    return f"receptive field {size}, stride {_stride(field.stride)} pixels"


def _short(number: int) -> str:
    """Three digits and a unit: 262801920 → 263 M."""
    number = round(float(f"{number:.3g}"))  # first, since 999,999 is 1 M
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _entry(console: Console, name: str, text: str) -> None:
    print_line(console, f"[bold]{name:<13}[/bold]{text}")
