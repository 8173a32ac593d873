"""The configuration: valid settings, and the messages for invalid ones."""

import re
from pathlib import Path

import pytest

from pipeline.config import loading, sections
from pipeline.config.messages import ConfigError
from pipeline.execution.beam_options import BeamSection


@pytest.mark.parametrize("name", loading.preset_names())
def test_every_preset_is_valid_and_has_a_header(name):
    data = None if 'source = "' in loading.preset_text(name) else "."
    loaded = loading.load(name, data=data)
    assert data is not None or loaded.pipeline.name == name.replace("_", "-")
    header = [line for line in loading.preset_text(name).splitlines() if line.startswith("#")]
    entries = {
        word: [line for line in header if line.startswith(f"# {word}:")] for word in ("command", "cost", "result")
    }
    assert all(len(lines) == 1 for lines in entries.values())
    for line in entries["cost"] + entries["result"]:  # measured
        assert re.search(r"\d", line)
        assert "?" not in line and "to be" not in line.lower()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rat=1", r"Unknown key `learning_rat` in \[training\]\. Did you mean `learning_rate`\?"),
        ("modl.name='x'", r"Unknown key `modl`\. Did you mean `model`\?"),
        ("model.block=3", r"Unknown key `block` in \[model\]\. Did you mean `blocks`\?"),
        ("data.splits.tran=0.5", r"Unknown key `tran` in \[data\.splits\]\. Did you mean `train`\?"),
        ("training.epochs=many", r"training\.epochs: .*valid integer.*\(given: 'many'\)"),
        ("training.epochs=2.5", r"training\.epochs: .*valid integer"),
        ("training.epochs=0", r"training\.epochs: .*greater than or equal to 1"),
        ("training.learning_rate=nan", r"training\.learning_rate: .*finite number"),
        ("data.max_bad_fraction=1.5", r"data\.max_bad_fraction: .*less than or equal to 1"),
        ("data.splits.train=0.9", r"data\.splits: train, validation and test must add up to 1, not 1\.2"),
        ("evaluation.thresholds.acuracy=0.9", r"has no metric `acuracy`\. Did you mean `accuracy`\?"),
        ("evaluation.thresholds.accuracy=80", r"`accuracy` must be between 0 and 1, not 80"),
        ("evaluation.thresholds.macro_f1=-3", r"`macro_f1` must be between 0 and 1, not -3"),
        ("evaluation.thresholds.cross_entropy=-1", r"`cross_entropy` must be 0 or more, not -1"),
        ("evaluation.change_thresholds.accuracy=7", r"`accuracy` must be between 0 and 1, not 7"),
        (
            "evaluation.disabled_rules=['beats_chanse']",
            r"no default rule `beats_chanse`\. Did you mean `beats_chance`\?",
        ),
        ("evaluation.thresholds={}", r"evaluation\.thresholds: at least one is required"),
        ("model.name=vgg", r"Unknown model 'vgg'\. Known models: .*scratch_cnn"),
        ("model.blocks=[[1],[1],[1],[1],[1],[1]]", r"image_size is 16, but the model requires at least 32"),
        (
            "model.convolution=depthwise",
            r"convolution: must be one of standard, separable, mobilenet, or .*'depth",
        ),
        ('model.downsampling=["max", "min", "max"]', r"downsampling: must be one of max, average, stride, or a list"),
        ('model.downsampling=["max", "max"]', r"downsampling has 2 values and blocks has 3: set one value for all"),
        ("model.convolution=[]", r"convolution has 0 values and blocks has 3"),
        ("model.blocks=[[32], []]", r"model\.blocks\.1: .*at least 1 item"),
        ("task.pooling=average", r"task\.pooling: Input should be 'global_average', 'global_max' or 'flatten'"),
        ("serving.max_latency_ms=0", r"serving\.max_latency_ms: .*greater than 0"),
        ("serving.max_size_mb=small", r"serving\.max_size_mb: .*valid number"),
        ("serving.allowed_operations=['no name']", r"serving\.allowed_operations\.0: .*pattern.*\(given: 'no name'\)"),
        ("validation.on_skew=refuse", r"validation\.on_skew: Input should be 'stop', 'warn' or 'ignore'"),
        ("pipeline.name='Not Allowed'", r"pipeline\.name: .*pattern"),
    ],
)
def test_errors_name_the_setting(override, message):
    with pytest.raises(ConfigError, match=message):
        loading.load("digits", overrides=[override])


