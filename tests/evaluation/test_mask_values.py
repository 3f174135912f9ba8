"""The option --mask-values."""

from __future__ import annotations

import pytest

from bids_msseg.errors import UsageError
from bids_msseg.evaluation.mask_values import read_option
from bids_msseg.lesions.mask_values import MaskValues


@pytest.mark.parametrize(
    ("words", "values"),
    [(["any"], None), (["1"], (1,)), (["7", "5", "7"], (5, 7)), (["255"], (255,))],
)
def test_read_option_parses_mask_values(words: list[str], values: MaskValues) -> None:
    assert read_option(words) == values


@pytest.mark.parametrize("words", [["0"], ["-1"], ["all"], ["any", "1"], ["1.5"], ["1,5"]])
def test_invalid_mask_values_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        read_option(words)
