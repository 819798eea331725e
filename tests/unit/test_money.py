import re
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alma_hook.money import NumberFormat, amount, cents, cents_as
from simulator.query_output import Region

MOST = 9_999_999_999_99
any_cents = st.integers(-MOST, MOST)


@given(any_cents)
def test_an_amount_survives_the_way_to_text_and_back(value: int) -> None:
    assert cents(amount(value)) == value


@given(any_cents)
def test_an_amount_survives_as_a_decimal(value: int) -> None:
    assert cents(Decimal(value) / 100) == value


@given(any_cents)
def test_an_amount_has_a_point_and_two_decimals(value: int) -> None:
    whole, _, decimals = amount(value).removeprefix("-").partition(".")
    assert whole.isdecimal()
    assert len(decimals) == 2


@given(any_cents, st.integers(0, 20), st.integers(0, 20))
def test_noughts_before_and_behind_change_nothing(value: int, before: int, behind: int) -> None:
    sign, text = ("-" if value < 0 else ""), amount(abs(value))
    assert cents(f"{sign}{'0' * before}{text}{'0' * behind}") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("-0.00", 0), ("12.5", 1250), ("12.50", 1250), ("+3", 300), ("007.20", 720), (".5", 50),
        ("-.05", -5), (" 1.00 ", 100),
        ("0000000000000000000000000.01", 1), (12, 1200), (Decimal("1E+2"), 10000), (Decimal("0.10"), 10),
    ],
)  # fmt: skip
def test_plain_amounts(text: str | int | Decimal, value: int) -> None:
    assert cents(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", "-.", "1.", "1,000.00", "1.000,00", "12,50", "1 000", "1_000", "1e2", "$5.00", "5.00 USD",
        "--1", "1-", "(1.00)", "0x10", "nan", "Infinity", "\u0661\u0662", "\uff11.00", "12345678901.00", "1.00\n2.00",
        Decimal("NaN"), Decimal("Infinity"), None, b"1.00", [], True,
    ],
)  # fmt: skip
def test_what_is_not_a_plain_amount_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="amount"):
        cents(text)  # type: ignore[arg-type]


@given(any_cents, st.integers(1, 9))
def test_a_third_decimal_is_refused(value: int, digit: int) -> None:
    with pytest.raises(ValueError, match="more than two decimals"):
        cents(f"{amount(value)}{digit}")


@given(st.floats())
def test_a_float_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="float"):
        cents(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="integer"):
        amount(value)  # type: ignore[arg-type]


@given(st.text())
def test_any_text_is_an_amount_or_refused_as_a_value(text: str) -> None:
    try:
        value = cents(text)
    except ValueError:
        return
    assert Decimal(text.strip()) * 100 == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.5, "an amount must be text, not float"),
        (True, "an amount must be text, not bool"),
        ("1,00", "not a plain amount with a decimal point, such as 12.50"),
        ("1.005", "more than two decimals"),
    ],
)
def test_a_refusal_tells_a_person_what_is_wrong(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        cents(value)  # type: ignore[arg-type]
    assert str(caught.value) == said
    with pytest.raises(ValueError, match=r"^cents are an integer$"):
        amount("100")  # type: ignore[arg-type]


# -- amounts as a file writes them ------------------------------------------------------------------------

FORMATS: tuple[NumberFormat, ...] = get_args(NumberFormat)
#: Texts by the only formats that take them.
WRITTEN = {
    "1,234.56": {"1,234.56": 123456},
    "1.234,56": {"1.234,56": 123456},
    "1234,56": {"1.234,56": 123456},
    "-1,234.56": {"1,234.56": -123456},
    "1,234.56-": {"1,234.56-": -123456},
    "(1,234.56)": {"(1,234.56)": -123456},
    "1,234": {"1,234.56": 123400},
    "1.234": {"1.234,56": 123400},
    "12,5": {"1.234,56": 1250},
    "1.250": {"1234.56": 125, "1.234,56": 125000},
    "1,250": {"1,234.56": 125000},
    "1,2345": {},
    "12,34.00": {},
    ",234.00": {},
    "1,,234": {},
    "1.234.56": {},
    "(12.50": {},
    "12.50)": {},
    "()": {},
    "-": {},
    "": {},
    "(-12.50)": {},
    "-12.50-": {},
    "--12.50": {},
    "- 12.50": {},
    "$12.50": {},
    "12.50 USD": {},
    "\N{EURO SIGN}12,50": {},
    "1 234,56": {},
    "1'234.56": {},
    "1\N{NO-BREAK SPACE}234,56": {},
    "1,234.567": {},
    "1,234.560": {},
    "1e3": {},
    "\N{FULLWIDTH DIGIT ONE},234.56": {},
    "99,999,999,999.00": {},
    "9,999,999,999.99": {"1,234.56": 999999999999},
}


@given(any_cents, st.sampled_from(FORMATS))
def test_an_amount_survives_in_every_format(value: int, number_format: NumberFormat) -> None:
    assert cents_as(Region(numbers=number_format).amount(value), number_format) == value


@given(any_cents, st.sampled_from(FORMATS))
def test_marks_for_thousands_may_be_left_out(value: int, number_format: NumberFormat) -> None:
    written = Region(numbers=number_format).amount(value)
    before = number_format.strip("()-")[1]
    plain = written.replace(before, "") if before in ",." else written
    assert cents_as(f" {plain} ", number_format) == value


@pytest.mark.parametrize("base", ["1234.56", "1,234.56", "1.234,56"])
@pytest.mark.parametrize("text", WRITTEN)
def test_which_format_takes_what(text: str, base: str) -> None:
    for number_format in (base, f"{base}-", f"({base})"):
        # Without a sign a text is the same by where the sign would stand; only the plain format takes a third nought.
        signed = text[:1] in "-(" or text[-1:] in "-)"
        known = WRITTEN[text].get(number_format if signed or number_format == "1234.56" else base)
        if number_format in ("1234.56-", "(1234.56)") and text == "1.250":
            known = None
        try:
            found = cents_as(text, number_format)  # type: ignore[arg-type]
        except ValueError:
            found = None
        assert found == known, number_format


@given(st.text(max_size=12), st.sampled_from(FORMATS))
def test_any_text_is_an_amount_or_refused(text: str, number_format: NumberFormat) -> None:
    try:
        assert isinstance(cents_as(text, number_format), int)
    except ValueError as error:
        assert str(error)


@given(st.text("0123456789.,", max_size=9))
def test_two_formats_with_marks_never_read_one_text_as_two_amounts(text: str) -> None:
    found = set()
    for number_format in FORMATS[3:]:
        try:
            found.add(cents_as(text, number_format))
        except ValueError:
            continue
    assert len(found) < 2
