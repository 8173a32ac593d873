"""The options of a request log, shared by `serve` and `gateway`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from serving.request_log.options import Content, LogOptions, Rotation


@dataclass(frozen=True, kw_only=True)
class RequestLogOptions:
    """The options of a request log."""

    request_log: Annotated[
        Path | None,
        typer.Option(metavar="PREFIX", help="Log requests to files PREFIX-*.tfrecord.", show_default=False),
    ] = None
    request_log_sampling_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Fraction of the requests that are logged.")
    ] = 1.0
    request_log_content: Annotated[
        Content,
        typer.Option(help="image: request and response; embedding: response and embedding; response: response only."),
    ] = Content.IMAGE
    request_log_file_mb: Annotated[int, typer.Option(min=1, help="A file is complete at this size, MiB.")] = 64
    request_log_file_s: Annotated[float, typer.Option(min=1.0, help="A file is complete at this age, seconds.")] = 300.0
    request_log_keep_days: Annotated[float, typer.Option(min=0.0, help="Files are deleted at this age, days.")] = 30.0
    request_log_keep_gb: Annotated[
        float, typer.Option(min=0.0, help="The oldest files are deleted above this size of all together, GiB.")
    ] = 10.0

    def log_options(self) -> LogOptions:
        """Returns the options of the log; its prefix is empty without --request-log."""
        return LogOptions(
            prefix=str(self.request_log.absolute()) if self.request_log else "",
            sampling_rate=self.request_log_sampling_rate,
            content=self.request_log_content,
            rotation=Rotation(
                max_bytes=self.request_log_file_mb * 2**20,
                max_age_s=self.request_log_file_s,
                keep_s=self.request_log_keep_days * 24 * 3600,
                keep_bytes=int(self.request_log_keep_gb * 2**30),
            ),
        )
