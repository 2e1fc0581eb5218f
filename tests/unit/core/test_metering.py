from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.metering import estimate_tokens, estimate_usage, price
from core.model import Usage

tokens = st.integers(0, 10**9)
prices = st.integers(0, 10**9)


def test_a_price_is_exact_where_floating_point_is_not() -> None:
    usage = Usage(prompt_tokens=10**9 + 1, completion_tokens=3, cached_tokens=7, reasoning_tokens=2)
    assert price(usage, 999_999_937, 2) == (10**9 + 1) * 999_999_937 + 6


@given(tokens, tokens, tokens, tokens, prices, prices)
def test_the_price_of_a_sum_is_the_sum_of_the_prices(a: int, b: int, c: int, d: int, of_in: int, of_out: int) -> None:
    parts = price(Usage(a, b), of_in, of_out) + price(Usage(c, d), of_in, of_out)
    assert price(Usage(a + c, b + d), of_in, of_out) == parts


@given(tokens, tokens, prices, prices)
def test_a_price_never_falls_with_more_tokens(a: int, b: int, of_in: int, of_out: int) -> None:
    less = price(Usage(a, b), of_in, of_out)
    assert 0 <= less <= price(Usage(a + 1, b), of_in, of_out)
    assert less <= price(Usage(a, b + 1), of_in, of_out)


@given(st.text())
def test_an_estimate_covers_every_byte_and_no_token_more(text: str) -> None:
    size, estimate = len(text.encode("utf-8", "surrogatepass")), estimate_tokens(text)
    assert 4 * (estimate - 1) < size <= 4 * estimate


@given(st.lists(st.text(max_size=20), max_size=5), st.text())
def test_an_estimated_usage_says_so_and_frames_each_message(messages: list[str], completion: str) -> None:
    usage = estimate_usage(messages, completion)
    assert usage.estimated
    assert usage.prompt_tokens == sum(map(estimate_tokens, messages)) + 4 * len(messages)
    assert usage.completion_tokens == estimate_tokens(completion)
