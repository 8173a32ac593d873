"""`[beam]`: the runner of the data-parallel nodes. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from trainer_module.section import Section

# Runners with machines of their own: their workers see files, not this process.
ENGINES = ("flink", "spark", "dataflow")

Endpoint = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")]
GcsPath = Annotated[str, StringConstraints(pattern=r"^gs://[^/]+(/.*)?$")]
# How long an idle worker is kept, milliseconds.
_WORKER_IDLE_MS = 60_000
_FLINK_MASTER = r"^(\[local\]|(https?://)?[A-Za-z0-9.-]+:[0-9]{1,5})$"
_LOCAL_SPARK = re.compile(r"local(\[.+\])?")


class WorkerOptions(Section):
    """The Python workers of an engine written in Java: Beam's "environment"."""

    environment: Literal["loopback", "external", "docker"] = Field(
        default="loopback",
        description="Where Python workers run: `loopback`, on this machine, for an engine on this machine; `external`, "
        "in the worker pool at worker_pool; `docker`, in containers of image.",
    )
    worker_pool: Endpoint | None = Field(
        default=None,
        description="host:port of a worker pool, as seen from the machines of the engine, with environment = external; "
        "localhost:50000 if every machine has its own.",
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        description="Container image of this project with Beam's boot program, with environment = docker.",
    )
    worker_processes: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Python processes per machine of the engine, as many as it has cores for them. With loopback, 1 is "
        "this process; more are started for every node.",
    )

    @model_validator(mode="after")
    def _environment_is_complete(self) -> WorkerOptions:
        for environment, key in (("external", "worker_pool"), ("docker", "image")):
            value = getattr(self, key)
            if self.environment == environment and value is None:
                raise ValueError(f'environment = "{environment}" requires {key}')
            if self.environment != environment and value is not None:
                raise ValueError(f'`{key}` requires environment = "{environment}", not "{self.environment}"')
        return self

    def environment_arguments(self) -> list[str]:
        """Beam's arguments for the environment."""
        arguments = [f"--environment_type={self.environment.upper()}"]
        if self.environment == "loopback" and self.worker_processes > 1:
            # Otherwise all workers are threads of this process and share the lock of its interpreter.
            arguments.append("--experiments=use_loopback_process_worker")
        elif self.environment == "external":
            arguments.append(f"--environment_config={self.worker_pool}")
        elif self.environment == "docker":
            arguments.append(f"--environment_config={self.image}")
        # A job has several stages; a worker that started for each stage would import TensorFlow and TFX every time.
        arguments.append(f"--environment_cache_millis={_WORKER_IDLE_MS}")
        return [*arguments, f"--sdk_worker_parallelism={self.worker_processes}"]


class FlinkOptions(WorkerOptions):
    """`[beam.flink]`: settings for runner = flink."""

    master: str | None = Field(
        default=None,
        pattern=_FLINK_MASTER,
        description="host:port of the cluster's REST address, for the job server that Beam starts here; `[local]` (the "
        "default) is a cluster inside the job server.",
    )
    job_endpoint: Endpoint | None = Field(
        default=None,
        description="host:port of a running job server, which knows its cluster. Without it, Beam starts one for every "
        "node, which requires Java.",
    )
    job_server_jar: str | None = Field(
        default=None,
        min_length=1,
        description="Beam's job server: a path or URL. Default: Beam downloads the one of its own version.",
    )
    version: Literal["1.19", "1.20", "2.0", "2.1", "2.2"] | None = Field(
        default=None,
        description="Version of Flink, for the download of the job server; default: the newest that Beam supports.",
    )
    parallelism: int = Field(default=1, ge=1, le=32768, description="Number of Flink slots per node.")

    @model_validator(mode="after")
    def _fits_together(self) -> FlinkOptions:
        _one_server(self.job_endpoint, master=self.master, job_server_jar=self.job_server_jar, version=self.version)
        if self.job_server_jar and self.version:
            raise ValueError("version selects the job server to download, and job_server_jar replaces it: keep one")
        if self.environment == "loopback" and self.master not in (None, "[local]"):
            raise ValueError(_LOOPBACK.format(master=self.master))
        return self

    def arguments(self) -> list[str]:
        """Beam's arguments for Flink."""
        arguments = ["--runner=FlinkRunner", f"--parallelism={self.parallelism}"]
        if self.job_endpoint:
            arguments.append(f"--job_endpoint={self.job_endpoint}")
        else:
            arguments.append(f"--flink_master={self.master or '[local]'}")
        if self.job_server_jar:
            arguments.append(f"--flink_job_server_jar={self.job_server_jar}")
        if self.version:
            arguments.append(f"--flink_version={self.version}")
        return arguments + self.environment_arguments()


