"""`[beam]`: what runs the data-parallel nodes. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from trainer_module.section import Section

# Nodes that Beam runs on machines which the configuration does not start: they see files, not this process.
ENGINES = ("flink", "spark", "dataflow")

Endpoint = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")]
GcsPath = Annotated[str, StringConstraints(pattern=r"^gs://[^/]+(/.*)?$")]
# How long a worker without work stays, milliseconds.
_KEPT_MS = 60_000
_FLINK_MASTER = r"^(\[local\]|(https?://)?[A-Za-z0-9.-]+:[0-9]{1,5})$"
_LOCAL_SPARK = re.compile(r"local(\[.+\])?")


class WorkerOptions(Section):
    """Where an engine written in Java finds Python: Beam's "environment"."""

    environment: Literal["loopback", "external", "docker"] = Field(
        default="loopback",
        description="Where the Python of the nodes runs: `loopback`, here, for an engine on this machine; `external`, "
        "in the pool of workers at worker_pool; `docker`, in containers of image.",
    )
    worker_pool: Endpoint | None = Field(
        default=None,
        description="host:port of a worker pool, as every machine of the engine sees it, with environment = external; "
        "localhost:50000 where each has its own beside it.",
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        description="Container image with this project and Beam's boot program, with environment = docker.",
    )
    worker_processes: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Python processes for each of the engine's machines, as many as it has cores for them. With "
        "loopback, 1 is this very process, and more are started anew for every node.",
    )

    @model_validator(mode="after")
    def _environment_is_whole(self) -> WorkerOptions:
        for needed, key in (("external", "worker_pool"), ("docker", "image")):
            said = getattr(self, key)
            if self.environment == needed and said is None:
                raise ValueError(f'environment = "{needed}" needs {key}')
            if self.environment != needed and said is not None:
                raise ValueError(f'{key} has no effect with environment = "{self.environment}": set it to "{needed}"')
        return self

    def environment_arguments(self) -> list[str]:
        """The part of Beam's command line that says where Python runs."""
        said = [f"--environment_type={self.environment.upper()}"]
        if self.environment == "loopback" and self.worker_processes > 1:
            # Otherwise all workers are threads of this process, and share one interpreter's lock.
            said.append("--experiments=use_loopback_process_worker")
        elif self.environment == "external":
            said.append(f"--environment_config={self.worker_pool}")
        elif self.environment == "docker":
            said.append(f"--environment_config={self.image}")
        # A job has several stages, and a worker that starts for each of them imports TensorFlow and TFX every time.
        said.append(f"--environment_cache_millis={_KEPT_MS}")
        return [*said, f"--sdk_worker_parallelism={self.worker_processes}"]


class FlinkOptions(WorkerOptions):
    """`[beam.flink]`: with runner = flink."""

    master: str | None = Field(
        default=None,
        pattern=_FLINK_MASTER,
        description="host:port of the cluster's REST address, for the job server that is started here; `[local]` (the "
        "default) is a cluster inside of that.",
    )
    job_endpoint: Endpoint | None = Field(
        default=None,
        description="host:port of a job server that runs already; it knows its cluster. Without it Beam starts one for "
        "every node, which takes Java.",
    )
    job_server_jar: str | None = Field(
        default=None,
        min_length=1,
        description="Beam's job server, a path or an address; Beam downloads that of its own version if not said.",
    )
    version: Literal["1.19", "1.20", "2.0", "2.1", "2.2"] | None = Field(
        default=None, description="Of Flink, which decides what is downloaded; Beam's newest if not said."
    )
    parallelism: int = Field(default=1, ge=1, le=32768, description="Flink's slots that a node may use.")

    @model_validator(mode="after")
    def _fits_together(self) -> FlinkOptions:
        _one_server(self.job_endpoint, master=self.master, job_server_jar=self.job_server_jar, version=self.version)
        if self.job_server_jar and self.version:
            raise ValueError("version says which job server is downloaded, and job_server_jar that none is: keep one")
        if self.environment == "loopback" and self.master not in (None, "[local]"):
            raise ValueError(_LOOPBACK.format(master=self.master))
        return self

    def arguments(self) -> list[str]:
        """The part of Beam's command line that is Flink's."""
        said = ["--runner=FlinkRunner", f"--parallelism={self.parallelism}"]
        if self.job_endpoint:
            said.append(f"--job_endpoint={self.job_endpoint}")
        else:
            said.append(f"--flink_master={self.master or '[local]'}")
        if self.job_server_jar:
            said.append(f"--flink_job_server_jar={self.job_server_jar}")
        if self.version:
            said.append(f"--flink_version={self.version}")
        return said + self.environment_arguments()


