"""What people see of a network: a table of its layers, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.preview.network_summary import Inspection
from trainer_module.architecture import Layer, ReceptiveField

# A terminal with fewer columns than this gets a table without the receptive fields.
_WIDE = 110
_UNITS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


def show(console: Console, found: Inspection, *, expand: bool) -> None:
    """Shows a network.

    Args:
      console: Where to.
      found: The network and where it comes from.
      expand: Whether a network within the network is shown layer by layer.
    """
    config, network = found.config, found.architecture
    side, channels = config.transform.image_size, config.transform.channels
    _line(
        console,
        f"[bold]{escape(config.model.name)}[/bold]  {config.task.name} of {side}x{side} "
        f"{'colour' if channels == 3 else 'grey'} pictures, {found.num_classes.number:,} classes "
        f"({escape(found.num_classes.origin)})",
    )
    if found.num_classes.problem:
        _line(
            console,
            f"[yellow]note:[/yellow] {found.num_classes.number} classes are assumed: "
            f"{escape(found.num_classes.problem)}. --num-classes says another number.",
        )
    console.print(_table(network.layers, wide=console.width >= _WIDE, expand=expand))
    summarised = [row.name for row in network.layers if row.layers]
    if summarised and not expand:
        _line(console, f"[dim]--expand shows the layers of {', '.join(map(escape, summarised))}[/dim]\n")

    frozen = network.parameters - network.trainable_parameters
    _say(console, "Parameters", f"{network.parameters:,}: {network.trainable_parameters:,} trainable, {frozen:,} not")
    if network.macs is None:
        _say(console, "MACs", "not known: not every layer says what it computes")
    else:
        _say(console, "MACs", f"{network.macs:,} ({_short(network.macs)} multiply-adds) for one picture")
    if network.feature_map is not None:
        row = network.feature_map
        _say(console, "Feature map", f"{escape(row.name)}, {_by(row.output_shapes[-1])}")
        _say(console, "", _sees(row.receptive_field, side))


def _table(rows: Sequence[Layer], *, wide: bool, expand: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    # Where the terminal is narrow, types are cut: rich takes from columns that may wrap before it cuts the others.
    table.add_column("type", min_width=9)
    for name in (
        ("output", "kernel", "parameters", "MACs", "sees") if wide else ("output", "kernel", "parameters", "MACs")
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
            "not known" if row.macs is None else _short(row.macs) if row.macs else "",
        ]
        if wide:
            cells.append(_field(row.receptive_field))
        # What has kernels is what the network is made of; the rest stands back.
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


def _sees(field: ReceptiveField | None, side: int) -> str:
    if field is None:
        return "what a position sees is not known"
    part = "the whole picture" if field.is_whole_image else f"{_by(field.size)} pixels (the picture has {side}x{side})"
    return f"a position sees {part}; the next one lies {_stride(field.stride)} pixels further"


def _short(number: int) -> str:
    """Three digits and a unit: 262801920 → 263 M."""
    number = round(float(f"{number:.3g}"))  # first, since 999,999 is 1 M
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _say(console: Console, what: str, text: str) -> None:
    _line(console, f"[bold]{what:<13}[/bold]{text}")


def _line(console: Console, markup: str) -> None:
    console.print(markup, highlight=False, soft_wrap=True)
