"""`[beam]`: valid settings, messages for invalid ones, and arguments that Beam accepts."""

import re
import tomllib
from pathlib import Path

import pytest

from pipeline.config import loading, sections
from pipeline.config.messages import ConfigError
from pipeline.execution.beam_options import ENGINES, BeamSection
from pipeline.kubeflow import cluster_config

DATAFLOW = {
    "project": "images-prod",
    "region": "europe-west4",
    "temp_location": "gs://bucket/tmp",
    "image": "europe-docker.pkg.dev/images-prod/images/tfx-vision:beam",
}
CONFIGURATIONS = {
    "local": {},
    "multi_processing": {"runner": "multi_processing", "workers": 3},
    "flink on this machine": {"runner": "flink"},
    "flink, a jar": {"runner": "flink", "flink": {"job_server_jar": "/opt/job-server.jar", "parallelism": 4}},
    "flink, a cluster and its workers": {
        "runner": "flink",
        "flink": {
            "master": "flink:8081",
            "version": "1.19",
            "parallelism": 16,
            "environment": "external",
            "worker_pool": "localhost:50000",
            "worker_processes": 4,
        },
    },
    "flink, its job server": {
        "runner": "flink",
        "flink": {"job_endpoint": "flink:8099", "environment": "docker", "image": "registry/tfx-vision:beam"},
    },
    "spark on this machine": {"runner": "spark"},
    "spark, a cluster": {
        "runner": "spark",
        "spark": {"master": "spark://spark:7077", "environment": "docker", "image": "registry/tfx-vision:beam"},
    },
    "spark, its job server": {
        "runner": "spark",
        "spark": {"job_endpoint": "spark:8099", "environment": "external", "worker_pool": "localhost:50000"},
    },
    "spark, a jar": {"runner": "spark", "spark": {"master": "local[8]", "job_server_jar": "/opt/job-server.jar"}},
    "dataflow": {
        "runner": "dataflow",
        "dataflow": DATAFLOW
        | {
            "machine_type": "n2-standard-8",
            "max_workers": 50,
            "disk_size_gb": 100,
            "service_account": "beam@images-prod.iam.gserviceaccount.com",
        },
        "options": ("--no_use_public_ips", "--subnetwork=regions/europe-west4/subnetworks/private"),
    },
}


@pytest.mark.parametrize("section", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_beam_accepts_every_argument(section):
    from apache_beam.options.pipeline_options import PipelineOptions, TestOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.runner import create_runner

    # The only flag of tfx_bsl.
    arguments = BeamSection.model_validate(section).arguments()
    arguments.remove("--tfxio_use_byte_size_batching=true")
    options = PipelineOptions(arguments)
    unknown = options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys()
    assert not unknown
    options.view_as(TestOptions).dry_run = True  # otherwise the bucket is accessed
    runner = create_runner(options.get_all_options()["runner"])
    assert PipelineOptionsValidator(options, runner).validate() == []


def test_an_unknown_argument_is_detected():
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions([*BeamSection().arguments(), "--parallelsm=3"])
    assert (
        "parallelsm" in options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys()
    )


def test_the_arguments_of_flink_with_a_cluster_and_a_worker_pool():
    section = BeamSection.model_validate(CONFIGURATIONS["flink, a cluster and its workers"])
    assert section.arguments() == [
        "--runner=FlinkRunner",
        "--parallelism=16",
        "--flink_master=flink:8081",
        "--flink_version=1.19",
        "--environment_type=EXTERNAL",
        "--environment_config=localhost:50000",
        "--environment_cache_millis=60000",
        "--sdk_worker_parallelism=4",
        "--sdk_container_image=none",
        "--tfxio_use_byte_size_batching=true",
    ]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"flink": {"parallelism": 4}}, r'\[beam.flink\] requires runner = "flink", not "local"'),
        ({"runner": "flink", "spark": {"master": "local[2]"}}, r"\[beam.spark\] requires runner = \"spark\""),
        ({"runner": "flink", "flink": {"environment": "external"}}, r'"external" requires worker_pool'),
        ({"runner": "flink", "flink": {"environment": "docker"}}, r'"docker" requires image'),
        (
            {"runner": "flink", "flink": {"worker_pool": "x:1"}},
            r'`worker_pool` requires environment = "external", not "loopback"',
        ),
        ({"runner": "flink", "flink": {"master": "flink:8081"}}, r"which the cluster flink:8081 cannot reach"),
        ({"runner": "flink", "flink": {"master": "flink"}}, r"flink\.master: String should match"),
        (
            {"runner": "flink", "flink": {"job_endpoint": "x:1", "master": "[local]"}},
            r"master is for one that Beam starts",
        ),
        (
            {"runner": "flink", "flink": {"job_endpoint": "x:1", "job_server_jar": "x.jar"}},
            r"job_server_jar is for one that Beam starts",
        ),
        (
            {"runner": "flink", "flink": {"version": "1.20", "job_server_jar": "x.jar"}},
            r"job_server_jar replaces it: keep one",
        ),
        ({"runner": "spark", "spark": {"master": "spark://s:7077"}}, r"which the cluster spark://s:7077 cannot reach"),
        ({"runner": "spark", "spark": {"master": "yarn"}}, r"spark\.master: String should match"),
        (
            {"runner": "dataflow", "dataflow": {"project": "images-prod"}},
            r"requires dataflow.region, dataflow.temp_location",
        ),
        (
            {"runner": "dataflow", "dataflow": DATAFLOW | {"temp_location": "/tmp"}},
            r"temp_location: String should match",
        ),
        ({"options": ["parallelism=3"]}, r"`parallelism=3` is not an option; use the form --name=value"),
        ({"options": ["--runner=DaskRunner"]}, r"set beam.runner instead"),
        ({"runner": "dask"}, r"Input should be 'local', 'multi_processing', 'flink', 'spark' or 'dataflow'"),
    ],
)
def test_errors_name_the_setting(section, message, tmp_path):
    import tomlkit

    path = tmp_path / "birds.toml"
    path.write_text(tomlkit.dumps({"data": {"path": "gs://bucket/birds"}, "beam": section}))
    with pytest.raises(ConfigError, match=message):
        loading.load(str(path))