class SparkOptions(WorkerOptions):
    """`[beam.spark]`: with runner = spark."""

    master: str | None = Field(
        default=None,
        pattern=r"^(local(\[([0-9]+|\*)\])?|spark://[A-Za-z0-9.,:-]+)$",
        description="spark://host:port, for the job server that is started here; `local[*]` (the default) is Spark "
        "inside of that.",
    )
    job_endpoint: Endpoint | None = Field(
        default=None, description="host:port of a job server that runs already; it knows its cluster."
    )
    job_server_jar: str | None = Field(
        default=None,
        min_length=1,
        description="Beam's job server for Spark 3, a path or an address; Beam downloads that of its own version if "
        "not said.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SparkOptions:
        _one_server(self.job_endpoint, master=self.master, job_server_jar=self.job_server_jar)
        if self.environment == "loopback" and self.master and not _LOCAL_SPARK.fullmatch(self.master):
            raise ValueError(_LOOPBACK.format(master=self.master))
        return self

    def arguments(self) -> list[str]:
        """The part of Beam's command line that is Spark's."""
        said = ["--runner=SparkRunner"]
        if self.job_endpoint:
            said.append(f"--job_endpoint={self.job_endpoint}")
        else:
            said.append(f"--spark_master_url={self.master or 'local[*]'}")
        if self.job_server_jar:
            said.append(f"--spark_job_server_jar={self.job_server_jar}")
        return said + self.environment_arguments()


_LOOPBACK = (
    'environment = "loopback" runs Python on this machine, and {master} is a cluster, which does not reach it: set '
    '"external" with worker_pool, or "docker" with image'
)


def _one_server(job_endpoint: str | None, **own: str | None) -> None:
    said = [name for name, value in own.items() if value is not None]
    if job_endpoint and said:
        raise ValueError(
            f"job_endpoint is a job server that runs already, and {said[0]} is for one of our own: keep one"
        )


class DataflowOptions(Section):
    """`[beam.dataflow]`: with runner = dataflow."""

    project: str | None = Field(
        default=None, pattern=r"^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$", description="Google Cloud's project."
    )
    region: str | None = Field(default=None, pattern=r"^[a-z]+-[a-z]+[0-9]+$", description="Such as europe-west4.")
    temp_location: GcsPath | None = Field(default=None, description="gs://… for Dataflow's own files.")
    image: str | None = Field(
        default=None,
        min_length=1,
        description="Container image with this project and Beam's boot program, in a registry that Dataflow reaches.",
    )
    machine_type: str | None = Field(
        default=None, pattern=r"^[a-z0-9-]+$", description="Of the workers; Dataflow chooses if not said."
    )
    max_workers: int | None = Field(
        default=None, ge=1, le=4000, description="Up to how many machines; it grows by itself."
    )
    disk_size_gb: int | None = Field(default=None, ge=10, le=65536, description="Disk of each worker, GB.")
    service_account: str | None = Field(
        default=None, pattern=r"^[^@\s]+@[^@\s]+$", description="Account of the workers; the project's own if not said."
    )

    def missing(self) -> list[str]:
        """What Dataflow cannot do without."""
        return [key for key in ("project", "region", "temp_location", "image") if getattr(self, key) is None]

    def arguments(self) -> list[str]:
        """The part of Beam's command line that is Dataflow's."""
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
        return ["--runner=DataflowRunner"] + [f"--{flag}={said}" for flag, said in flags.items() if said is not None]


class BeamSection(Section):
    """`[beam]`: how the data-parallel nodes run."""

    runner: Literal["local", "multi_processing", "flink", "spark", "dataflow"] = Field(
        default="local",
        description="`local` is this process; `multi_processing` starts workers beside it; `flink`, `spark` and "
        "`dataflow` are engines with machines of their own.",
    )
    workers: int = Field(default=2, ge=1, le=1024, description="Processes, with runner = multi_processing.")
    options: tuple[str, ...] = Field(default=(), description="Further Beam pipeline options, as on its command line.")
    flink: FlinkOptions = FlinkOptions()
    spark: SparkOptions = SparkOptions()
    dataflow: DataflowOptions = DataflowOptions()

    @model_validator(mode="after")
    def _section_is_the_runners(self) -> BeamSection:
        for name in ENGINES:
            section = getattr(self, name)
            if name != self.runner and section != type(section)():
                raise ValueError(f'[beam.{name}] has no effect with runner = "{self.runner}": set runner = "{name}"')
        if self.runner == "dataflow" and (missing := self.dataflow.missing()):
            raise ValueError(f'runner = "dataflow" needs {", ".join(f"dataflow.{key}" for key in missing)}')
        return self

    @model_validator(mode="after")
    def _options_are_flags(self) -> BeamSection:
        for option in self.options:
            if not option.startswith("--"):
                raise ValueError(f"options: `{option}` is no option; write it as on a command line, --name=value")
            if option.partition("=")[0] == "--runner":
                raise ValueError(f"options: `{option}`: say beam.runner instead")
        return self

    def arguments(self) -> list[str]:
        """The command line that Beam is given.

        FnApiRunner is named since Beam's default first tries to download a binary.
        """
        if self.runner == "dataflow":
            engine = self.dataflow.arguments()
        elif self.runner in ENGINES:
            engine = [*getattr(self, self.runner).arguments(), *_NO_PACKAGE]
        else:
            workers = 1 if self.runner == "local" else self.workers
            mode = "in_memory" if self.runner == "local" else "multi_processing"
            engine = [
                "--runner=FnApiRunner",
                f"--direct_running_mode={mode}",
                f"--direct_num_workers={workers}",
                *_NO_PACKAGE,
            ]
        # Batches of examples by their bytes, 20 MiB: a thousand photographs at once may be gigabytes.
        return [*engine, "--tfxio_use_byte_size_batching=true", *self.options]


# Workers have this project already. Without an image's name TFX would pack itself up for workers on other machines
# before every node, which takes longer than many a node. The name itself is read by Dataflow alone.
_NO_PACKAGE = ["--sdk_container_image=none"]
