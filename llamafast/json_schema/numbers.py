"""The limits of numbers: as ranges, as regular expressions, and as llguidance accepts them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TypeGuard

from llamafast.errors import GrammarError
from llamafast.json_schema.types import Schema

_ANY_INTEGER = "-?(0|[1-9][0-9]*)"
_ANY_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_FRACTION = r"(\.[0-9]+)?"
_KEYS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
# llguidance accepts 64-bit integers, and 18 digits of other numbers.
_LEAST_INTEGER, _MOST_INTEGER = -9223372036854774784, 2**63 - 1
_MOST_NUMBER = Fraction(10**18)
_EXACT = 2**53  # all integers up to here are exact as floats
_FAR = 10**17
_LEAST_STEP = Fraction(1, 10**20)


@dataclass(frozen=True, slots=True)
class NumberRange:
    """The numbers between two limits.

    low, high: the limits. None: there is no limit.
    is_low_open, is_high_open: the limit itself is excluded.
    steps: the number is a multiple of all of these.
    """

    low: Fraction | None = None
    high: Fraction | None = None
    is_low_open: bool = False
    is_high_open: bool = False
    steps: tuple[Fraction, ...] = ()

    def holds(self, value: int | float) -> bool:
        """Whether the range contains a number."""
        if not math.isfinite(value):
            return self == NumberRange()
        exact = exactly(value)
        if self.low is not None and (exact < self.low or (self.is_low_open and exact == self.low)):
            return False
        if self.high is not None and (exact > self.high or (self.is_high_open and exact == self.high)):
            return False
        return all(step and (exact / step).denominator == 1 for step in self.steps)

    def patterns(self, *, is_integer: bool) -> list[str]:
        """Regular expressions for numbers in the range. A number matches all of them. steps is not included."""
        if self.low is None and self.high is None:
            return [_ANY_INTEGER if is_integer else _ANY_NUMBER]
        if is_integer:
            low = None if self.low is None else math.floor(self.low) + 1 if self.is_low_open else math.ceil(self.low)
            high = (
                None if self.high is None else math.ceil(self.high) - 1 if self.is_high_open else math.floor(self.high)
            )
            return [_integers(low, high)]
        found = [] if self.low is None else [_from(self.low, self.is_low_open)]
        if self.high is not None:
            found.append("|".join(_negated(part) for part in _from_parts(-self.high, self.is_high_open)))
        return found


def exactly(value: object) -> Fraction:
    """The exact value of a number in a JSON text."""
    return Fraction(Decimal(repr(value)))


def range_of(schema: Schema) -> NumberRange:
    """The range that the keywords of one schema allow. Draft 4's exclusive limits are booleans."""
    found = {name: exactly(schema[name]) for name in _KEYS if is_number(schema.get(name))}
    low, high = found.get("minimum"), found.get("maximum")
    is_low_open, is_high_open = schema.get("exclusiveMinimum") is True, schema.get("exclusiveMaximum") is True
    above, below = found.get("exclusiveMinimum"), found.get("exclusiveMaximum")
    if above is not None and (low is None or above >= low):
        low, is_low_open = above, True
    if below is not None and (high is None or below <= high):
        high, is_high_open = below, True
    step = schema.get("multipleOf")
    steps = (exactly(step),) if is_number(step) else ()
    return NumberRange(low, high, is_low_open and low is not None, is_high_open and high is not None, steps)


def intersection(one: NumberRange, other: NumberRange) -> NumberRange:
    """The range of the numbers in both ranges."""
    low, is_low_open = max(
        ((each.low, each.is_low_open) for each in (one, other) if each.low is not None), default=(None, False)
    )
    high, is_open = min(
        ((each.high, not each.is_high_open) for each in (one, other) if each.high is not None), default=(None, True)
    )
    return NumberRange(low, high, is_low_open, not is_open, (*one.steps, *other.steps))


def fitted_bounds(schema: Schema, *, is_integer: bool) -> dict[str, object]:
    """The limits of a schema as llguidance accepts them, never wider. Raises GrammarError if it accepts no such limit.

    A limit beyond what llguidance accepts is moved to the nearest value that it accepts.
    """
    given = range_of(schema)
    least, most = (Fraction(_LEAST_INTEGER), Fraction(_MOST_INTEGER)) if is_integer else (-_MOST_NUMBER, _MOST_NUMBER)
    out: dict[str, object] = {}
    low, high = given.low, given.high
    if (low is not None and low > most) or (high is not None and high < least):
        name = "minimum" if low is not None and low > most else "maximum"
        raise GrammarError(f"{name}: the number is too large to be enforced")
    # With only a distant limit, llguidance looks for the next power of ten.
    high = most if high is None and low is not None and low >= _FAR else high
    low = least if low is None and high is not None and high <= -_FAR else low
    if low is not None:
        is_open = given.is_low_open and low >= least
        out["exclusiveMinimum" if is_open else "minimum"] = _inward(max(low, least), is_integer)
    if high is not None:
        is_open = given.is_high_open and high <= most
        # It accepts only this integer beyond the floats, and stops there.
        value = _MOST_INTEGER if is_integer and high >= _MOST_INTEGER else -_inward(-min(high, most), is_integer)
        out["exclusiveMaximum" if is_open else "maximum"] = value
    return out