class SparkOptions(WorkerOptions):
    """`[beam.spark]`: settings for runner = spark."""

    master: str | None = Field(
        default=None,
        pattern=r"^(local(\[([0-9]+|\*)\])?|spark://[A-Za-z0-9.,:-]+)$",
        description="spark://host:port, for the job server that Beam starts here; `local[*]` (the default) is Spark "
        "inside the job server.",
    )
    job_endpoint: Endpoint | None = Field(
        default=None, description="host:port of a running job server, which knows its cluster."
    )
    job_server_jar: str | None = Field(
        default=None,
        min_length=1,
        description="Beam's job server for Spark 3: a path or URL. Default: Beam downloads the one of its own version.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SparkOptions:
        _one_server(self.job_endpoint, master=self.master, job_server_jar=self.job_server_jar)
        if self.environment == "loopback" and self.master and not _LOCAL_SPARK.fullmatch(self.master):
            raise ValueError(_LOOPBACK.format(master=self.master))
        return self

    def arguments(self) -> list[str]:
        """Beam's arguments for Spark."""
        arguments = ["--runner=SparkRunner"]
        if self.job_endpoint:
            arguments.append(f"--job_endpoint={self.job_endpoint}")
        else:
            arguments.append(f"--spark_master_url={self.master or 'local[*]'}")
        if self.job_server_jar:
            arguments.append(f"--spark_job_server_jar={self.job_server_jar}")
        return arguments + self.environment_arguments()


_LOOPBACK = (
    'environment = "loopback" runs Python on this machine, which the cluster {master} cannot reach: use '
    '"external" with worker_pool, or "docker" with image'
)


def _one_server(job_endpoint: str | None, **own: str | None) -> None:
    given = [name for name, value in own.items() if value is not None]
    if job_endpoint and given:
        raise ValueError(f"job_endpoint is a running job server, and {given[0]} is for one that Beam starts: keep one")


class DataflowOptions(Section):
    """`[beam.dataflow]`: settings for runner = dataflow."""

    project: str | None = Field(
        default=None, pattern=r"^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$", description="Google Cloud project."
    )
    region: str | None = Field(
        default=None, pattern=r"^[a-z]+-[a-z]+[0-9]+$", description="Region, for example europe-west4."
    )
    temp_location: GcsPath | None = Field(default=None, description="gs://… folder for temporary files.")
    image: str | None = Field(
        default=None,
        min_length=1,
        description="Container image of this project with Beam's boot program, in a registry that Dataflow can reach.",
    )
    machine_type: str | None = Field(
        default=None, pattern=r"^[a-z0-9-]+$", description="Machine type of the workers; default: Dataflow's choice."
    )
    max_workers: int | None = Field(
        default=None, ge=1, le=4000, description="Maximum number of workers, with autoscaling."
    )
    disk_size_gb: int | None = Field(default=None, ge=10, le=65536, description="Disk of each worker, GB.")
    service_account: str | None = Field(
        default=None,
        pattern=r"^[^@\s]+@[^@\s]+$",
        description="Service account of the workers; default: that of the project.",
    )

    def missing(self) -> list[str]:
        """Required settings that are absent."""
        return [key for key in ("project", "region", "temp_location", "image") if getattr(self, key) is None]

    def arguments(self) -> list[str]:
        """Beam's arguments for Dataflow."""
        flags = {
            "project": self.project,
            "region": self.region,
            "temp_location": self.temp_location,
            "sdk_container_image": self.image,
            "machine_type": self.machine_type,
            "max_num_workers": self.max_workers,
            "disk_size_gb": self.disk_size_gb,
            "service_account_email": self.service_account,
        }
        return ["--runner=DataflowRunner"] + [f"--{flag}={value}" for flag, value in flags.items() if value is not None]


class BeamSection(Section):
    """`[beam]`: the runner of the data-parallel nodes."""

    runner: Literal["local", "multi_processing", "flink", "spark", "dataflow"] = Field(
        default="local",
        description="`local` is this process; `multi_processing` starts worker processes on this machine; `flink`, "
        "`spark` and `dataflow` are engines with their own machines.",
    )
    workers: int = Field(default=2, ge=1, le=1024, description="Worker processes, with runner = multi_processing.")
    options: tuple[str, ...] = Field(default=(), description="More pipeline options for Beam, as on its command line.")
    flink: FlinkOptions = FlinkOptions()
    spark: SparkOptions = SparkOptions()
    dataflow: DataflowOptions = DataflowOptions()

    @model_validator(mode="after")
    def _sections_match_the_runner(self) -> BeamSection:
        for name in ENGINES:
            section = getattr(self, name)
            if name != self.runner and section != type(section)():
                raise ValueError(f'[beam.{name}] requires runner = "{name}", not "{self.runner}"')
        if self.runner == "dataflow" and (missing := self.dataflow.missing()):
            raise ValueError(f'runner = "dataflow" requires {", ".join(f"dataflow.{key}" for key in missing)}')
        return self

    @model_validator(mode="after")
    def _options_are_flags(self) -> BeamSection:
        for option in self.options:
            if not option.startswith("--"):
                raise ValueError(f"options: `{option}` is not an option; use the form --name=value")
            if option.partition("=")[0] == "--runner":
                raise ValueError(f"options: `{option}`: set beam.runner instead")
        return self

    def arguments(self) -> list[str]:
        """Beam's arguments.

        FnApiRunner is named because Beam's default first tries to download a binary.
        """
        if self.runner == "dataflow":
            engine = self.dataflow.arguments()
        elif self.runner in ENGINES:
            engine = [*getattr(self, self.runner).arguments(), *_NO_PACKAGE]
        elif self.runner == "multi_processing":
            processes = ["--direct_running_mode=multi_processing", f"--direct_num_workers={self.workers}"]
            engine = ["--runner=FnApiRunner", *processes, *_NO_PACKAGE]
        else:
            # Beam compares the types of all steps before it runs them: a tenth of the evaluation of a small dataset.
            process = ["--direct_running_mode=in_memory", "--direct_num_workers=1", "--no_pipeline_type_check"]
            engine = ["--runner=FnApiRunner", *process, *_NO_PACKAGE]
        # Batches of examples are limited to 20 MiB: a thousand photographs at once can be gigabytes.
        return [*engine, "--tfxio_use_byte_size_batching=true", *self.options]


# Workers already have this project. Without the name of an image, TFX would package itself for remote workers before
# every node, which takes longer than some nodes. Only Dataflow reads the name.
_NO_PACKAGE = ["--sdk_container_image=none"]
