"""Films: the encoding of their file, their mean ratings, the most rated, their factors' PCA: 33, 38, 42, 43."""

from __future__ import annotations

import importlib.metadata
import io
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lesson import DataError
from lesson.data.movielens import FILM_COLUMNS, open_movielens
from lesson.data.ratings import Ratings
from lesson.data.table import read_text
from lesson.interpretation import pca
from studies.exact import Found, exact
from studies.exact._figures import listed

NOTEBOOK = "fastai/course-v3, nbs/dl1/lesson4-collab.ipynb: groupby(title).count(), the first 1000"
U_ITEM = "GroupLens, ml-100k/README and u.item: 24 fields with | between them"

WORST = {
    "Children of the Corn: The Gathering (1996)": 1.3157894736842106,
    "Mortal Kombat: Annihilation (1997)": 1.9534883720930232,
    "Striptease (1996)": 2.2388059701492535,
    "Lawnmower Man 2: Beyond Cyberspace (1996)": 1.7142857142857142,
    "Cable Guy, The (1996)": 2.339622641509434,
    "Free Willy 3: The Rescue (1997)": 1.7407407407407407,
    "Grease 2 (1982)": 2.0,
    "Barb Wire (1996)": 1.9333333333333333,
    "Bio-Dome (1996)": 1.903225806451613,
    "Island of Dr. Moreau, The (1996)": 2.1578947368421053,
    "Crow: City of Angels, The (1996)": 1.9487179487179487,
    "Joe's Apartment (1996)": 2.2444444444444445,
    "Leave It to Beaver (1997)": 1.8409090909090908,
    "Lawnmower Man, The (1992)": 2.4461538461538463,
    "Stephen King's The Langoliers (1995)": 2.413793103448276,
}
BEST = {
    "Schindler's List (1993)": 4.466442953020135,
    "Titanic (1997)": 4.2457142857142856,
    "Silence of the Lambs, The (1991)": 4.28974358974359,
    "Shawshank Redemption, The (1994)": 4.445229681978798,
    "Star Wars (1977)": 4.3584905660377355,
    "L.A. Confidential (1997)": 4.161616161616162,
    "As Good As It Gets (1997)": 4.196428571428571,
    "Rear Window (1954)": 4.3875598086124405,
    "Good Will Hunting (1997)": 4.262626262626263,
    "Apt Pupil (1998)": 4.1,
    "Casablanca (1942)": 4.45679012345679,
    "Usual Suspects, The (1995)": 4.385767790262173,
    "Close Shave, A (1995)": 4.491071428571429,
    "Boot, Das (1981)": 4.203980099502488,
    "Vertigo (1958)": 4.251396648044692,
}


@cache
def _films() -> Ratings:
    return open_movielens()


@cache
def _by_title() -> pd.DataFrame:
    """Count and mean of the ratings of each title, most rated first, as the lecture's notebook takes them."""
    ratings = _films()
    titles = [ratings.titles[key] for key in ratings.item_ids[ratings.item].tolist()]
    table = pd.Series(ratings.rating.astype(np.float64)).groupby(titles).agg(["count", "mean"])
    return table.sort_values("count", ascending=False)


def _u_item() -> bytes:
    """The films of MovieLens 100k as GroupLens writes them: latin-1, 24 fields, | between them, no header."""
    titles = _films().titles
    rows = [f"{film}|{title}|01-Jan-1995||http://us.imdb.com/|{'|'.join('0' * 19)}" for film, title in titles.items()]
    return "\n".join([*rows, ""]).encode("latin-1")


@exact("33a", source=U_ITEM)
def the_file_of_films_is_no_utf_8() -> Found:
    """u.item, in GroupLens' format, cannot be read as UTF-8, pandas' default."""
    try:
        pd.read_csv(io.BytesIO(_u_item()), delimiter="|", header=None)
    except UnicodeDecodeError as error:
        return Found(error.object[error.start] == 0xE9, f"UnicodeDecodeError: byte 0x{error.object[error.start]:02x}")
    return Found(False, "pandas reads it without a word")


@exact("33b", source=U_ITEM)
def latin_1_reads_the_file_of_films() -> Found:
    """With `encoding='latin-1'` it is read: 24 columns, every title right."""
    table = pd.read_csv(io.BytesIO(_u_item()), delimiter="|", encoding="latin-1", header=None, quoting=3)
    titles = _films().titles
    same = table[1].tolist() == list(titles.values())
    return Found(
        same and table.shape == (1682, 24), f"{table.shape[0]} films, {table.shape[1]} columns: {table[1][542]}"
    )


