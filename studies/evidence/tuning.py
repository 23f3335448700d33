"""The result of `python -m studies.tune`: what was tried, the choice, and its gain on ratings held out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from studies.evidence.schema import Count, Positive, read_json

FILE, MODEL = "tune.json", "model.safetensors"
SPLIT_WORDS = {"random": "drawn at random", "time": "the latest", "user": "of users set aside"}

Above0 = Annotated[float, Field(gt=0)]
AtLeast0 = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Setting(_Part):
    """A setting's name for people, its ends in the search, and its importance; None if unknown."""

    title: str
    low: Above0
    high: Above0
    importance: AtLeast0 | None


class Trial(_Part):
    """Settings that were tried. `rmse` is None if the trial was given up; then it trained on fewer `splits`."""

    settings: dict[str, int | float]
    rmse: Above0 | None
    splits: Count
    seconds: AtLeast0


class Gain(_Part):
    """A difference of RMSEs on the test rows, and its 95 % interval over their users; None if they are too few."""

    estimate: float
    low: float | None
    high: float | None
    users: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low or 0) > (self.high or 0):
            raise ValueError(f"interval [{self.low}, {self.high}] has no two ends in order")
        return self

    def text(self) -> str:
        """For people: +0.0123 [+0.0101, +0.0145]."""
        if self.low is None or self.high is None:
            return f"{self.estimate:+.4f} (no interval: {self.users} users)"
        return f"{self.estimate:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


class Sizes(_Part):
    """Numbers of ratings: of the search, and of the test."""

    training: Positive
    test: Positive


class Errors(_Part):
    """RMSEs on the test rows: of the choice, of the lesson's settings, of predicting the training's mean."""

    choice: AtLeast0
    lesson: AtLeast0
    mean: AtLeast0


class Tuning(_Part):
    """What a search found.

    Attributes:
        data: the data's name.
        checksum: of the ratings.
        split: how they are split: random, time or user.
        sizes: numbers of ratings.
        lesson: the lesson's settings, the first trial.
        best: the choice.
        settings: the space that was searched.
        trials: all of them, in order.
        promised: the lesson's RMSE minus that of the choice, on the splits of the search.
        fresh: the same on new splits: what is lost from `promised` was selection. Splits by time are always the same:
            then it is the same on the same rows with fresh seeds, and says nothing about selection.
        rmse: on the test rows.
        gain: over the lesson's settings.
        over_mean: over predicting the training's mean rating.
        seconds: of the search.
        model: the SHA-256 of the model's file; None in results from before it was recorded.
    """

    schema_version: Literal[1] = 1
    data: str
    checksum: str
    split: str
    sizes: Sizes
    lesson: dict[str, int | float]
    best: dict[str, int | float]
    settings: dict[str, Setting]
    trials: Annotated[list[Trial], Field(min_length=1)]
    promised: float
    fresh: float
    rmse: Errors
    gain: Gain
    over_mean: Gain
    seconds: AtLeast0
    seed: Count
    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    command: str
    model: str | None = None

    @model_validator(mode="after")
    def _of_its_settings(self) -> Self:
        if not self.settings.keys() == self.lesson.keys() == self.best.keys():
            raise ValueError("lesson and best must name the settings that were searched")
        return self

    @property
    def selection(self) -> float | None:
        """How much of the promised gain was selection; None if it is not measured."""
        return None if self.split == "time" else self.promised - self.fresh

    def verdict(self) -> str:
        """What the test rows say, in a sentence."""
        gain, mean = self.gain, self.over_mean
        if gain.low is None or mean.low is None:
            return f"The test rows have {gain.users} users: too few for an interval, so nothing is concluded."
        if mean.low <= 0:
            are = "do not" if mean.high is not None and mean.high <= 0 else "are not shown to"
            return f"No gain: even the best settings found {are} beat predicting the mean rating."
        if self.best == self.lesson:
            return "No settings were found that are better than the lesson's."
        if gain.low > 0:
            return "The choice is better than the lesson's settings."
        if gain.high is not None and gain.high < 0:
            return "The choice is worse than the lesson's settings: keep those."
        return "The choice is not shown to be better than the lesson's settings."

    def answer(self) -> str:
        """The verdict with its numbers."""
        chosen = ", ".join(
            f"{name} {value}" if isinstance(value, int) else f"{name} {value:.3g}" for name, value in self.best.items()
        )
        if self.selection is None:
            told = f"with fresh seeds on the same rows it is {self.fresh:+.4f}; selection by these rows does not show"
        else:
            lost = f"{self.selection:+.4f}" if self.selection > 0 else "nothing of it"
            told = f"on new splits it is {self.fresh:+.4f}, so {lost} was selection"
        return (
            f"{self.verdict()}\n"
            f"  best of {len(self.trials)} trials: {chosen}\n"
            f"  test RMSE lower than with the lesson's settings by {self.gain.text()}, than the mean's by "
            f"{self.over_mean.text()}\n"
            f"  the search promised {self.promised:+.4f}; {told}"
        )


def read_tuning(path: Path) -> Tuning:
    """Read and check a file.

    Raises:
        ResultsError: it cannot be read, is not JSON, or a field is missing, unknown or wrong.
    """
    return read_json(path, Tuning, "result of studies.tune", "Run it again.")
