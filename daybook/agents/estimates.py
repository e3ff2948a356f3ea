"""Estimate of the tokens that the next request to a model will use."""

from __future__ import annotations

from collections.abc import Sequence

from daybook.policies.compression import estimate_tokens

FIRST_OUTPUT_TOKENS = 250
"""Expected number of output tokens of an answer's first request.

For a later request, the estimate is the mean of the earlier requests' output.
"""


def estimated_tokens(
    lengths: Sequence[int],
    answered: Sequence[tuple[int, int]] = (),
    max_tokens: int | None = None,
) -> tuple[int, int]:
    """Return the expected input and output tokens of the next request of an answer.

    ``answered`` has the input and output tokens of each earlier request, by the provider's count;
    ``lengths`` has the number of characters of each text not counted yet.
    """
    counted = sum(answered[-1]) if answered else 0
    outputs = [out for _, out in answered]
    output = -(-sum(outputs) // len(outputs)) if outputs else FIRST_OUTPUT_TOKENS
    return counted + estimate_tokens(lengths), min(output, max_tokens or output)
