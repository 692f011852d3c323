"""What the task type says about itself."""

from dataclasses import dataclass

from swift_core import Column, ExportFormat, Metric, TaskSpec, option


@dataclass(frozen=True, kw_only=True)
class LineOptions:
    """Options of line fitting."""

    start_slope: float = option(0.0, help="Slope to start from.")

    def __post_init__(self) -> None:
        if abs(self.start_slope) > 100:
            raise ValueError(f"start_slope: expected a slope between -100 and 100, found {self.start_slope}")


SPEC = TaskSpec(
    name="line-fitting",
    summary="Fit y = a x + b",
    columns=(
        Column(name="x", type="number", meaning="Where."),
        Column(name="y", type="number", meaning="What was measured there."),
    ),
    options="acme_linear.spec:LineOptions",
    implementation="acme_linear.hooks",
    metrics=(Metric(name="mse", meaning="Mean squared error", higher_is_better=False, primary=True),),
    exports=(ExportFormat(name="coefficients", meaning="a and b as JSON"),),
    defaults={"learning_rate": 0.1, "per_device_train_batch_size": 8},
)
