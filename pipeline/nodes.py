"""Names of the nodes, in the order of the data flow; imports no TFX."""

TUNER = "Tuner"  # only with tuner.enabled
GRAD_CAM = "GradCam"
DATA_AUDIT = "DataAudit"  # only with audit.enabled
MONITORING_REFERENCE = "MonitoringReference"  # only with monitoring.enabled

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
    GRAD_CAM,
    "Pusher",
    MONITORING_REFERENCE,
    DATA_AUDIT,
    "ModelReport",
)

# Nodes of Kubeflow Pipelines: gates whose failure is a refusal, and the exit handler.
DATASET_GATE, MODEL_GATE, RUN_VERDICT = "DatasetGate", "ModelGate", "RunVerdict"
GATE_IDS = (DATASET_GATE, MODEL_GATE)
KUBEFLOW_NODE_IDS = (*NODE_IDS, DATASET_GATE, MODEL_GATE, RUN_VERDICT)
