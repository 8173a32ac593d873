"""The names of the pipeline's nodes, in data-flow order: known without importing TFX."""

NODE_IDS = (
    "ImageExampleGen",
    "StatisticsGen",
    "PreviousSpan",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "Resolver",
    "Evaluator",
    "ServingValidator",
    "GradCam",
    "Pusher",
)
