"""dotbias with everything that is known: ids, who rated what, side information, and when each rating was given.

The score of user u, film i and time t is P(u) · Q(i), plus a bias of each, plus biases of u in the windows of t, where

    P(u) = p_u + Σ y_j / √|N(u)| over the films j that u rated + embeddings of age, sex, occupation and zip code
    Q(i) = q_i + Σ z_v / √|N(i)| over the users v who rated i  + embeddings of genres and year of release.

Implicit feedback of both sides is as in SVD++ (Koren 2008, Rendle et al. 2019), a user's bias at a time as in timeSVD++
(Koren 2009), with windows from a second to a day. Thresholds turn a score into probabilities of 1 to 5 stars
(cumulative logit); the prediction is their mean, averaged over trainings that differ in their seeds. Stochastic
gradient ascent goes through the ratings user by user, then film by film, and so on.

Only training rows count as rated. A row to be predicted shares a window with training rows before and after it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np
from everything_loops import Bags, Side, Tables, add_bags, mean_stars, sweep
from protocol import About, Everything, Rows, serve
from scipy import sparse

USUAL_YEAR = 1995  # of the films without a year


class Windows(NamedTuple):
    """Biases of users in windows of time."""

    keys: list[np.ndarray]  # for each width the windows that training rows lie in, sorted, int64
    of: np.ndarray  # int32[ratings, widths], the windows of each training row
    decays: np.ndarray  # float32[windows]


class Prepared(NamedTuple):
    users: Side
    films: Side
    stars: np.ndarray  # int32[ratings], from 0
    windows: Windows


def one_hot(values: np.ndarray) -> sparse.csr_matrix:
    """A one for each value: float64[n, distinct values]."""
    codes = np.unique(values, return_inverse=True)[1]
    return sparse.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)))


def side_features(about: About) -> tuple[list[sparse.csr_matrix], list[sparse.csr_matrix]]:
    """The features of users and of films, a matrix for each kind."""
    years = np.where(about.years == 0, USUAL_YEAR, about.years)
    genres = about.genres / np.sqrt(np.maximum(about.genres.sum(1, keepdims=True), 1))
    of_users = [one_hot(about.ages // 5), one_hot(about.sexes), one_hot(about.occupations)]
    return (
        [*of_users, one_hot(about.zips.astype("U1"))],
        [sparse.csr_matrix(genres), one_hot(np.where(years < 1980, years // 5 * 5, years))],
    )


def make_bags(rated: sparse.csr_matrix, features: list[sparse.csr_matrix], settings: dict) -> Bags:
    """Bags of who rated what, over the root of their number, and of side features."""
    roots = sparse.diags(np.maximum(np.asarray(rated.sum(1)).ravel(), 1) ** -0.5)
    bags = sparse.hstack([roots @ rated, *features]).tocsr()
    implicit = np.arange(bags.shape[1]) < rated.shape[1]
    rates = np.where(implicit, settings["implicit_rate"], settings["side_rate"])
    decays = np.where(implicit, settings["implicit_decay"], settings["side_decay"])
    return Bags(
        bags.indptr.astype(np.int32),
        bags.indices.astype(np.int32),
        *(column.astype(np.float32) for column in (bags.data, rates, decays)),
    )


def make_side(number: np.ndarray, rows: int, bags: Bags, settings: dict) -> Side:
    """A side; the rarer a row, the stronger its bias decays."""
    counts = np.bincount(number, minlength=rows)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    bias_decays = (settings["bias_decay"] / np.maximum(counts, 1)).astype(np.float32)
    return Side(number.astype(np.int32), starts, np.float32(settings["decay"]), bias_decays, bags)


def window_keys(rows: Rows, width: int) -> np.ndarray:
    """A number for each user and window of this many seconds, int64[rows]."""
    return rows.users * 10**10 + rows.seconds // width


def make_windows(rows: Rows, widths: list[tuple[int, float]]) -> Windows:
    """The windows that training rows lie in; the fewer rows one has, the stronger its bias decays."""
    keys, columns, decays, before = [], [], [], 0
    for width, decay in widths:
        distinct, codes, counts = np.unique(window_keys(rows, width), return_inverse=True, return_counts=True)
        keys.append(distinct)
        columns.append(before + codes)
        decays.append(decay / counts)
        before += len(distinct)
    return Windows(keys, np.stack(columns, axis=1).astype(np.int32), np.concatenate(decays).astype(np.float32))


def windows_of(rows: Rows, widths: list[tuple[int, float]], windows: Windows) -> np.ndarray:
    """The windows of any rows, int32[rows, widths]; the number after the last one if no training row lies there."""
    columns, before = [], 0
    for (width, _), known in zip(widths, windows.keys, strict=True):
        wanted = window_keys(rows, width)
        found = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        columns.append(np.where(known[found] == wanted, before + found, len(windows.decays)))
        before += len(known)
    return np.stack(columns, axis=1).astype(np.int32)


def prepare(everything: Everything, settings: dict) -> Prepared:
    order = np.lexsort((everything.rows.seconds, everything.rows.users))
    rows, about = Rows(*(column[order] for column in everything.rows)), everything.about
    shape = len(about.ages), len(about.years)
    rated = sparse.csr_matrix((np.ones(len(order)), (rows.users, rows.films)), shape=shape)
    of_users, of_films = side_features(about)
    return Prepared(
        make_side(rows.users, shape[0], make_bags(rated, of_users, settings), settings),
        make_side(rows.films, shape[1], make_bags(rated.T.tocsr(), of_films, settings), settings),
        everything.ratings[order].astype(np.int32) - 1,
        make_windows(rows, settings["windows"]),
    )


def start(side: Side, factors: int, deviation: float, random: np.random.Generator) -> Tables:
    """Small random embeddings; biases and features are 0."""
    own = np.pad(deviation * random.standard_normal((len(side.bias_decays), factors)), ((0, 0), (0, 1)))
    return Tables(own.astype(np.float32), np.zeros((len(side.bags.rates), factors + 1), np.float32))


def learning_rates(epochs: int, rate: float) -> np.ndarray:
    """The rate of each epoch: half in the first one, then along a cosine to nearly 0."""
    epoch = np.arange(epochs)
    rates = rate * np.minimum(1, (epoch + 1) / 2) * (0.5 + 0.5 * np.cos(np.pi * (epoch + 0.5) / epochs))
    return rates.astype(np.float32)


def random_order(side: Side, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The rows in random order, and the ratings sorted by row, in random order within each."""
    within = np.argsort(side.number + random.random(len(side.number)))
    return random.permutation(len(side.bias_decays)), within