@pytest.mark.parametrize("override", ["epochs=3", "training=3", "training.epochs", "training.=3", ".x=3", "=3"])
def test_a_malformed_override_shows_the_form(override):
    with pytest.raises(ConfigError, match=r"expected section\.key=value"):
        loading.load("digits", overrides=[override])


def test_all_errors_are_reported_together():
    with pytest.raises(ConfigError) as raised:
        loading.load("digits", overrides=["training.epoch=3", "transform.chanels=1", "training.batch_size=0"])
    assert all(word in str(raised.value) for word in ("epoch", "chanels", "batch_size"))


def test_values_are_toml_or_bare_words():
    loaded = loading.load(
        "digits", overrides=["training.learning_rate=1e-2", "grad_cam.colormap=magma", "model.blocks=[[8],[16]]"]
    )
    assert loaded.training.learning_rate == 0.01
    assert loaded.grad_cam.colormap == "magma"
    assert loaded.model.blocks == ((8,), (16,))


def test_an_error_in_a_union_is_reported_once():
    with pytest.raises(ConfigError) as raised:
        loading.load("digits", overrides=["model.convolution=depthwise"])
    assert len(str(raised.value).splitlines()) == 1


def test_one_value_for_all_blocks_or_one_per_block():
    overrides = ["model.convolution=separable", 'model.downsampling=["stride", "max", "average"]']
    loaded = loading.load("digits", overrides=overrides)
    assert loaded.model.convolution == "separable"
    assert loaded.model.downsampling == ("stride", "max", "average")
    options = loaded.trainer_options(("a", "b"))
    assert type(options).model_validate_json(options.model_dump_json()) == options


def test_only_a_run_requires_a_dataset():
    assert loading.load("images", needs_data=False).data.path is None
    with pytest.raises(ConfigError, match=r"data\.path is missing"):
        loading.load("images")


def test_another_model_does_not_inherit_the_keys_of_the_preset():
    assert loading.load("digits", overrides=["model.depth=2", "model.name=unet"]).model.depth == 2
    with pytest.raises(ConfigError, match=r"Unknown key `filtrs` in \[model\]\. Did you mean `filters`\?"):
        loading.load("digits", overrides=["model.name='unet'", "model.filtrs=3"])
    assert len(loading.load("digits", overrides=["model.name=scratch_cnn"]).model.blocks) == 3


def test_data_replaces_the_source(tmp_path):
    loaded = loading.load("digits", data=str(tmp_path))
    assert loaded.data.source == "folder"
    assert loaded.data_location == str(tmp_path)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Cats & Dogs", "cats-dogs"),
        ("x" * 99, "x" * 62),
        ("猫", "images"),
        ("2024_run", "2024-run"),
        ("birds/day-{SPAN}", "birds-day"),
        ("birds/{SPAN}", "birds"),
        ("birds/manifest.csv", "birds"),
        ("birds/list.jsonl", "birds-list"),
    ],
)
def test_a_preset_on_other_data_is_another_pipeline(tmp_path, folder, name):
    assert loading.load("digits", data=str(tmp_path / folder)).pipeline.name == name
    named = loading.load("digits", data=str(tmp_path / folder), overrides=["pipeline.name=mine"])
    assert named.pipeline.name == "mine"


def test_remote_locations_are_unchanged():
    loaded = loading.load("images", data="gs://bucket/birds")
    assert loaded.data_location == "gs://bucket/birds"
    assert loaded.pipeline.name == "birds"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.group_pattern='('", "data.group_pattern: not a regular expression"),
        ("data.group_pattern=abc", "data.group_pattern: needs a group in parentheses"),
        ("data.split_pattern='('", "data.split_pattern: not a regular expression"),
        ("data.split_pattern='(?P<held_out>x)'", "data.split_pattern: needs groups that are named after splits"),
        ("data.split_pattern='(x)'", "data.split_pattern: needs groups that are named after splits"),
        ("data.spans=latest", "data.spans"),
        ('data.classes=["a", "a"]', "data.classes: names a class twice"),
        ("data.near_duplicate_distance=9", "data.near_duplicate_distance"),
        ("validation.on_drift=ignore", "validation.on_drift"),
    ],
)
def test_invalid_settings_of_the_dataset(override, message):
    with pytest.raises(ConfigError, match=message):
        loading.load("digits", overrides=[override])


