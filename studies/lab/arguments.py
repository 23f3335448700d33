"""Checks of the command line's arguments, before anything runs: profile, values, device."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from studies.evidence.outside import holds_login, without_password
from studies.lab.source import Source, own_options, reading_options
from studies.lab.spec import Profile, Settings, Study, arm_name, beats, counted


class UsageError(ValueError):
    """A command that cannot be carried out: the message says why."""


def checked_path(option: str, text: str) -> Path:
    """The path. A storage's URL is refused, because as a folder's name it would show its password in every message.

    Raises:
        UsageError: the path is empty, or does not exist and looks like a URL with a password.
    """
    if not text:
        raise UsageError(f"{option}: the path is empty")
    if without_password(text) != text and not os.path.lexists(text):
        raise UsageError(f"{option} {without_password(text)}: not a path; --storage takes a database's URL")
    return Path(text)


def checked_sources(study: Study, names: str | None, own: Mapping[str, str | None], profile: str) -> list[Source]:
    """The data to use: the study's, those that are named, or the user's own.

    Args:
        study: the declaration.
        names: the value of `--data`, separated by commas. None: a quick look takes the first of the study's data, other
            profiles take all.
        profile: the profile's name.
        own: the options for the user's own data, by name.

    Raises:
        UsageError: data that the study does not have, reading options without a file, or a bad path.
    """
    given = {name: value for name, value in own.items() if value is not None}
    options = own_options(study)
    for name, value in {**given, "data": names or ""}.items():
        if name not in options and holds_login(value):
            raise UsageError(f"--{name} {without_password(value)}: --storage takes a database's URL")
    named = [name for name in given if name in options]
    for name in given:
        if not any(name in (option, *reading_options(option)) for option in named):
            files = " or ".join(f"--{option}" for option in options)
            raise UsageError(f"--{name}: describes your own file; name the file with {files}")
    if named and names is not None:
        raise UsageError(f"--data {names} and --{named[0]}: choose one")
    if named:
        return [
            Source(
                options[option],
                checked_path(f"--{option}", given[option]),
                {name: value for name, value in given.items() if name in reading_options(option)},
            )
            for option in named
        ]
    if names is None:
        quick = profile == next(iter(study.profiles))
        return [Source(key) for key in study.data[: 1 if quick else None]]
    asked = [name.strip() for name in names.split(",")]
    if unknown := [name for name in asked if name not in study.data]:
        raise UsageError(f"--data {without_password(unknown[0])}: {study.name} has {', '.join(study.data)}")
    return [Source(name) for name in dict.fromkeys(asked)]


def chosen_profile(study: Study, name: str, seeds: int | None, trials: int | None) -> Profile:
    """The profile, with `seeds` and `trials` if they are given."""
    if name not in study.profiles:
        raise UsageError(f"--profile {without_password(name)}: there are {', '.join(study.profiles)}")
    if trials and not study.tuned:
        raise UsageError(f"--trials {trials}: {study.name} tunes nothing")
    if trials == 1:
        raise UsageError("--trials 1: one trial is the default alone; use 0 to keep the default, 2 or more to tune")
    profile = study.profiles[name]
    return dataclasses.replace(
        profile,
        seeds=profile.seeds if seeds is None else seeds,
        trials=profile.trials if trials is None else trials,
    )


def with_values(study: Study, text: str) -> Study:
    """The study with other arms. If no part has all its arms among them, the study gets another question."""
    shown, setting = without_password(text), study.swept
    if setting is None:
        raise UsageError(f"--values {shown}: the arms of {study.name} are {', '.join(study.arms)}, not values")
    words = [word.strip() for word in text.split(",")]
    for before, word in zip(["", *words], words, strict=False):
        if re.match(r"[+-]?0\d", word):
            decimal = f"{before}.{word}" if re.fullmatch(r"[+-]?\d+", before) else f"0.{word.lstrip('+-0')}"
            raise UsageError(f"--values {shown}: is {word} half of a decimal? Write {decimal}; commas separate values")
    arms: dict[str, Settings] = {} if study.baseline is None else {study.baseline: study.arms[study.baseline]}
    some = next(iter(study.arms.values()))
    whole = all(isinstance(settings[setting], int) for settings in study.arms.values())
    try:
        for word in words:
            value = _number(word, whole)
            arms[arm_name(setting, value)] = {**some, setting: value}
    except ValueError as error:
        raise UsageError(
            f"--values {shown}: {without_password(str(error))}; write numbers separated by commas"
        ) from None
    if len(arms) < 2:
        raise UsageError(f"--values {shown}: one arm has nothing to be compared with; add another value")
    parts = tuple(part for part in study.parts if part.weights.keys() <= arms.keys())
    names = {name: said for name, said in study.names.items() if name in study.settings or name in arms}
    if parts:
        # The first part answers the question, which is the study's own only if that part is still there.
        question = study.question if parts[0] is study.parts[0] else f"Does this hold: {parts[0].says}?"
        return dataclasses.replace(study, arms=arms, parts=parts, names=names, question=question)
    first, *others = arms
    question = f"Is {' or '.join(others)} better than {first}?"
    parts = tuple(beats("", other, first) for other in others)
    try:
        return dataclasses.replace(study, arms=arms, names=names, question=question, parts=parts)
    except ValueError as error:  # such as a first metric that cannot be judged
        raise UsageError(f"--values {shown}: {error}") from None


def _number(word: str, whole: bool) -> float | int:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word} is not a finite number")
    if whole and not value.is_integer():
        raise ValueError(f"{word} is not a whole number")
    return int(value) if whole else value


def checked_device(text: str) -> str:
    """The device's canonical name: cpu, cuda for the first GPU, cuda:1 for the second.

    Raises:
        UsageError: this machine has no such device, or runs cannot use it.
    """
    if text in ("cpu", "cpu:0"):
        return "cpu"
    named = re.fullmatch(r"cuda(?::(\d{1,4}))?", text)
    if named is None:
        raise UsageError(f"--device {without_password(text)}: choose cpu, or cuda (cuda:1 …) if there is a GPU")
    count = torch.cuda.device_count()
    number = int(named[1] or 0)
    if number >= count:
        there = f"{counted(count, 'GPU')}, from cuda:0 on" if count else "no GPU"
        raise UsageError(f"--device {text}: torch sees {there}")
    return f"cuda:{number}" if number else "cuda"