def sums_of(side: Side, tables: Tables) -> np.ndarray:
    """The weighted features of each row."""
    sums = np.zeros_like(tables.own)
    add_bags(side.bags, tables.features, sums)
    return sums


def train(prepared, seed, epochs, settings, after_epoch):
    users, films, stars, windows = prepared
    levels = settings["levels"]
    below = np.clip([(stars <= level).mean() for level in range(levels - 1)], 1e-3, 1 - 1e-3)
    rates = learning_rates(epochs, settings["rate"])

    def one(number):
        """The vectors, window biases and thresholds of one training, whole epochs by user and by film in turn."""
        random = np.random.default_rng(number)
        both = [(side, start(side, settings["n_factors"], settings["deviation"], random)) for side in (users, films)]
        thresholds = np.log(below / (1 - below)).astype(np.float32)
        biases = np.zeros(len(windows.decays) + 1, np.float32)  # the last one stays 0
        for epoch, rate in enumerate(rates):
            (side, tables), (other, its_tables) = both if epoch % 2 == 0 else reversed(both)
            stepped = windows.decays if side is users else windows.decays[:0]
            sweep(side, tables, random_order(side, random), other, its_tables, sums_of(other, its_tables),
                  stars, thresholds, rate, windows.of, biases, stepped)  # fmt: skip
        vectors = [tables.own + sums_of(side, tables) for side, tables in both]
        return *vectors, biases, thresholds

    with ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS) as pool:
        trained = list(pool.map(one, range(1000 * seed, 1000 * seed + settings["models"])))

    def predict(rows: Rows) -> np.ndarray:
        places = windows_of(rows, settings["windows"], windows)
        means = np.zeros((len(trained), len(rows.users)), np.float32)
        for learned, its_means in zip(trained, means, strict=True):
            mean_stars(rows.users, rows.films, places, *learned, its_means)
        return means.mean(0)

    after_epoch(predict, epochs)


if __name__ == "__main__":
    serve(prepare, train, ["numba", "numpy", "scipy"], everything=True)
