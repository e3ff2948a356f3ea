"""US dollars as text."""

from __future__ import annotations

import pytest

from daybook.money_text import COST_PLACES, money, rounded_money


@pytest.mark.parametrize(
    ("dollars", "exact", "in_a_column", "rounded"),
    [
        (0, "$0", "$0.0000", "$0"),
        (2, "$2", "$2.0000", "$2.00"),
        (2.5, "$2.50", "$2.5000", "$2.50"),
        (1_234.5, "$1,234.50", "$1,234.5000", "$1,234"),
        (0.00001, "$0.000010", "$0.0000", "< $0.0001"),
        (0.000018, "$0.000018", "$0.0000", "< $0.0001"),
        (0.1 + 0.2, "$0.30", "$0.3000", "$0.30"),
        (0.0125 + 1e-17, "$0.0125", "$0.0125", "$0.0125"),
    ],
)
def test_money_has_three_forms(dollars: float, exact: str, in_a_column: str, rounded: str) -> None:
    assert money(dollars) == exact
    assert money(dollars, COST_PLACES) == in_a_column
    assert rounded_money(dollars) == rounded