@pytest.fixture
def transfer_file(tmp_path):
    path = tmp_path / "transfer.toml"
    path.write_text('data.path = "x"\nmodel.name = "transfer"\ntransform.normalization = "backbone"\n')
    return str(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("transform.normalization=dataset", r'set transform\.normalization = "backbone"'),
        ("transform.channels=1", r"set transform\.channels = 3"),
        ("transform.image_size=31", r"image_size is 31, but the model requires at least 32"),
        ("transform.image_size=[64, 31]", r"image_size is \[64, 31\], but the model requires at least 32"),
        ("model.bakbone=0.5", r"Did you mean `backbone`\?"),
        ("model.backbone=vgg16", r"unknown backbone `vgg16`; known: convnext_tiny, densenet121"),
    ],
)
def test_requirements_of_a_backbone(transfer_file, override, message):
    with pytest.raises(ConfigError, match=message):
        loading.load(transfer_file, overrides=[override])


def test_a_backbone_needs_a_feature_map_with_the_stride(transfer_file):
    with pytest.raises(ConfigError, match=r"`saved_model` has no feature map with a stride of 8; known: 32"):
        loading.load(transfer_file, overrides=["model.backbone=saved_model", "model.feature_stride=8"])


@pytest.mark.parametrize("layers", [0, 1])
def test_a_frozen_backbone_cannot_be_fine_tuned(transfer_file, layers):
    tuned = ["model.backbone=saved_model", "fine_tuning.epochs=1", f"fine_tuning.unfreeze_layers={layers}"]
    with pytest.raises(ConfigError, match=r"fine_tuning\.epochs must be 0: .* cannot be trained"):
        loading.load(transfer_file, overrides=tuned)


def test_fine_tuning_trains_some_layers_of_the_backbone(transfer_file):
    message = r"fine_tuning\.epochs = 2 with fine_tuning\.unfreeze_layers = 0 would train only the head again"
    with pytest.raises(ConfigError, match=message):
        loading.load(transfer_file, overrides=["fine_tuning.epochs=2"])
    # One key disables the fine-tuning of a preset.
    off = loading.load("clothing", data=".", overrides=["fine_tuning.epochs=0"])
    assert off.fine_tuning.unfreeze_layers > 0


def test_the_warm_up_is_shorter_than_each_phase(transfer_file):
    warm = ["training.schedule=cosine", "training.warmup_epochs=3", "fine_tuning.unfreeze_layers=1"]
    message = r"warmup_epochs = 3 applies to each phase and must be less than fine_tuning\.epochs = 3"
    with pytest.raises(ConfigError, match=message):
        loading.load(transfer_file, overrides=[*warm, "fine_tuning.epochs=3"])
    for epochs in (0, 4):
        loading.load(transfer_file, overrides=[*warm, f"fine_tuning.epochs={epochs}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fine_tuning.epochs=1", "no backbone that starts frozen"),
        ("transform.normalization=backbone", "requires a model with a pre-trained backbone"),
    ],
)
def test_settings_that_require_a_backbone(override, message):
    with pytest.raises(ConfigError, match=message):
        loading.load("digits", overrides=[override])


def test_a_backbone_reaches_the_trainer(transfer_file):
    loaded = loading.load(transfer_file, overrides=["fine_tuning.epochs=2", "fine_tuning.unfreeze_layers=5"])
    options = loaded.trainer_options(("a", "b"))
    assert options.model.backbone == "mobilenet_v2"
    assert (options.fine_tuning.epochs, options.fine_tuning.unfreeze_layers) == (2, 5)


@pytest.mark.parametrize(
    ("preset", "override", "message"),
    [
        ("digit_scenes", "augmentation.cutmix=1", "digit_scenes: augmentation.cutmix does not support labels"),
        (
            "digits",
            "training.batch_size=1 augmentation.mixup=0.2",
            r"mix images of one batch, and training\.batch_size",
        ),
        (
            "digits",
            "training.batch_size=1 augmentation.cutmix=1",
            r"mix images of one batch, and training\.batch_size",
        ),
        ("digits", "task.label_smoothing=1", "task.label_smoothing: Input should be less than 1"),
        ("digits", "augmentation.vertical_flips=true", r"Did you mean `vertical_flip`\?"),
    ],
)
def test_settings_that_do_not_fit_the_labels(preset, override, message):
    with pytest.raises(ConfigError, match=message):
        loading.load(preset, overrides=override.split())


