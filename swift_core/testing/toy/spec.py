"""What the task type ``toy-topics`` says about itself. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from swift_core.spec import Column, ExportFormat, Metric, TaskSpec, option


@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    """The topics, and the size of the model."""

    topics: list[str] = option(lambda: ["sport", "money"], help="The topics that a text may have.")
    buckets: Annotated[int, Gt(0)] = option(64, help="How many numbers words are hashed to.")
    hidden_dropout: float = option(0.1, help="Share of the mean vector that is dropped while training.")


SPEC = TaskSpec(
    name="toy-topics",
    summary="A toy: the topic of a text by its words",
    columns=(
        Column(name="text", type="text", meaning="What is read."),
        Column(name="topic", type="label", meaning="One of the topics."),
    ),
    options="swift_core.testing.toy.spec:ToyOptions",
    implementation="swift_core.testing.toy.hooks",
    metrics=(
        Metric(name="accuracy", meaning="Share of texts whose topic is found", primary=True),
        Metric(name="log_loss", meaning="Mean of -log p of the topic", higher_is_better=False),
    ),
    exports=(ExportFormat(name="json", meaning="The weights as lists of numbers"),),
    defaults={"learning_rate": 0.05, "per_device_train_batch_size": 4},
)
