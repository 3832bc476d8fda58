"""What a run says of its solution at its end, as the result file keeps it beside the arrays."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from wassgrid.storage import ResultFile, StorageError


class AxisNoise(BaseModel):
    """The noise of one axis (`TransitionModel.resolution`)."""

    state: str
    kernel: str
    reason: str | None = None
    physical: float
    numerical: float
    cells_per_noise: float
    points: int | None = None
    added_cost: float | None = None


class EstimatedCost(BaseModel):
    """What the policy is estimated to cost in the problem itself (`wassgrid.estimate`), or why that was not done."""

    refused: str | None = None
    value: float | None = None
    standard_error: float | None = None
    chains: int | None = None
    steps: int | None = None
    forgotten: bool | None = None
    seconds: float | None = None

    @model_validator(mode="after")
    def _check_whole(self) -> EstimatedCost:
        whole = self.value, self.standard_error, self.chains, self.steps, self.forgotten, self.seconds
        if self.refused is None and None in whole:
            raise ValueError("neither whole nor refused")
        return self


class Summary(BaseModel):
    """What the entries are that readers look for; others are numbers or texts, and are shown as they are."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | int | float | bool | None]

    objective: float | None = None
    standard_error: float | None = None
    estimate: EstimatedCost | None = None
    resolution: list[AxisNoise] = []
    recurrent_classes: int | None = None
    period: int | None = None
    second_eigenvalue: float | None = None
    boundary_mass: dict[str, float] = {}
    value_shares: dict[str, dict[str, float]] = {}
    particles_on_kinks: float | None = None
    cells: int | None = None
    entries: int | None = None


_READER = TypeAdapter(Summary)


def summary_of(result: ResultFile) -> dict[str, Any]:
    """Return what the run said of its solution; empty before its end.  Raises StorageError where a file says what cannot be."""
    try:
        return _READER.validate_python(result.summary).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise StorageError(f"'{result.path}': its summary is damaged at '{place}': {first['msg']}") from error
