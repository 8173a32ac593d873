"""Anomalies, drift and skew in the statistics of a dataset. Pure functions of TFDV's messages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from components.example_validator import drift
from components.example_validator.artifact import Finding
from components.schema_gen.curation import STATISTICS_ENVIRONMENT
from trainer_module import features

Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList
_Kind: TypeAlias = Literal["anomaly", "drift", "skew"]

_DATASET = "dataset"  # in the place of a feature's name


class AnomaliesFoundError(RuntimeError):
    """A dataset differs from its schema or from the previous span, or its splits differ.

    Attributes:
      findings: The differences.
    """

    def __init__(self, message: str, findings: list[Finding]) -> None:
        """Stores the message and the differences."""
        super().__init__(message)
        self.findings = findings


class Rule(NamedTuple):
    """Consequence of findings of one kind.

    Attributes:
      findings: The findings.
      refuses: Whether they refuse the dataset; otherwise they are logged.
      heading: The first line of the refusal.
      advice: Its last line; may be empty.
    """

    findings: list[Finding]
    refuses: bool
    heading: str
    advice: str = ""


def validate(by_split: Mapping[str, Statistics], schema: schema_pb2.Schema) -> dict[str, anomalies_pb2.Anomalies]:
    """Validates the statistics of every split against a schema."""
    return {
        split: tfdv.validate_statistics(statistics=statistics, schema=schema, environment=STATISTICS_ENVIRONMENT)
        for split, statistics in by_split.items()
    }


def describe(kind: _Kind, by_split: Mapping[str, anomalies_pb2.Anomalies]) -> list[Finding]:
    """Returns one finding per anomaly, in TFDV's words."""
    findings = []
    for split, anomalies in by_split.items():
        findings += [
            Finding(kind=kind, split=split, feature=name, detail=f"{info.short_description}: {info.description}")
            for name, info in sorted(anomalies.anomaly_info.items())
        ]
        if anomalies.HasField("dataset_anomaly_info"):
            detail = anomalies.dataset_anomaly_info.description
            findings.append(Finding(kind=kind, split=split, feature=_DATASET, detail=detail))
    return findings


def find_drift(
    by_split: Mapping[str, Statistics], previous: Statistics, previous_schema: schema_pb2.Schema, threshold: float
) -> list[Finding]:
    """Compares a span with the previous one: every split with its schema, the train split with its distributions.

    Args:
      by_split: The statistics of every split.
      previous: The statistics of the train split of the previous span.
      previous_schema: The schema of the previous span.
      threshold: Largest allowed distance, beyond what chance explains.
    """
    compared = {split: _without_slices(statistics) for split, statistics in by_split.items()}
    findings = []
    for split, anomalies in validate(compared, _schema_without_slices(previous_schema)).items():
        findings += describe("drift", {split: anomalies})
        if split == features.TRAIN:
            findings += _findings("drift", split, drift.compare(compared[split], previous, threshold))
    return findings


def find_skew(by_split: Mapping[str, Statistics], threshold: float) -> list[Finding]:
    """Compares every other split with the train split.

    Args:
      by_split: The statistics of every split.
      threshold: Largest allowed distance, beyond what chance explains.
    """
    compared = {split: _without_slices(statistics) for split, statistics in by_split.items()}
    train = compared.pop(features.TRAIN)
    findings = []
    for split, statistics in compared.items():
        wording = drift.Wording("differs", f"in {split}", f"in {features.TRAIN}")
        findings += _findings("skew", split, drift.compare(statistics, train, threshold, wording))
    return findings


def apply(*rules: Rule) -> None:
    """Refuses the dataset if a rule does, and logs the findings of the other rules.

    Raises:
      AnomaliesFoundError: With the findings of all rules that refuse the dataset.
    """
    lines: list[str] = []
    refusing: list[Finding] = []
    for findings, refuses, heading, advice in rules:
        if findings and refuses:
            refusing += findings
            lines += [heading, *(f"  {finding}" for finding in findings), *([advice] if advice else [])]
        elif findings:
            for finding in findings:
                logging.warning("%s: %s", finding.kind.capitalize(), finding)
    if refusing:
        raise AnomaliesFoundError("\n".join(lines), refusing)


# Slices are not compared: they follow from other features, or are columns of a table that may come and go.


def _without_slices(statistics: Statistics) -> Statistics:
    """Copies statistics without those of slices."""
    copy: Statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(statistics.SerializeToString())
    (dataset,) = copy.datasets
    for feature in [feature for feature in dataset.features if _is_slice(feature.path.step[0])]:
        dataset.features.remove(feature)
    return copy


def _schema_without_slices(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """Copies a schema without slices."""
    copy: schema_pb2.Schema = schema_pb2.Schema.FromString(schema.SerializeToString())
    for feature in [feature for feature in copy.feature if _is_slice(feature.name)]:
        copy.feature.remove(feature)
    return copy


def _is_slice(name: str) -> bool:
    return name.startswith(features.SLICE_PREFIX)


def _findings(kind: _Kind, split: str, differences: list[drift.Difference]) -> list[Finding]:
    return [Finding(kind=kind, split=split, **change._asdict()) for change in differences]
