"""Renamed configuration keys: they keep their effect for one release, with a warning."""

import pytest

from pipeline.config import loading, renamed_keys
from pipeline.config.messages import ConfigError

RENAMED = {"learning": "training", "training.rounds": "training.epochs", "network.blocks": "model.blocks"}


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Loads TOML text with a synthetic table of renamed keys; returns the configuration and the warnings."""
    monkeypatch.setattr(renamed_keys, "RENAMED", RENAMED)
    implied = renamed_keys.ImpliedSetting("transform.normalization", "backbone", "model.name", "transfer")
    monkeypatch.setattr(renamed_keys, "IMPLIED", (implied,))

    def make(text, *overrides):
        path = tmp_path / "own.toml"
        path.write_text(text)
        warnings = []
        return loading.load(str(path), overrides=overrides, needs_data=False, warn=warnings.append), warnings

    return make


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("[training]\nrounds = 3", []),
        ("[learning]\nepochs = 3", []),
        ("", ["training.rounds=3"]),
        ("", ["learning.epochs=3"]),
        ("[training]\nepochs = 4", ["training.rounds=3"]),
        ("[training]\nrounds = 4", ["training.epochs=3"]),
    ],
)
def test_an_old_key_sets_the_new_one(load, text, overrides):
    loaded, warnings = load(text, *overrides)
    assert loaded.training.epochs == 3
    (warning,) = warnings
    assert "was renamed to `training.epochs`. The old key stops working in the next release." in warning


def test_a_new_key_causes_no_warning(load):
    assert load("[training]\nepochs = 3", "training.epochs=4")[1] == []


def test_every_key_of_a_renamed_section_has_its_warning(load):
    loaded, warnings = load("[learning]\nepochs = 3\nbatch_size = 7\n[training]\nseed = 5")
    assert (loaded.training.epochs, loaded.training.batch_size, loaded.training.seed) == (3, 7, 5)
    assert [warning.split("`")[1::2] for warning in warnings] == [
        ["learning.epochs", "training.epochs"],
        ["learning.batch_size", "training.batch_size"],
    ]


def test_an_unknown_key_of_a_renamed_section_is_an_error_of_the_new_one(load):
    with pytest.raises(ConfigError, match=r"Unknown key `epoch` in \[training\]\. Did you mean `epochs`\?"):
        load("[learning]\nepoch = 3")


def test_keys_move_to_another_section(load):
    loaded, warnings = load("[network]\nblocks = [[4], [8]]")
    assert loaded.model.blocks == ((4,), (8,)) and len(warnings) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[training]\nrounds = 3\nepochs = 3",
        "[learning]\nepochs = 3\n[training]\nepochs = 4",
        '[tuner.space]\n"training.rounds" = {min = 1, max = 3}\n"training.epochs" = {min = 1, max = 2}',
    ],
)
def test_both_keys_are_an_error(load, text):
    with pytest.raises(ConfigError, match=r"`.*` was renamed to `.*training\.epochs`, and both are set\. Remove `"):
        load(text)


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ('[tuner.space]\n"network.blocks" = {choices = [1]}', []),
        ("[tuner.space]\nnetwork.blocks = {choices = [1]}", []),
        ("", ["tuner.space.network.blocks={choices=[1]}"]),
        ("", ["tuner.space={network.blocks={choices=[1]}}"]),
        ("", ['tuner.space={"network.blocks"={choices=[1]}}']),
    ],
)
def test_names_of_the_search_space_are_renamed_too(load, text, overrides):
    loaded, warnings = load(text, *overrides)
    assert list(loaded.tuner.space) == ["model.blocks"] and len(warnings) == 1


def test_a_value_implies_a_setting_that_is_absent(load):
    loaded, warnings = load('[transform]\nnormalization = "backbone"', "transform.image_size=64")
    assert loaded.model.name == "transfer"
    (warning,) = warnings
    assert '`transform.normalization = "backbone"` implies `model.name = "transfer"`' in warning
    assert load('[transform]\nnormalization = "backbone"\n[model]\nname = "transfer"')[1] == []


def test_a_renamed_preset():
    warnings = []
    assert loading.load("pictures", data="x", warn=warnings.append) == loading.load("images", data="x")
    assert warnings == [
        "The preset `pictures` was renamed to `images`. The old name stops working in the next release."
    ]
    with pytest.warns(FutureWarning, match="was renamed to `images`"):
        loading.load("pictures", data="x")


def test_the_old_default_name_stays_where_it_has_runs(tmp_path):
    overrides, warnings = [f"pipeline.root={tmp_path}"], []
    assert loading.load("images", overrides=overrides, needs_data=False).pipeline.name == "images"
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "metadata.sqlite").touch()
    loaded = loading.load("images", overrides=overrides, needs_data=False, warn=warnings.append)
    assert loaded.pipeline.name == "pictures"
    (warning,) = warnings
    assert 'set `pipeline.name = "pictures"`' in warning
    named = loading.load("images", overrides=[*overrides, "pipeline.name=mine"], needs_data=False)
    assert named.pipeline.name == "mine"


def test_the_command_prints_each_warning_once(tmp_path):
    from typer.testing import CliRunner

    from pipeline.cli.app import app

    done = CliRunner().invoke(app, ["history", "pictures", "--set", f"pipeline.root={tmp_path}"])
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.count("warning: The preset `pictures` was renamed to `images`.") == 1


def test_resources_of_renamed_kubeflow_nodes(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('[kubeflow.nodes.PicturesGate]\nmemory_request = "2Gi"\n')
    warnings = []
    loaded = loading.load(
        str(path), overrides=["kubeflow.nodes.Verdict.cpu_request=2"], needs_data=False, warn=warnings.append
    )
    assert loaded.kubeflow.nodes["DatasetGate"].memory_request == "2Gi"
    assert loaded.kubeflow.nodes["RunVerdict"].cpu_request == "2"
    assert len(warnings) == 2 and all("kubeflow.nodes." in warning for warning in warnings)
