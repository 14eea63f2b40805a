import math

import pytest

from train.common.errors import UserError, check_ranges, in_words, one_line


def test_values_within_their_bounds_and_on_them_are_accepted():
    check_ranges(("beta", 0, 0, math.inf), ("decay", 1.0, 0.0, 1.0), ("width", 10**9, 1, math.inf))


@pytest.mark.parametrize("value", [-0.001, 1.001, math.inf, -math.inf, math.nan])
def test_the_first_value_out_of_bounds_is_named_as_a_flag(value):
    with pytest.raises(UserError, match=f"^--ema-decay must lie between 0 and 1; got {value}$"):
        check_ranges(("beta", 1, 0, 2), ("ema-decay", value, 0, 1), ("width", -1, 1, 2))


def test_what_the_library_refuses_is_the_users_to_mend_and_other_errors_are_not():
    with pytest.raises(UserError, match="got 3") as raised, in_words():
        raise ValueError("betas lie in (0, 1); got 3")
    assert isinstance(raised.value.__cause__, ValueError)
    with pytest.raises(KeyError), in_words():
        raise KeyError("mean")


def test_an_exception_is_told_in_one_line_that_is_not_too_long():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 1000))) == 300