def tuned(*overrides):
    return loading.load("digits", overrides=["tuner.enabled=true", *overrides])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            'tuner.space={"training.learning_rat"={min=1e-4,max=1e-2}}',
            r"`training\.learning_rat` is unknown\. Did you mean `training\.learning_rate`\?",
        ),
        (
            "tuner.space.model.filters={min=1,max=2}",
            r"`model\.filters` is unknown\. Numbers: model\.block_dropout\.",
        ),
        ("tuner.space.transform.image_size={choices=[8]}", r"`transform\.image_size` is unknown\. Numbers: training"),
        ("tuner.space.training.learning_rate={mn=1e-4,max=1}", r"Unknown key `mn` in .* Did you mean `min`\?"),
        ("tuner.space.training.learning_rate={min=1e-4,max=20}", r"`training\.learning_rate` = 20: .*equal to 10"),
        ("tuner.space.training.learning_rate={min=0.0,max=1}", r"`training\.learning_rate` = 0: .*greater than 0"),
        ("tuner.space.training.batch_size={choices=[32, 8.5]}", r"`training\.batch_size` = 8\.5: .*valid integer"),
        ("tuner.space.training.batch_size={min=8,max=9,step=0.5}", r"`training\.batch_size` = 8\.5: .*valid integer"),
        (
            "tuner.space.model.blocks={choices=[1]}",
            r"`model\.blocks` is not a number\. Numbers in \[model\]: model\.block_d",
        ),
        ("tuner.space.augmentation.horizontal_flip={choices=[0]}", "horizontal_flip` is not a number"),
        ("tuner.space.training.seed={choices=[1]}", r"`training\.seed` cannot be tuned"),
        ("tuner.space.training.epochs={choices=[1]}", r"`training\.epochs` cannot be tuned"),
        ("tuner.space={}", "at least 1 item"),
        (
            "tuner.objective=val_acuracy",
            r"classification has no objective `val_acuracy`\. Did you mean `val_accuracy`\?",
        ),
        ("tuner.objective=val_mean_iou", r"classification has no objective `val_mean_iou`"),
        ("tuner.algorithm=bayes", "tuner.algorithm: .*'bayesian'"),
        (
            "tuner.space.task.label_smoothing={min=0,max=0.2}",
            "changes the loss, so losses of trials cannot be compared",
        ),
        ("training.distribution=multi_worker", "every worker would search separately"),
    ],
)
def test_invalid_searches(override, message):
    with pytest.raises(ConfigError, match=message):
        tuned(override)


@pytest.mark.parametrize(
    ("name", "others", "condition"),
    [
        ("training.momentum={min=0.5,max=0.9}", "", r'training\.optimizer = "sgd"'),
        ("training.weight_decay={choices=[0.0]}", "", r'training\.optimizer = "adamw" or "sgd"'),
        ("training.warmup_epochs={min=0,max=2}", "", r'training\.schedule = "cosine"'),
        ("training.plateau_factor={min=0.2,max=0.5}", "training.schedule=cosine", r'training\.schedule = "plateau"'),
        ("training.plateau_patience={choices=[1,2]}", "training.schedule=one_cycle", r'training\.schedule = "plateau"'),
        (
            "model.depth={choices=[3,4]}",
            "task.name=segmentation model.name=unet model.encoder=mobilenet_v2",
            r"model\.encoder empty",
        ),
        (
            "task.focal_gamma={choices=[1]}",
            "task.name=segmentation",
            r'task\.loss = "focal"',
        ),
        ("fine_tuning.learning_rate={choices=[1]}", "", r"fine_tuning\.epochs above 0"),
    ],
)
def test_a_setting_without_effect_cannot_be_tuned(name, others, condition):
    colour = ["transform.channels=3", "transform.normalization=backbone"] if "encoder" in others else []
    field = re.escape(name.partition("=")[0])
    with pytest.raises(ConfigError, match=f"`{field}` has no effect: it requires {condition}$"):
        tuned(*others.split(), *colour, "transform.image_size=32", f"tuner.space.{name}")


def test_settings_with_an_effect_can_be_tuned(transfer_file):
    tuned("training.optimizer=sgd", "tuner.space.training.momentum={min=0.5,max=0.9}")
    tuned("training.schedule=cosine", "tuner.space.training.warmup_epochs={min=0,max=2}")
    tuned("tuner.space.training.plateau_factor={min=0.2,max=0.5}")
    tuned("task.name=segmentation", "model.name=unet", "tuner.space.model.depth={choices=[3,4]}")
    second_phase = ["fine_tuning.epochs=1", "fine_tuning.unfreeze_layers=1", "tuner.enabled=true"]
    loading.load(transfer_file, overrides=[*second_phase, "tuner.space.fine_tuning.learning_rate={choices=[1e-4]}"])


