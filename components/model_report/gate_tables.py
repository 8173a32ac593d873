"""The results of the gates as tables: default rules, thresholds and serving checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from components.evaluator.artifact import ALL, GateResult
from components.model_report.tables import UNDEFINED, Cell, Column, Table, at_most, count, number
from components.serving_validator.artifact import ServingCheck

_MAX_ROWS = 300
_RESULTS = {
    True: Cell("✓ passed", 2.0, tone="good"),
    False: Cell("✗ failed", 0.0, tone="bad"),
    None: Cell("· not checked", 1.0, tone="soft"),
}


def thresholds_table(gates: Sequence[GateResult], descriptions: Mapping[str, str]) -> Table:
    """Lists every default rule and threshold: failed ones first, then those not checked, then the narrowest margins.

    Args:
      gates: The results.
      descriptions: Metric or default rule → its description.
    """
    rows = [
        [
            Cell(
                gate.title[0].upper() + gate.title[1:],
                note=gate.class_name or "",
                title=descriptions.get(gate.name, ""),
            ),
            Cell("all examples" if gate.slice == ALL else gate.slice),
            _RESULTS[gate.passed],
            number(gate.value),
            UNDEFINED
            if math.isnan(gate.bound)
            else Cell(f"{'≥' if gate.higher_is_better else '≤'} {gate.bound:.4f}", gate.bound),
            count(gate.examples),
            Cell(gate.source, note=gate.detail),
        ]
        for gate in sorted(gates, key=_order)
    ]
    columns = [
        Column("Metric"),
        Column("Slice"),
        Column("Result"),
        Column("Value", numeric=True),
        Column("Bound", numeric=True),
        Column("Examples", numeric=True),
        Column("Rule or setting"),
    ]
    rows, caption = at_most(rows, _MAX_ROWS, "Default rules and thresholds, failed ones first")
    return Table(caption, columns, rows)


def _order(gate: GateResult) -> tuple[float, float]:
    margin = abs(gate.value - gate.bound)
    distance = -margin if gate.passed is False else margin
    return _RESULTS[gate.passed].sort or 0.0, math.inf if math.isnan(distance) else distance


def checks_table(checks: Iterable[ServingCheck]) -> Table:
    """Lists every serving check, failed ones first."""
    rows = [
        [Cell(check.name), _RESULTS[check.passed], Cell(check.detail)]
        for check in sorted(checks, key=lambda check: check.passed)
    ]
    return Table("Serving checks of the exported model", [Column("Check"), Column("Result"), Column("Detail")], rows)
