"""How ImageSchemaGen corrects an inferred schema."""

from __future__ import annotations

from trainer_module.section import Section


class SchemaOptions(Section):
    """Properties of the examples that the statistics of the train split do not contain.

    Attributes:
      domain_margin: How far ranges of numbers are widened, relative to the range.
      label_features: Raw example features of the label. Those that are strings in the statistics are class names.
      single_valued_features: Label features with exactly one value in every example; the others may have any number.
    """

    domain_margin: float
    label_features: tuple[str, ...]
    single_valued_features: tuple[str, ...]
