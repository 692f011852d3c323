"""What the task type ``embedding`` says about itself."""

from swift_core.spec import ExportFormat, Metric, TaskSpec
from swift_embedding.layouts import COLUMNS, FOLDERS, LAYOUTS

SPEC = TaskSpec(
    name="embedding",
    summary="Dual encoders for retrieval: InfoNCE with in-batch and hard negatives",
    columns=COLUMNS,
    layouts=LAYOUTS,
    folders=FOLDERS,
    options="swift_embedding.options:EmbeddingOptions",
    implementation="swift_embedding.hooks",
    metrics=(
        Metric(
            name="ndcg@10",
            meaning="Normalised discounted cumulative gain of the first 10",
            primary=True,
            group="retrieval",
        ),
        Metric(
            name="mrr@10",
            meaning="Mean of 1 / rank of the first relevant document among 10",
            group="retrieval",
        ),
        Metric(
            name="recall@10", meaning="Share of the relevant documents among the first 10", group="retrieval"
        ),
        Metric(name="precision@10", meaning="Share of the first 10 that are relevant", group="retrieval"),
        Metric(name="map@100", meaning="Mean average precision over the first 100", group="retrieval"),
        Metric(
            name="triplet_accuracy",
            meaning="Share of answers that score above a negative of their row",
            primary=True,
            group="triplets",
        ),
        Metric(
            name="spearman",
            meaning="Rank correlation of cosines with the scores of pairs",
            primary=True,
            group="pairs",
        ),
        Metric(
            name="pearson", meaning="Linear correlation of cosines with the scores of pairs", group="pairs"
        ),
        Metric(
            name="v_measure",
            meaning="How well clusters of vectors agree with labels",
            primary=True,
            group="clusters",
        ),
    ),
    exports=(
        ExportFormat(name="hf", meaning="Folder that sentence-transformers and transformers load"),
        ExportFormat(
            name="faiss",
            meaning="Model, FAISS index, ids and texts: a searchable bundle",
            requires=("faiss-cpu|faiss-gpu",),
        ),
        ExportFormat(
            name="onnx",
            meaning="One ONNX graph from token ids to vectors",
            requires=("onnx", "onnxruntime", "onnxscript"),
        ),
    ),
    defaults={"learning_rate": 2e-5, "per_device_train_batch_size": 32},
    lora_defaults={"learning_rate": 2e-4},
    serving={"/v1/embeddings": "swift_embedding.serving:respond"},
)
