"""The compiled loops of `everything.py`, and the tuples that they take.

They are in a module of their own because Numba keeps no code for types of the script that is run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from kernels.native import FASTMATH

compiled = njit(nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy")

# float32, or the kernels would calculate in float64.
ONE, LEAST_PROBABILITY, LEAST_KEPT = np.float32(1), np.float32(0.01), np.float32(0.5)
THRESHOLD_RATE = np.float32(0.1)  # of thresholds, relative to embeddings


class Bags(NamedTuple):
    """Features of each user or film: those of row r are members[starts[r] : starts[r + 1]], with weights."""

    starts: np.ndarray  # int32[rows + 1]
    members: np.ndarray  # int32[n]
    weights: np.ndarray  # float32[n]
    rates: np.ndarray  # float32[features], relative to the embeddings' learning rate
    decays: np.ndarray  # float32[features]


class Side(NamedTuple):
    """Users or films, and their ratings."""

    number: np.ndarray  # int32[ratings], whose rating it is
    starts: (
        np.ndarray
    )  # int32[rows + 1]; row r has the ratings from starts[r] to starts[r + 1], if they are sorted by row
    decay: np.float32  # of embeddings
    bias_decays: np.ndarray  # float32[rows]
    bags: Bags


class Tables(NamedTuple):
    """Embeddings of the users or films of a side and of their features; the last column is a bias."""

    own: np.ndarray  # float32[rows, factors + 1]
    features: np.ndarray  # float32[features, factors + 1]


@compiled
def add_bag(bags, features, row, total):
    """Add the weighted features of a row to `total`, float32[factors + 1]."""
    for at in range(bags.starts[row], bags.starts[row + 1]):
        for k in range(len(total)):
            total[k] += bags.weights[at] * features[bags.members[at], k]


@compiled
def add_bags(bags, features, sums):
    """Add the weighted features of each row to its row of `sums`, float32[rows, factors + 1]."""
    for row in range(len(sums)):
        add_bag(bags, features, row, sums[row])


@compiled
def at_most(score, threshold):
    """The probability of a rating that is at most the one below the threshold."""
    return ONE / (ONE + np.exp(score - threshold))


@compiled
def slope(score, stars, thresholds, rate):
    """The derivative of the log-likelihood of these stars by the score; moves the thresholds beside them."""
    last = len(thresholds)
    upper = at_most(score, thresholds[stars]) if stars < last else ONE
    lower = at_most(score, thresholds[stars - 1]) if stars > 0 else ONE - ONE
    probability = max(upper - lower, LEAST_PROBABILITY)
    by_upper, by_lower = upper * (ONE - upper) / probability, lower * (ONE - lower) / probability
    if stars < last:
        thresholds[stars] += rate * THRESHOLD_RATE * by_upper
    if stars > 0:
        thresholds[stars - 1] -= rate * THRESHOLD_RATE * by_lower
    return by_lower - by_upper


@compiled
def window_score(window_of, window_biases, rating):
    """The sum of the biases of a rating's windows."""
    total = ONE - ONE
    for width in range(window_of.shape[1]):
        total += window_biases[window_of[rating, width]]
    return total


@compiled
def step_bag(bags, features, row, ratings, gradient, rate):
    """One step of a row's features, by the sum of the gradients of its ratings."""
    for at in range(bags.starts[row], bags.starts[row + 1]):
        feature = bags.members[at]
        its_rate = rate * bags.rates[feature]
        kept = max(ONE - its_rate * bags.decays[feature] * ratings, LEAST_KEPT)
        for k in range(len(gradient)):
            features[feature, k] = features[feature, k] * kept + its_rate * bags.weights[at] * gradient[k]


@compiled
def sweep(side, tables, order, other, other_tables, other_sums, stars, thresholds, rate, window_of, window_biases,
          decays):  # fmt: skip
    """Train on every rating once, in an order from `random_order`: row by row of `side`.

    The features of a row of `side` are summed before its ratings and stepped after them; those of the other side stay
    as they are in `other_sums`. Windows are stepped if `decays` has any: they belong to users.
    """
    factors = tables.own.shape[1] - 1
    bag, gradient, ours, theirs = np.zeros((4, factors + 1), np.float32)
    rows, ratings = order
    for row in rows:
        start, stop = side.starts[row], side.starts[row + 1]
        if start == stop:
            continue
        bag[:] = 0
        gradient[:] = 0
        add_bag(side.bags, tables.features, row, bag)
        for rating in ratings[start:stop]:
            partner = other.number[rating]
            for k in range(factors + 1):
                ours[k] = tables.own[row, k] + bag[k]
                theirs[k] = other_tables.own[partner, k] + other_sums[partner, k]
            score = ours[factors] + theirs[factors] + window_score(window_of, window_biases, rating)
            for k in range(factors):
                score += ours[k] * theirs[k]
            ascent = slope(score, stars[rating], thresholds, rate)
            for k in range(factors):
                gradient[k] += ascent * theirs[k]
                tables.own[row, k] += rate * (ascent * theirs[k] - side.decay * tables.own[row, k])
                other_tables.own[partner, k] += rate * (ascent * ours[k] - other.decay * other_tables.own[partner, k])
            gradient[factors] += ascent
            tables.own[row, factors] += rate * (ascent - side.bias_decays[row] * tables.own[row, factors])
            other_tables.own[partner, factors] += rate * (
                ascent - other.bias_decays[partner] * other_tables.own[partner, factors]
            )
            if len(decays):
                for width in range(window_of.shape[1]):
                    window = window_of[rating, width]
                    # Implicit in its decay: the decay of a window with one rating may be large.
                    window_biases[window] = (window_biases[window] + rate * ascent) / (ONE + rate * decays[window])
        step_bag(side.bags, tables.features, row, np.float32(stop - start), gradient, rate)


@compiled
def mean_stars(users, films, window_of, user_vectors, film_vectors, window_biases, thresholds, means):
    """The mean of each row's probabilities of stars, to `means`, float32[rows]."""
    factors = user_vectors.shape[1] - 1
    for row in range(len(users)):
        user, film = user_vectors[users[row]], film_vectors[films[row]]
        score = user[factors] + film[factors] + window_score(window_of, window_biases, row)
        for k in range(factors):
            score += user[k] * film[k]
        means[row] = ONE
        for threshold in thresholds:
            means[row] += ONE - at_most(score, threshold)
