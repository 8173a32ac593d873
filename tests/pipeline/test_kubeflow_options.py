"""`[kubeflow]`: valid settings and the messages for invalid ones; without TFX."""

import pytest
from pydantic import ValidationError

from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.kubeflow import cluster_config
from pipeline.kubeflow.options import KubeflowOptions, amount

MOUNTED = 'kubeflow.volumes=[{claim="images", mount_path="/volume"}]'
ARTIFACTS = "pipeline.artifacts=/volume/runs"
FLINK = [
    "beam.runner=flink",
    "beam.flink.job_endpoint=flink-job-server:8099",
    "beam.flink.environment=external",
    "beam.flink.worker_pool=localhost:50000",
]
DATAFLOW = [
    "beam.runner=dataflow",
    "beam.dataflow={project='images-prod', region='europe-west4', temp_location='gs://b/tmp', image='r/i:1'}",
]
READY = ["kubeflow.image=r/i:1", MOUNTED, "kubeflow.data_path=/volume/a", "kubeflow.work_path=/volume/work"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("kubeflow.imge=x", r"Unknown key `imge` in \[kubeflow\]\. Did you mean `image`\?"),
        ("kubeflow.gpu.cout=1", r"Unknown key `cout` in \[kubeflow\.gpu\]\. Did you mean `count`\?"),
        ("kubeflow.nodes.Trainr.cpu_limit=1", r"kubeflow\.nodes: unknown node `Trainr`\. Did you mean `Trainer`\?"),
        ("kubeflow.nodes.Trainer.cpu_limt=1", r"Unknown key `cpu_limt` in .*Did you mean `cpu_limit`\?"),
        ("kubeflow.gpu.nodes=['Tuna']", r"kubeflow\.gpu\.nodes: unknown node `Tuna`\. Did you mean `Tuner`\?"),
        ('kubeflow.resources.memory_limit="4 GB"', r"memory_limit: .*pattern.*\(given: '4 GB'\)"),
        ('kubeflow.resources={cpu_request="2", cpu_limit="500m"}', r"cpu_request = 2 is above cpu_limit = 500m"),
        (
            'kubeflow.nodes.Pusher.memory_limit="1Gi"',
            r"nodes\.Pusher: together with kubeflow\.resources, memory_request = 4Gi is above memory_limit = 1Gi",
        ),
        ("kubeflow.gpu.resource=gpu", r"gpu\.resource: .*pattern"),
        ("kubeflow.gpu.count=-1", r"gpu\.count: .*greater than or equal to 0"),
        ('kubeflow.tolerations=[{key="a", operator="Exists", value="b"}]', r"matches every value: remove value"),
        ('kubeflow.tolerations=[{value="b"}]', r"key is missing"),
        ('kubeflow.tolerations=[{key="a", seconds=3}]', r'seconds requires effect = "NoExecute"'),
        ('kubeflow.tolerations=[{kee="a"}]', r"Unknown key `kee` in .*Did you mean `key`\?"),
        ('kubeflow.volumes=[{claim="Not Allowed", mount_path="/a"}]', r"claim: `Not Allowed` becomes .* a DNS label"),
        ('kubeflow.volumes=[{claim="images.v2", mount_path="/a"}]', r"claim: `images\.v2` becomes .* without dots"),
        (f'kubeflow.volumes=[{{claim="{"a" * 64}", mount_path="/a"}}]', r"1 to 63 lower-case letters"),
        ('kubeflow.secrets=[{name="s.t", mount_path="/s"}]', r"name: `s\.t` becomes .* without dots"),
        ('kubeflow.volumes=[{claim="minio-scratch", mount_path="/a"}]', r"claim `minio-scratch`: pods have a volume"),
        ('kubeflow.secrets=[{name="ca-bundle", mount_path="/a"}]', r"secret `ca-bundle`: pods have a volume"),
        ('kubeflow.volumes=[{claim="a", mount_path="/minio/x"}]', r"pods use /minio themselves"),
        ('kubeflow.volumes=[{claim="a", mount_path="/tmp"}]', r"pods use /tmp/kfp_outputs themselves"),
        (
            'kubeflow.volumes=[{claim="a", mount_path="/a"}, {claim="b", mount_path="/a/"}]',
            r"mount_path /a/ is used twice",
        ),
        ('kubeflow.secrets=[{name="s"}]', r"secret `s` is not used"),
        ("kubeflow.data_path=/volume/a", r"kubeflow\.data_path = /volume/a is not on a mounted volume .*\(.*: none\)"),
        ("kubeflow.work_path=relative", r"work_path: .*pattern"),
        ("kubeflow.pipeline_root=hdfs://a/b", r"pipeline_root: .*pattern"),
        ("kubeflow.retries=99", r"retries: .*less than or equal to 10"),
        ("kubeflow.env={1A='x'}", r"pattern"),
    ],
)
def test_errors_name_the_setting(override, message):
    with pytest.raises(ConfigError, match=message) as raised:
        loading.load("digits", overrides=[override])
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"kubeflow\.image is missing(.|\n)*data_path is missing(.|\n)*work_path is missing"),
        ([*READY, "pipeline.artifacts=runs"], r"pipeline\.artifacts = runs is not on a mounted volume.*/volume"),
        ([*READY, "pipeline.artifacts=s3://bucket/runs"], r"must be below a mounted volume or at gs://"),
        ([*READY, "beam.runner=flink"], r'"flink" requires pipeline\.artifacts(.|\n)*job_endpoint is missing'),
        ([*READY, ARTIFACTS, *FLINK[:2]], r'beam\.flink\.environment = "loopback" runs Python in the pod'),
        ([*READY, ARTIFACTS, "beam.runner=spark"], r"beam\.spark\.job_endpoint is missing: set the address"),
        (
            [*READY, "pipeline.artifacts=gs://b/runs", "data.path=gs://b/a", *DATAFLOW],
            r'"dataflow" reads gs:// only: kubeflow\.data_path = /volume/a',
        ),
        ([*READY, "training.distribution=multi_worker"], r"a node of Kubeflow Pipelines is one pod"),
        (
            [*READY, "serving.base_directory=models"],
            r"serving\.base_directory = models is not on a mounted volume.*/volume",
        ),
        (
            [*READY, "data.metadata_csv=/home/me/a.csv"],
            r"data\.metadata_csv = /home/me/a\.csv is not on a mounted volume",
        ),
    ],
)
def test_a_configuration_that_pods_cannot_run_is_rejected_before_compiling(overrides, message):
    with pytest.raises(ConfigError, match=message):
        cluster_config.check(loading.load("digits", overrides=overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        [ARTIFACTS],
        [ARTIFACTS, *FLINK],
        ["pipeline.artifacts=gs://b/runs", *FLINK],
        ["pipeline.artifacts=gs://b/runs", "data.path=gs://b/a", "kubeflow.data_path=gs://b/a", *DATAFLOW],
    ],
)
def test_engines_run_the_data_nodes_if_workers_see_the_artifacts(overrides):
    cluster = cluster_config.for_pods(loading.load("digits", overrides=[*READY, *overrides]))
    assert cluster.artifacts_location in ("/volume/runs/digits", "gs://b/runs/digits")