@exact("33c")
def a_wrong_encoding_is_named_with_another_to_try() -> Found:
    """Our reader's error names the byte that is not UTF-8, its line and column, and an encoding to try."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "u.item"
        path.write_bytes(_u_item())
        try:
            read_text(path, sep="|", quoted=False).name_columns(FILM_COLUMNS)
        except DataError as error:
            text = str(error).removeprefix(f"{folder}/")
            return Found("0xe9" in text and "latin-1" in text and "line 543" in text, text)
    return Found(False, "it is read without a word")


@exact("33d", expected=False)
def the_file_of_films_that_the_package_carries_is_no_utf_8() -> Found:
    """The file of films in RecBole cannot be read as UTF-8 either."""
    path = importlib.metadata.distribution("recbole").locate_file("recbole/dataset_example/ml-100k/ml-100k.item")
    raw = Path(str(path)).read_bytes()
    title = next(line.split(b"\t")[1] for line in raw.splitlines() if not line.isascii())
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Found(True, f"byte 0x{raw[error.start]:02x}")
    return Found(False, f"it is UTF-8: {title.decode()}, which latin-1 would turn into {title.decode('latin-1')}")


def _means(said: dict[str, float]) -> Found:
    of_title = _by_title()["mean"]
    same = [title for title, mean in said.items() if of_title[title] == mean]
    first = next(iter(said))
    return Found(len(same) == len(said), f"{len(same)} of {len(said)} to the last digit; {first} {of_title[first]}")


@exact("38a", source="note B: the films of the lowest biases")
def the_15_worst_films_have_the_means_printed_beside_them() -> Found:
    """The mean ratings beside the 15 films of the lowest biases are those of MovieLens 100k."""
    return _means(WORST)


@exact("38b", source="note B: the films of the highest biases")
def the_15_best_films_have_the_means_printed_beside_them() -> Found:
    """The mean ratings beside the 15 films of the highest biases are those of MovieLens 100k."""
    return _means(BEST)


def _reduced() -> tuple[torch.Tensor, torch.Tensor]:
    """Film vectors [1000, 40], and their three principal components [1000, 3]."""
    weights = torch.randn(1000, 40, dtype=torch.float64) @ torch.diag(torch.linspace(2, 0.1, 40, dtype=torch.float64))
    return weights, pca(weights, 3)


@exact("42a", source="fastai 1.0.61, torch_core.py, Tensor.pca")
def pca_reduces_40_factors_to_3() -> Found:
    """Principal components reduce 1000 film vectors of 40 numbers to 3 numbers each."""
    weights, reduced = _reduced()
    return Found(tuple(reduced.shape) == (1000, 3), f"{tuple(weights.shape)} → {tuple(reduced.shape)}")


@exact("42b")
def the_3_numbers_are_those_of_a_singular_value_decomposition() -> Found:
    """Up to sign they are the covariance's three leading eigenvectors times the vectors, largest variance first."""
    weights, reduced = _reduced()
    _, vectors = torch.linalg.eigh(torch.cov(weights.T))
    own = (weights - weights.mean(0)) @ vectors.flip(1)[:, :3]
    apart = (own.abs() - reduced.abs()).abs().max().item()
    variances = reduced.var(0)
    falling = bool((variances.diff() < 0).all())
    return Found(apart < 1e-10 and falling, f"largest difference {apart:.0e}; variances {listed(variances.tolist())}")


@exact("43a", source=NOTEBOOK)
def the_1000_most_rated_films_hold_the_30_listed() -> Found:
    """The top films are the 1000 titles with the most ratings; the 30 listed are among them, whatever the ties."""
    counts = _by_title()["count"]
    least = counts[[*WORST, *BEST]].min()
    return Found(
        bool(least > counts.iloc[1000]), f"the 1001st has {counts.iloc[1000]} ratings, of the 30 each {least} or more"
    )


@exact("43b", expected=False, source=NOTEBOOK)
def the_1000_most_rated_films_are_one_set() -> Found:
    """The ratings alone determine which 1000 titles have the most ratings."""
    counts = _by_title()["count"]
    cut, beyond = counts.iloc[999], counts.iloc[1000]
    return Found(
        bool(cut > beyond), f"{(counts == cut).sum()} titles have {cut} ratings, as the 1000th; the 1001st has {beyond}"
    )


@exact("slip 19", source=U_ITEM)
def read_csv_knows_no_delimite_and_byte_e9_is_no_utf_8() -> Found:
    """`read_csv` takes `delimiter`, not `delimite`; the file fails for a byte 0xe9, which is é in latin-1."""
    try:
        pd.read_csv(io.StringIO("a|b"), delimite="|")  # type: ignore[call-overload]
    except TypeError as error:
        text = str(error)
    else:
        text = "pandas takes delimite"
    byte = b"\xe9".decode("latin-1")
    return Found("delimite" in text and "unexpected" in text and byte == "é", f"{text}; 0xe9 is {byte}")
