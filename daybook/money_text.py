"""Amounts of US dollars as text for people."""

from __future__ import annotations

COST_PLACES = 4
"""Decimal places of a cost in a column, so that the column is aligned, and of sums of costs."""


def money(dollars: float, places: int | None = None) -> str:
    """Return US dollars with the decimal places that they need: `$2`, `$2.50`, `$0.000018`.

    With ``places``, return exactly so many decimal places, as in a column: `$0.2500`.
    """
    if places is not None:
        return f"${dollars:,.{places}f}"
    dollars = round(dollars, 6)  # a sum of costs, such as 0.1 + 0.2, has digits that mean nothing
    if dollars == round(dollars, 2):
        return f"${dollars:,.2f}".removesuffix(".00")
    return f"${dollars:,.4f}" if dollars == round(dollars, 4) or dollars >= 1 else f"${dollars:.6f}"


def rounded_money(dollars: float) -> str:
    """Return US dollars with few digits: `$0`, `< $0.0001`, `$0.0042`, `$1.23`, `$1,234`."""
    if 0 < dollars < 0.0001:
        return "< $0.0001"
    if dollars == 0 or dollars >= 1_000:
        return money(dollars, 0)
    return money(dollars, 4 if dollars < 0.1 else 2)
