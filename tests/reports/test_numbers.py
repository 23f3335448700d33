import math

import pytest

from reports import numbers


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (numbers.number(0.8946), "0.895"),
        (numbers.number(-0.0334), "−0.033"),
        (numbers.number(1.0106), "1.011"),
        (numbers.number(-0.00001), "0.000"),
        (numbers.number(None), "–"),
        (numbers.number(math.inf), "∞"),
        (numbers.number(-1e308), "−1.00·10³⁰⁸"),
        (numbers.number(0.4, 0), "0"),
        (numbers.number(12345.6, 1), "12,345.6"),
        (numbers.signed(0.0428, 4), "+0.0428"),
        (numbers.signed(0.0), "0.000"),
        (numbers.interval((-0.0351, -0.031)), "[−0.035, −0.031]"),
        (numbers.setting(0.1), "0.1"),
        (numbers.setting(0), "0"),
        (numbers.setting(1e-5), "1e-05"),
        (numbers.setting(-0.25), "−0.25"),
        (numbers.setting(40), "40"),
        (numbers.setting(True), "yes"),
        (numbers.setting("adamw"), "adamw"),
        (numbers.figures(0.40865), "0.409"),
        (numbers.figures(-0.17824), "−0.178"),
        (numbers.figures(12.345), "12.3"),
        (numbers.figures(1234.5), "1,234"),
        (numbers.figures(3.342e-6), "3.34·10⁻⁶"),
        (numbers.figures(-2.5e7), "−2.50·10⁷"),
        (numbers.figures(0.0), "0"),
        (numbers.figures(None), "–"),
        (numbers.figures_interval((-0.2, 1e-9)), "[−0.200, 1.00·10⁻⁹]"),
        (numbers.figures_interval(None), "–"),
        (numbers.p_value(0.0001), "< 0.001"),
        (numbers.p_value(0.012), "0.012"),
        (numbers.percent(0.95), "95 %"),
        (numbers.percent(3 / 700), "0.4 %"),
        (numbers.percent(0), "0 %"),
        (numbers.times(380.4), "380×"),
        (numbers.times(9528.0), "9,528×"),
        (numbers.times(0.301), "0.30×"),
        (numbers.times(4.24), "4.2×"),
        (numbers.times(1.004), "1.004×"),
        (numbers.times(1.0), "1.00×"),
        (numbers.times(10.3), "10×"),
        (numbers.times(100.2), "100×"),
        (numbers.times(20, 2.0, 30), "20×"),
        (numbers.times(260, 26, 300), "260×"),
        (numbers.times(9528.4, 953.2), "9,528×"),
        (numbers.times(0.0003), "0.00030×"),
        (numbers.times(0.0014), "0.0014×"),
        (numbers.times(0.0006), "0.00060×"),
        (numbers.times(0.00999), "0.010×"),
        (numbers.times(3.1e-17), "3.1·10⁻¹⁷×"),
        (numbers.times(1e15), "1.00·10¹⁵×"),
        (numbers.times(0.0), "0.00×"),
        (numbers.times(0.00196, 0.00171, 0.00331), "0.0020×"),
        (numbers.times(260.2, 216, 332), "260×"),
        (numbers.times(math.inf), "∞×"),
        (numbers.times_interval(0.9952, 0.9985, 0.996), "[0.995×, 0.999×]"),
        (numbers.times_interval(0.9801, 0.9804), "[0.9801×, 0.9804×]"),
        (numbers.times_interval(1.0, 1.0), "[1.00×, 1.00×]"),
        (numbers.seconds(4.2e-6), "4.2 µs"),
        (numbers.seconds(999.7e-6), "1.0 ms"),
        (numbers.seconds(999.4e-6), "999 µs"),
        (numbers.seconds(23.4), "23 s"),
        (numbers.seconds(125), "2 min 5 s"),
        (numbers.seconds(3780), "1 h 3 min"),
        (numbers.size(327_680), "328 kB"),
        (numbers.size(999_700), "1.0 MB"),
        (numbers.size(640), "640 B"),
        (numbers.counted(1, "seed"), "1 seed"),
        (numbers.counted(90_000, "rating"), "90,000 ratings"),
    ],
)
def test_numbers_are_written_as_the_pages_write_them(written, text):
    assert written == text