def test_a_claim_and_a_secret_with_files_need_different_names():
    volumes = [{"claim": "x", "mount_path": "/a"}]
    with pytest.raises(ValidationError, match="claim and secret `x` would be two volumes of one name"):
        KubeflowOptions(volumes=volumes, secrets=[{"name": "x", "mount_path": "/b"}])
    assert KubeflowOptions(volumes=volumes, secrets=[{"name": "x", "env": {"A": "b"}}])


def test_pods_use_the_paths_of_the_cluster():
    cluster = cluster_config.for_pods(loading.load("digits", overrides=READY))
    assert cluster.data_location == "/volume/a"
    assert str(cluster.model_base_path) == "/volume/work/digits/serving/digits"
    remote = cluster_config.for_pods(
        loading.load("digits", overrides=[*READY, "kubeflow.data_path=gs://bucket/a/{SPAN}"])
    )
    assert remote.data_location == "gs://bucket/a/{SPAN}"


def test_the_configuration_is_equal_after_writing_and_reading(tmp_path):
    overrides = [
        *READY,
        'kubeflow.gpu.tolerations=[{key="nvidia.com/gpu", operator="Exists"}]',
        'kubeflow.nodes.Trainer={cpu_limit="8", accelerators=2}',
        'kubeflow.secrets=[{name="s", env={A="b"}}]',
    ]
    loaded = loading.load("digits", overrides=overrides)
    (tmp_path / "a.toml").write_text(loading.as_toml(loaded))
    assert loading.load(str(tmp_path / "a.toml")) == loaded


def test_settings_of_one_node_replace_those_of_all_nodes():
    options = KubeflowOptions.model_validate(
        {
            "resources": {"cpu_request": "1", "memory_request": "2Gi"},
            "nodes": {"Trainer": {"cpu_request": "4", "accelerators": 2}, "GradCam": {"accelerators": 0}},
            "node_selector": {"pool": "cpu"},
            "tolerations": [{"key": "all", "operator": "Exists"}],
            "gpu": {
                "count": 1,
                "node_selector": {"pool": "gpu"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
            },
        }
    )
    trainer = options.resources_of("Trainer")
    assert (trainer.cpu_request, trainer.memory_request, trainer.cpu_limit) == ("4", "2Gi", None)
    assert [options.accelerators_of(node) for node in ("Trainer", "Tuner", "GradCam", "Pusher")] == [2, 1, 0, 0]
    assert [options.node_selector_of(node)["pool"] for node in ("Trainer", "GradCam")] == ["gpu", "cpu"]
    assert [[t.key for t in options.tolerations_of(node)] for node in ("Trainer", "GradCam")] == [
        ["all", "gpu"],
        ["all"],
    ]


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("500m", 0.5), ("2Gi", 2**31), ("1.5M", 1.5e6)])
def test_quantities_of_kubernetes(text, number):
    assert amount(text) == number
