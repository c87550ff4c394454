"""The setting is a process's own: it must be as it was afterwards, by whichever of its two names it was given."""

from collections.abc import Iterator

import pytest
import torch

from hf_tc.modeling.tf32 import NEWER, tf32_products

SETTINGS = torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("before", [False, True])
def test_inside_alone_also_after_an_error(before: bool) -> None:
    SETTINGS.allow_tf32 = before
    try:
        with tf32_products():
            assert (SETTINGS.fp32_precision == "tf32") if NEWER else SETTINGS.allow_tf32
            raise KeyError
    except KeyError:
        assert SETTINGS.allow_tf32 is before


@pytest.mark.skipif(not NEWER, reason="PyTorch before 2.9 has one name")
@pytest.mark.parametrize("before", ["ieee", "tf32"])
def test_the_newer_name_may_be_set(before: str) -> None:
    """With it set to tf32 the older name cannot be read."""
    SETTINGS.fp32_precision = before
    with tf32_products():
        assert SETTINGS.fp32_precision == "tf32"
    assert SETTINGS.fp32_precision == before


def test_the_last_to_leave_puts_it_back() -> None:
    SETTINGS.allow_tf32 = False
    first, second = tf32_products(), tf32_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (SETTINGS.fp32_precision == "tf32") if NEWER else SETTINGS.allow_tf32
    second.__exit__(None, None, None)
    assert SETTINGS.allow_tf32 is False


@pytest.mark.skipif(not NEWER, reason="PyTorch before 2.9 has one name")
def test_what_is_tf32_for_all_of_pytorch_can_be_taken_back() -> None:
    SETTINGS.fp32_precision = "none"
    torch.backends.fp32_precision = "tf32"
    with tf32_products():
        assert SETTINGS.fp32_precision == "tf32"
    torch.backends.fp32_precision = "ieee"
    assert SETTINGS.fp32_precision == "ieee"
    torch.backends.fp32_precision = "none"