@pytest.mark.parametrize(("algorithm", "refused"), [("random", False), ("hyperband", True)])
def test_values_are_checked_with_the_shortest_trial(algorithm, refused):
    # The first round of Hyperband has one of nine epochs.
    search = ["training.schedule=cosine", "tuner.epochs=9", "tuner.trials=30", f"tuner.algorithm={algorithm}"]
    tuned_warmup = [*search, "tuner.space.training.warmup_epochs={min=0.0,max=5}"]
    fixed_warmup = [*search, "training.warmup_epochs=5"]
    if not refused:
        tuned(*tuned_warmup)
        tuned(*fixed_warmup)
        return
    with pytest.raises(ConfigError, match=r"`training\.warmup_epochs` = 5: .*less than epochs = 1 "):
        tuned(*tuned_warmup)
    with pytest.raises(
        ConfigError,
        match=r"tuner\.epochs = 9 leaves too few epochs for the shortest trials: .*less than epochs = 1 ",
    ):
        tuned(*fixed_warmup)


def test_hyperband_halves_the_actual_epochs():
    search = ["tuner.algorithm=hyperband", "tuner.epochs=81"]
    with pytest.raises(ConfigError, match=r"must be 3 or more \(given: 81 and 2\)"):
        tuned(*search, "tuner.trials=1000", "training.epochs=2")
    with pytest.raises(ConfigError, match=r"trials of 3 epochs requires tuner\.trials = 4 or more"):
        tuned(*search, "tuner.trials=3", "training.epochs=3")
    tuned(*search, "tuner.trials=4", "training.epochs=3")  # 81 epochs would require more


def test_a_search_is_checked_without_a_dataset():
    assert loading.load("images", overrides=["tuner.enabled=true"], needs_data=False).tuner.enabled


def test_losses_of_different_settings_are_not_compared():
    unet = ["task.name=segmentation", "task.loss=focal", "tuner.space.task.focal_gamma={min=0,max=5}"]
    with pytest.raises(ConfigError, match="changes the loss, so losses of trials cannot be compared"):
        tuned(*unet)
    assert tuned(*unet, "tuner.objective=val_mean_iou").tuner.objective == "val_mean_iou"


def test_a_value_must_fit_the_rest_of_the_configuration(transfer_file):
    # Each value is valid by itself.
    search = ["tuner.enabled=true", "fine_tuning.epochs=1", "fine_tuning.unfreeze_layers=5"]
    space = "tuner.space.fine_tuning.unfreeze_layers={choices=[5, 0]}"
    with pytest.raises(ConfigError, match=r"`fine_tuning\.unfreeze_layers` = 0: .*train only the head again"):
        loading.load(transfer_file, overrides=[*search, space])


def test_a_disabled_search_does_not_affect_another_model():
    space = "tuner.space.task.dense_units={min=1,max=9}"
    assert not loading.load("digits", overrides=["model.name=unet", space]).tuner.enabled


def test_names_of_the_search_in_every_form_of_toml(tmp_path):
    forms = [
        '[tuner.space]\n"training.batch_size" = {choices = [32, 64]}\n',
        "[tuner.space]\ntraining.batch_size = {choices = [32, 64]}\n",
        "[tuner.space.training.batch_size]\nchoices = [32, 64]\n",
    ]
    spaces = []
    for form in forms:
        path = tmp_path / "mine.toml"
        path.write_text('data.path = "x"\ntuner.enabled = true\n' + form)
        spaces.append(loading.load(str(path)).tuner.space)
    assert spaces[0] == spaces[1] == spaces[2]
    assert spaces[0]["training.batch_size"].choices == (32, 64)


def test_groups_have_one_source():
    with pytest.raises(ConfigError, match="exclude each other"):
        loading.load("digits", overrides=["data.group_column=a", "data.group_pattern='(x)'"])


def test_paths_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = loading.load("digits", data="~/birds", overrides=["pipeline.root='~/runs'"])
    assert loaded.run_dir == tmp_path / "runs" / "birds"
    assert loaded.data_location == str(tmp_path / "birds")


