"""A learnt tokenizer knows its texts by few tokens and any other text by its bytes, and describes itself as JSON."""

import json

import numpy as np
import pytest

from train.common import tokenizer

TEXTS = [f"a handwritten {name}" for name in ("zero", "one", "two", "three", "four", "five", "six", "seven")]


@pytest.fixture(scope="module")
def learnt():
    return tokenizer.learn(TEXTS, 400, 16)


def test_a_text_is_begin_its_tokens_end_and_padding(learnt):
    ids = learnt.encode(["a handwritten six", ""])
    assert ids.shape == (2, 16)
    assert ids.dtype == np.int32
    assert (ids[:, 0] == learnt.begin).all()
    for row in ids:
        (end,) = np.flatnonzero(row == learnt.end)
        assert (row[end + 1 :] == learnt.pad).all()
        assert not np.isin(row[1:end], (learnt.begin, learnt.end, learnt.pad)).any()


def test_texts_that_it_learnt_take_a_token_for_each_word(learnt):
    ids = learnt.encode(TEXTS)
    assert (ids != learnt.pad).sum(axis=1).tolist() == [5] * len(TEXTS)
    assert len(np.unique(ids, axis=0)) == len(TEXTS)


def test_any_text_has_tokens_of_its_own(learnt):
    texts = ["Ein Bär 🐻", "七", "six  ", "SIX", "six"]
    ids = learnt.encode(texts)
    assert len(np.unique(ids[:2], axis=0)) == 2
    np.testing.assert_array_equal(ids[3], ids[4])  # case does not matter


def test_what_does_not_fit_is_cut_and_said(learnt):
    long = "a handwritten " + "six " * 20
    assert learnt.encode([long])[0, -1] == learnt.end
    assert learnt.cut(long) > 0
    assert long.endswith(learnt.rest(long))
    assert learnt.cut("a handwritten six") == 0


def test_it_is_the_same_again_from_its_description_and_from_the_same_texts(learnt):
    again = tokenizer.tokenizer(json.loads(json.dumps(learnt.describe())))
    twin = tokenizer.learn(list(reversed(TEXTS)), 400, 16)
    for other in (again, twin):
        np.testing.assert_array_equal(other.encode([*TEXTS, "new words"]), learnt.encode([*TEXTS, "new words"]))
