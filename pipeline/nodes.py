"""The names of the pipeline's nodes, in data-flow order: known without importing TFX."""

TUNER = "Tuner"  # only with tuner.enabled

NODE_IDS = (
    "ImageExampleGen",
    "StatisticsGen",
    "PreviousSpan",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    TUNER,
    "Trainer",
    "Resolver",
    "Evaluator",
    "ServingValidator",
    "GradCam",
    "Pusher",
    "ModelReport",
)