def is_exact(value: object) -> bool:
    """Whether llguidance writes the numbers in this value of an enum exactly."""
    if isinstance(value, Mapping):
        return all(map(is_exact, value.values()))
    if isinstance(value, list):
        return all(map(is_exact, value))
    if not is_number(value) or abs(value) <= _EXACT:
        return True
    return isinstance(value, int) and abs(value) < 10**18 and int(float(value)) == value


def _inward(low: Fraction, is_integer: bool) -> int | float:
    """The least number that llguidance accepts and that is not below `low`."""
    if is_integer:
        number = math.ceil(low)
        while abs(number) > _EXACT and int(float(number)) < number:
            number = int(math.nextafter(float(number), math.inf))
        return int(float(number)) if abs(number) > _EXACT else number if low.denominator == 1 else float(low)
    if low and abs(low) < _LEAST_STEP:
        return float(_LEAST_STEP) if low > 0 else 0
    value = float(low)
    return int(value) if value == value // 1 else value


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number. True and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _integers(low: int | None, high: int | None) -> str:
    """A regular expression for the integers from low to high, of which there is at least one."""
    if low is not None and high is not None and low > high:
        raise GrammarError("no number is between minimum and maximum")
    parts = []
    if low is None or low < 0:
        parts.append(f"-({_naturals(1 if high is None or high >= 0 else -high, None if low is None else -low)})")
    if high is None or high >= 0:
        parts.append(_naturals(max(0, low or 0), high))
    return "|".join(parts)


def _naturals(low: int, high: int | None) -> str:
    """A regular expression for the natural numbers from low to high. high None: no limit."""
    parts, size = [], len(str(low))
    if high is None:
        parts.append(f"[1-9][0-9]{{{size},}}")
    last = size if high is None else len(str(high))
    for length in range(size, last + 1):
        least = max(low, 10 ** (length - 1) if length > 1 else 0)
        most = 10**length - 1 if high is None else min(high, 10**length - 1)
        parts.append(_between(str(least), str(most)))
    return "|".join(parts)


def _between(low: str, high: str) -> str:
    """A regular expression for numbers of one length, from low to high."""
    if not low:
        return ""
    if low[0] == high[0]:
        return low[0] + _between(low[1:], high[1:])
    num_rest, first, last, parts = len(low) - 1, int(low[0]), int(high[0]), []
    if low[1:].strip("0"):
        parts.append(low[0] + _between(low[1:], "9" * num_rest))
        first += 1
    if high[1:].strip("9"):
        parts.append(high[0] + _between("0" * num_rest, high[1:]))
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f"[0-9]{{{num_rest}}}" if num_rest else ""))
    return f"({'|'.join(parts)})"


def _from(low: Fraction, is_open: bool) -> str:
    return "|".join(_from_parts(low, is_open))


def _from_parts(low: Fraction, is_open: bool) -> list[str]:
    """The alternatives for decimals from low on."""
    whole, digits = _digits(abs(low))
    if low < 0:
        return [f"(0|[1-9][0-9]*){_FRACTION}", *(f"-{part}" for part in _up_to(whole, digits, is_open))]
    parts = [f"({_naturals(whole + 1, None)}){_FRACTION}"]
    if not digits and not is_open:
        parts.append(str(whole))
    return [*parts, rf"{whole}\.({_above(digits, is_open)})"]


def _negated(part: str) -> str:
    return part[1:] if part.startswith("-") else f"-{part}"


def _up_to(whole: int, digits: str, is_open: bool) -> list[str]:
    """The alternatives for decimals from 0 to this one."""
    parts = [f"({_naturals(0, whole - 1)}){_FRACTION}"] if whole else []
    if digits or not is_open:
        parts.append(str(whole))
    below = _below(digits, is_open)
    return parts if below is None else [*parts, rf"{whole}\.({below})"]


def _above(digits: str, is_open: bool) -> str:
    """A regular expression for fraction digits, at least one, that are equal to these or greater."""
    if not digits:
        return "[0-9]*[1-9][0-9]*" if is_open else "[0-9]+"
    first, rest = digits[0], digits[1:]
    parts = [f"[{int(first) + 1}-9][0-9]*"] if first < "9" else []
    return "|".join([*parts, f"{first}({_above(rest, is_open)})" if rest or is_open else f"{first}[0-9]*"])


def _below(digits: str, is_open: bool) -> str | None:
    """A regular expression for fraction digits, at least one, that are equal to these or less. None: there are none."""
    if not digits:
        return None if is_open else "0+"
    first, rest = digits[0], digits[1:]
    parts = [f"[0-{int(first) - 1}][0-9]*"] if first > "0" else []
    if rest:
        parts.append(f"{first}({_below(rest, is_open)})?")
    elif not is_open:
        parts.append(f"{first}0*")
    return "|".join(parts) or None


def _digits(value: Fraction) -> tuple[int, str]:
    """The whole part of a decimal, and its fraction digits."""
    whole = math.floor(value)
    rest, digits = value - whole, ""
    while rest:
        rest *= 10
        digits += str(math.floor(rest))
        rest -= math.floor(rest)
    return whole, digits