def test_an_interval_has_enough_digits_for_its_ends_to_differ():
    assert numbers.digits_for((-0.035, -0.031)) == 3
    assert numbers.digits_for((0.0017, 0.0031)) == 4
    assert numbers.digits_for((0.00021, 0.00024)) == 5
    assert numbers.digits_for(None) == 3


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ((0.895, 0.927), 3),
        ((0.8201, 0.8204), 4),
        ((0.8201, 0.8201), 3),
        ((0.82004, 0.82, 0.9), 5),
        ((0.5, None, math.nan, math.inf), 3),
        ((0.5, 0.5 + 1e-12), 8),
        ((), 3),
    ],
)
def test_labels_have_digits_enough_to_differ(values, digits):
    assert numbers.digits_to_differ(values) == digits


def test_settings_that_differ_look_different():
    assert numbers.settings([0.1, 0.3, 1, "adamw"]) == ["0.1", "0.3", "1", "adamw"]
    assert numbers.settings([0.1, 0.00123456, 0.00123457]) == ["0.1", "0.00123456", "0.00123457"]
    assert numbers.settings([0.1, 0.1]) == ["0.1", "0.1"]
    assert numbers.settings([]) == []


@pytest.mark.parametrize(
    ("values", "bounds", "written"),
    [
        ((0.8946, 0.9273), None, ["0.895", "0.927"]),
        ((0.82042, 0.82037), None, ["0.82042", "0.82037"]),
        ((0.0021,), (0.0017, 0.0026), ["0.0021"]),
        ((123.456, 98.7), None, ["123.5", "98.7"]),
        ((12.3,), (11.0, 14.0), ["12.30"]),
        ((0.7369655941662062,), (0.7369655941662061, 0.7369655941662063), ["0.737"]),
        ((3e-6, 4e-6), None, ["3.00·10⁻⁶", "4.00·10⁻⁶"]),
        ((2.5e8,), None, ["2.50·10⁸"]),
        ((12_345_678, 12_345_999), None, ["1.23457·10⁷", "1.23460·10⁷"]),
        ((None, math.nan, 0.0), None, ["–", "–", "0.000"]),
        ((0.0018,), (-0.0036, 0.000003), ["0.0018"]),
    ],
)
def test_numbers_side_by_side_have_the_decimals_in_which_they_differ(values, bounds, written):
    write = numbers.writer(*values, bounds=bounds)
    assert [write(value) for value in values] == written


@pytest.mark.parametrize(
    ("bounds", "margin", "written"),
    [
        ((0.00151, 0.0044), 0.0018, ["0.0015", "0.0044"]),  # 0.002 would be above the margin
        ((-0.0044, -0.00151), 0.0018, ["−0.0044", "−0.0015"]),
        ((-0.00203, 0.0024), 0.002, ["−0.00203", "0.00240"]),  # both ends are outside
        ((0.002, 0.0044), 0.002, ["0.002", "0.004"]),  # exactly at the margin, which more digits do not change
        ((0.0301, 0.0352), 0.002, ["0.030", "0.035"]),
        ((1.504e-4, 3e-4), 1.5e-4, ["1.504·10⁻⁴", "3.000·10⁻⁴"]),
        ((None, 0.0021), 0.002, ["–", "0.0021"]),
    ],
)
def test_an_end_that_is_written_stands_on_its_side_of_the_margin(bounds, margin, written):
    write = numbers.writer(bounds=bounds, margin=margin)
    assert [write(end) for end in bounds] == written


@pytest.mark.parametrize(
    ("ends", "written"),
    [
        ((0.031, 0.034), "[0.031, 0.034]"),
        ((-0.034, -0.031), "[−0.034, −0.031]"),
        ((-0.002, 0.004), "[−0.002, +0.004]"),
        ((0.031, None), "[0.031, ∞)"),
        ((None, 0.014), "(−∞, +0.014]"),
        ((None, None), "(−∞, ∞)"),
    ],
)
def test_an_interval_has_signs_where_it_has_both_and_no_end_where_it_is_infinite(ends, written):
    assert numbers.range_of(*ends, numbers.number) == written
    if None not in ends:
        assert numbers.interval_of(ends, numbers.number).count("+") == sum(end > 0 for end in ends)
