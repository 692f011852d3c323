"""What the task type ``sequence-classification`` says about itself."""

from swift_cls.layouts import COLUMNS, LAYOUTS
from swift_core.spec import ExportFormat, Metric, TaskSpec

SPEC = TaskSpec(
    name="sequence-classification",
    summary="Texts and pairs of texts: one label, several labels, or a score",
    columns=COLUMNS,
    layouts=LAYOUTS,
    strata="label",
    options="swift_cls.options:ClassificationOptions",
    implementation="swift_cls.hooks",
    metrics=(
        Metric(name="f1_macro", meaning="Mean F1 of the labels", primary=True, group="labels"),
        Metric(name="f1_micro", meaning="F1 over all decisions", group="labels"),
        Metric(name="f1_weighted", meaning="Mean F1, weighted by rows", group="labels"),
        Metric(name="precision_macro", meaning="Mean precision of the labels", group="labels"),
        Metric(name="recall_macro", meaning="Mean recall of the labels", group="labels"),
        Metric(name="roc_auc", meaning="Area under the ROC curve, mean over labels", group="labels"),
        Metric(name="average_precision", meaning="Average precision, mean over labels", group="labels"),
        Metric(name="accuracy", meaning="Share of rows that are right", primary=True, group="one label"),
        Metric(name="mcc", meaning="Matthews correlation coefficient", group="one label"),
        Metric(
            name="log_loss",
            meaning="Mean negative log-probability of the right label",
            higher_is_better=False,
            group="one label",
        ),
        Metric(
            name="ece",
            meaning="Expected calibration error: confidence less accuracy",
            higher_is_better=False,
            group="one label",
        ),
        Metric(
            name="subset_accuracy",
            meaning="Share of rows whose labels are all right",
            primary=True,
            group="several labels",
        ),
        Metric(
            name="hamming_loss",
            meaning="Share of decisions that are wrong",
            higher_is_better=False,
            group="several labels",
        ),
        Metric(name="f1_samples", meaning="Mean F1 of the rows", group="several labels"),
        Metric(
            name="binary_log_loss",
            meaning="Mean negative log-probability of the right decisions",
            higher_is_better=False,
            group="several labels",
        ),
        Metric(
            name="binary_ece",
            meaning="Expected calibration error of the labels",
            higher_is_better=False,
            group="several labels",
        ),
        Metric(
            name="mse", meaning="Mean squared error", higher_is_better=False, primary=True, group="scores"
        ),
        Metric(name="mae", meaning="Mean absolute error", higher_is_better=False, group="scores"),
        Metric(name="r2", meaning="Share of the variance that is explained", group="scores"),
        Metric(name="pearson", meaning="Linear correlation", group="scores"),
        Metric(name="spearman", meaning="Rank correlation", group="scores"),
        Metric(name="qwk", meaning="Quadratic weighted kappa of whole numbers", primary=True, group="grades"),
    ),
    exports=(
        ExportFormat(name="hf", meaning="Folder that pipeline('text-classification') loads"),
        ExportFormat(
            name="onnx",
            meaning="One ONNX graph from token ids to logits",
            requires=("onnx", "onnxruntime", "onnxscript"),
        ),
        ExportFormat(
            name="onnx-int8",
            meaning="The same with weights of 8 bits",
            requires=("onnx", "onnxruntime", "onnxscript"),
        ),
    ),
    defaults={"learning_rate": 2e-5, "per_device_train_batch_size": 32},
    lora_defaults={"learning_rate": 5e-4},
    serving={"/v1/classify": "swift_cls.serving:respond"},
)