def test_every_key_is_documented_with_its_description():
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for name in ENGINES:
        section = BeamSection.model_fields[name].annotation
        assert f"## `[beam.{name}]`" in text
        for key, field in section.model_fields.items():
            assert f"| `{key}` |" in text and field.description in text, (name, key)


def test_the_examples_of_the_documentation_are_valid():
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    tables = [tomllib.loads(block) for block in blocks]
    for table in tables:
        sections.PipelineSection.model_validate(table.get("pipeline", {}))
    runners = [BeamSection.model_validate(table["beam"]).runner for table in tables]
    assert runners == ["multi_processing", "flink", "flink", "dataflow"]


def test_dataflow_reads_only_buckets():
    settings = ["beam.runner=dataflow", *(f"beam.dataflow.{key}={value}" for key, value in DATAFLOW.items())]
    place = "pipeline.artifacts=gs://bucket/runs"
    loaded = loading.load("images", data="gs://bucket/birds", overrides=[*settings, place])
    assert "--runner=DataflowRunner" in loaded.beam.arguments()
    assert loaded.artifacts_location == "gs://bucket/runs/birds"
    for preset, data, overrides, message in (
        ("images", "/data/birds", [place], r"reads only gs://, and data.path is /data/birds"),
        ("images", "gs://bucket/birds", ["pipeline.artifacts=/nfs"], r"reads only gs://, and pipeline.artifacts is"),
        ("images", "gs://bucket/birds", [], r"requires pipeline.artifacts, a gs:// folder"),
        ("digits", None, [place], r'data.source = "digits" writes to a local folder'),
    ):
        with pytest.raises(ConfigError, match=message):
            loading.load(preset, data=data, overrides=[*settings, *overrides])


@pytest.mark.parametrize("location", ["gs://", "gs:///runs"])
def test_a_storage_uri_without_a_bucket_is_rejected(location):
    """The result of `gs://$BUCKET` if BUCKET is not set."""
    with pytest.raises(ConfigError, match=r"is not a storage URI; use gs://bucket/folder"):
        loading.load("digits", overrides=[f"pipeline.artifacts={location}"])


def test_the_folder_of_artifacts(tmp_path):
    inside = loading.load("digits", overrides=[f"pipeline.root={tmp_path}"])
    assert inside.artifacts_location == str(inside.run_dir / "artifacts")
    volume = loading.load("digits", overrides=[f"pipeline.artifacts={tmp_path}/volume"])
    assert volume.artifacts_location == f"{tmp_path}/volume/digits"


def test_engines_require_a_folder_that_they_share_with_pods():
    loaded = loading.load("digits", overrides=["beam.runner=flink"])
    with pytest.raises(ConfigError, match=r'beam\.runner = "flink" requires pipeline\.artifacts'):
        cluster_config.check(loaded)
