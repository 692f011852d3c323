"""What the task type ``embedding`` says about itself."""

from swift_core.spec import Column, ExportFormat, Metric, TaskSpec

SPEC = TaskSpec(
    name="embedding",
    summary="Dual encoders for retrieval: InfoNCE with in-batch and hard negatives",
    columns=(
        Column(name="query", type="text", meaning="What is searched for."),
        Column(name="positive", type="text", meaning="A text that answers the query."),
        Column(
            name="negatives",
            type="list[text]",
            meaning="Texts that do not answer it; any number, also none.",
            required=False,
        ),
    ),
    options="swift_embedding.options:EmbeddingOptions",
    implementation="swift_embedding.hooks",
    metrics=(
        Metric(name="ndcg@10", meaning="Normalised discounted cumulative gain of the first 10", primary=True),
        Metric(name="mrr@10", meaning="Mean of 1 / rank of the first relevant document among 10"),
        Metric(name="recall@10", meaning="Share of the relevant documents among the first 10"),
        Metric(name="map@100", meaning="Mean average precision over the first 100"),
    ),
    exports=(
        ExportFormat(name="hf", meaning="Folder that sentence-transformers and transformers load"),
        ExportFormat(
            name="faiss",
            meaning="Model, FAISS index, ids and texts: a searchable bundle",
            requires=("faiss-cpu|faiss-gpu",),
        ),
    ),
    defaults={"learning_rate": 2e-5, "per_device_train_batch_size": 32},
    serving_route="/v1/embeddings",
)
