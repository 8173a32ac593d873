"""Recognizes Beam options with which a pipeline runs in this process; such a node does its work without Beam."""

from __future__ import annotations

from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

# Runners of this machine; None is Beam's default.
_DIRECT = (None, "DirectRunner", "FnApiRunner")


def is_selected(beam_arguments: Sequence[str] | None) -> bool:
    """Whether Beam would run everything in one process.

    Building a pipeline and starting Beam's runner takes as long as the statistics of 10,000 images.
    """
    options = PipelineOptions(list(beam_arguments or []))
    direct = options.view_as(DirectOptions)
    is_direct = options.view_as(StandardOptions).runner in _DIRECT
    return is_direct and direct.direct_running_mode == "in_memory" and direct.direct_num_workers == 1