def test_a_toml_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[pipeline]\nname = "mine"\n[data]\npath = "photos"\n')
    assert loading.load(str(path)).model_name == "mine"


@pytest.mark.parametrize(("text", "message"), [("[pipeline\n", "not valid TOML"), ("", "data.path is missing")])
def test_an_unusable_toml_file(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        loading.load(str(path))


def test_an_unknown_preset_suggests_one():
    with pytest.raises(ConfigError, match=r"Did you mean `digits`\?"):
        loading.load("digts")


def test_the_settings_of_the_trainer_as_json():
    from trainer_module.options import TrainerOptions

    options = loading.load("digits").trainer_options(("a", "b"))
    assert TrainerOptions.model_validate_json(options.model_dump_json()) == options


def test_beam_arguments():
    assert BeamSection().arguments() == [
        "--runner=FnApiRunner",
        "--direct_running_mode=in_memory",
        "--direct_num_workers=1",
        "--no_pipeline_type_check",
        "--sdk_container_image=none",
        "--tfxio_use_byte_size_batching=true",
    ]
    several = BeamSection(runner="multi_processing", workers=3, options=("--x=1",)).arguments()
    assert several == [
        "--runner=FnApiRunner",
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=3",
        "--sdk_container_image=none",
        "--tfxio_use_byte_size_batching=true",
        "--x=1",
    ]


def test_every_key_is_documented():
    from trainer_module import models

    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for section, field in sections.PipelineConfig.model_fields.items():
        assert f"## `[{section}]`" in text
        keys = getattr(field.annotation, "model_fields", {})
        assert all(f"`{key}`" in text or f".{key}]" in text for key in keys), section
    for name in models.names():
        assert f'`name = "{name}"`' in text
        assert all(f"`{key}`" in text for key in models.get(name).options.model_fields)


def test_thresholds_of_one_task_do_not_apply_to_another():
    assert loading.load("images", data="x", overrides=["model.name=scratch_cnn"]).evaluation.thresholds
    masks = loading.load("images", data="x", overrides=["task.name=segmentation", "evaluation.thresholds.mean_iou=0.4"])
    assert masks.evaluation.thresholds == {"mean_iou": 0.4}


def test_an_unknown_colour_map_is_rejected():
    with pytest.raises(ConfigError, match="matplotlib has no colormap `rainbows`"):
        loading.load("digits", overrides=["grad_cam.colormap=rainbows"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["grad_cam.thresholds.insertion=0.5"],
            "`insertion` is not a faithfulness metric. Did you mean `insertion_auc`",
        ),
        (["grad_cam.thresholds.average_drop=1.5"], "average_drop must be between 0 and 1"),
        (
            ["grad_cam.thresholds.average_drop=0.5", "grad_cam.faithfulness=false"],
            "thresholds require faithfulness = true",
        ),
        (
            ["grad_cam.thresholds.pointing_game=0.5"],
            'pointing_game requires labels with regions, and task.name = "classification"',
        ),
        (
            ["grad_cam.method=lime"],
            "grad_cam.method: Input should be 'auto', 'grad_cam', 'grad_cam_plus_plus' or 'hires_cam'",
        ),
    ],
)
def test_invalid_settings_of_explanations(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        loading.load("digits", overrides=overrides)


def test_faithfulness_thresholds_of_masks():
    overrides = ["task.name=segmentation", "grad_cam.thresholds={pointing_game=0.5, energy_inside=0.3}"]
    loaded = loading.load("images", data="x", overrides=overrides)
    assert loaded.grad_cam.thresholds == {"pointing_game": 0.5, "energy_inside": 0.3}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grad_cam.slices=['brigthness']", "grad_cam.slices: unknown slice `brigthness`. Did you mean `brightness`?"),
        ("grad_cam.target=catt", "grad_cam.target: unknown class `catt`. Did you mean `cat`?"),
    ],
)
def test_explanations_of_unknown_slices_and_classes_are_rejected(class_folders, override, message):
    from pipeline.execution import dataset

    loaded = loading.load("images", data=str(class_folders({"cat": 3, "dog": 3})), overrides=[override])
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataset.prepare(loaded)


@pytest.mark.parametrize("text", ["[training", "[training]\nepochs = -1\n"])
def test_a_stored_configuration_that_cannot_be_read(text):
    with pytest.raises(ConfigError, match="A stored configuration cannot be read"):
        loading.from_toml(text)
