"""What a command is asked for, checked before anything runs: profile, values, device."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from studies.evidence.outside import without_password
from studies.lab.source import Source
from studies.lab.spec import Profile, Settings, Study


class UsageError(ValueError):
    """A command that cannot be carried out as it stands: the message says why."""


def checked_path(option: str, text: str) -> Path:
    """The path; a storage's URL is refused before it becomes a folder's name and stands in every message.

    Raises:
        UsageError: there is no such path, and it is empty or looks like a URL with a password.
    """
    if not text:
        raise UsageError(f"{option}: the path is empty")
    if without_password(text) != text and not os.path.lexists(text):
        raise UsageError(f"{option} {without_password(text)}: a path is wanted; --storage takes a database's URL")
    return Path(text)


def checked_source(ratings: str | None, options: Mapping[str, str | None]) -> Source:
    """The data: MovieLens 100k, or one's own ratings as the options say how to read them.

    Raises:
        UsageError: an option without ratings, or a path that is none.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if ratings is None:
        for name in given:
            raise UsageError(f"--{name}: says how to read a file of your own; name that by --ratings")
        return Source()
    return Source(checked_path("--ratings", ratings), given)


def chosen_profile(study: Study, name: str, seeds: int | None, trials: int | None) -> Profile:
    """The profile, with other seeds and trials where they are given."""
    if name not in study.profiles:
        raise UsageError(f"--profile {without_password(name)}: there are {', '.join(study.profiles)}")
    if trials and study.tuned is None:
        raise UsageError(f"--trials {trials}: {study.name} tunes nothing")
    if trials == 1:
        raise UsageError("--trials 1: that is the default alone, which is no choice; 0 keeps it, 2 and more tune")
    profile = study.profiles[name]
    return dataclasses.replace(
        profile,
        seeds=profile.seeds if seeds is None else seeds,
        trials=profile.trials if trials is None else trials,
    )


def with_values(study: Study, text: str) -> Study:
    """The study with other arms; it asks another question where its primary arm is not among them."""
    shown = without_password(text)
    if study.value is None:
        raise UsageError(f"--values {shown}: the arms of {study.name} are {', '.join(study.arms)}, no values")
    words = [word.strip() for word in text.split(",")]
    for before, word in zip(["", *words], words, strict=False):
        if re.match(r"[+-]?0\d", word):
            decimal = f"{before}.{word}" if re.fullmatch(r"[+-]?\d+", before) else f"0.{word.lstrip('+-0')}"
            raise UsageError(f"--values {shown}: is {word} half of a decimal? Write {decimal}; commas part values")
    try:
        arms: dict[str, Settings] = dict(study.value(_finite(word)) for word in words)
    except ValueError as error:
        raise UsageError(
            f"--values {shown}: {without_password(str(error))}; numbers with commas between are needed"
        ) from None
    arms = {study.baseline: study.arms[study.baseline], **arms}
    if len(arms) < 2:
        raise UsageError(f"--values {shown}: nothing to compare with the baseline {study.baseline}")
    if study.primary in arms:
        return dataclasses.replace(study, arms=arms)
    others = [arm for arm in arms if arm != study.baseline]
    question = f"Is {' or '.join(others)} better than {study.baseline}?"
    return dataclasses.replace(study, arms=arms, primary=others[0], question=question)


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word} is no finite number")
    return value


def checked_device(text: str) -> str:
    """The device under its one name: cpu, cuda for the first GPU, cuda:1 for the second.

    Raises:
        UsageError: there is no such device here, or none that runs are made on.
    """
    if text in ("cpu", "cpu:0"):
        return "cpu"
    named = re.fullmatch(r"cuda(?::(\d{1,4}))?", text)
    if named is None:
        raise UsageError(
            f"--device {without_password(text)}: runs are made on cpu, or on cuda (cuda:1 …) where there is a GPU"
        )
    count = torch.cuda.device_count()
    number = int(named[1] or 0)
    if number >= count:
        there = f"{count}, from cuda:0 on" if count else "none"
        raise UsageError(f"--device {text}: of GPUs torch sees {there} here")
    return f"cuda:{number}" if number else "cuda"
