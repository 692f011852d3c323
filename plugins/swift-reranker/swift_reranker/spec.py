"""What the task type ``reranker`` says about itself."""

from swift_core.spec import ExportFormat, Metric, TaskSpec
from swift_reranker.example_rows import EXAMPLES
from swift_reranker.layouts import COLUMNS, FOLDERS, GATHER, LAYOUTS

SPEC = TaskSpec(
    name="reranker",
    summary="Cross-encoders: one score for a query and a document, over lists of candidates",
    columns=COLUMNS,
    layouts=LAYOUTS,
    folders=FOLDERS,
    gather=GATHER,
    together="query",
    options="swift_reranker.options:RerankerOptions",
    implementation="swift_reranker.hooks",
    metrics=(
        Metric(
            name="ndcg@10",
            meaning="Normalised discounted cumulative gain of the first 10, expected over ties",
            primary=True,
            group="lists",
        ),
        Metric(
            name="mrr@10", meaning="Mean of 1 / rank of the first relevant document among 10", group="lists"
        ),
        Metric(name="map", meaning="Mean average precision over the candidates", group="lists"),
        Metric(name="score_spread", meaning="Mean standard deviation of the scores of a list", group="lists"),
        Metric(
            name="first_stage_ndcg@10",
            meaning="The same of what is reranked",
            primary=True,
            group="a first stage",
        ),
        Metric(
            name="gain_ndcg@10", meaning="What reranking gains over the first stage", group="a first stage"
        ),
        Metric(name="gain_ndcg@10_low", meaning="Lower end of its 95 % interval", group="a first stage"),
        Metric(name="gain_ndcg@10_high", meaning="Upper end of its 95 % interval", group="a first stage"),
    ),
    exports=(
        ExportFormat(name="hf", meaning="Folder that transformers and CrossEncoder load"),
        ExportFormat(
            name="onnx",
            meaning="One ONNX graph from token ids to scores",
            requires=("onnx", "onnxruntime", "onnxscript"),
        ),
    ),
    # A reranker that got worse by training is common, and shows only beside its figures before.
    defaults={"learning_rate": 2e-5, "per_device_train_batch_size": 8, "eval_on_start": True},
    lora_defaults={"learning_rate": 2e-4},
    examples=EXAMPLES,
    serving={
        "/v1/rerank": "swift_reranker.serving:rerank",
        "/v1/score": "swift_reranker.serving:score",
    },
)
