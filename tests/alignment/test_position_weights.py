"""Known weights of blocks whose octaves can be counted by hand."""

import pytest
import torch

from hf_tc.alignment.position_weights import position_weights


@pytest.mark.parametrize(
    "expected",
    [
        [1],  # one token, one octave
        [1, 1],
        [7 / 6, 7 / 6, 5 / 6, 5 / 6],  # octaves of 1, 1 and 2 tokens: 4 / 3, 4 / 3, 2 / 3, half of it
        [9 / 8, 9 / 8, 13 / 16, 13 / 16, 9 / 8],  # the last octave is cut off: it is a whole one all the same
    ],
    ids=len,
)
def test_half_by_token_and_half_by_octave(expected: list[float]) -> None:
    torch.testing.assert_close(position_weights(len(expected)), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("length", [3, 64, 65, 500, 4097])
def test_octaves_weigh_alike_and_the_mean_is_1(length: int) -> None:
    weights = position_weights(length)
    by_octave = 2 * weights - 1
    ends = [1, *(2**k for k in range(1, 14) if 2**k < length), length]
    sums = [by_octave[start:end].sum() for start, end in zip([0, *ends], ends, strict=False)]
    torch.testing.assert_close(torch.stack(sums), torch.full((len(ends),), length / len(ends)))
    assert weights.mean().item() == pytest.approx(1)
