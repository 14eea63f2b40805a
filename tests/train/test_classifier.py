"""The judge of samples learns any labelled data set, however small, and is then kept."""

import dataclasses

import jax
import numpy as np
import pytest

from train import classifier
from train.common import data, images

FEW = dataclasses.replace(data.load("digits"), num_examples=12)


def test_a_dozen_images_are_learnt_and_what_was_learnt_is_kept(tmp_path, monkeypatch, capsys):
    assert classifier.WARMUP < classifier.LEAST_STEPS
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in {"BATCH": 12, "WARMUP": 10, "LEAST_STEPS": 150}.items():
        monkeypatch.setattr(classifier, name, value)
    rows = FEW.rows(np.arange(12))
    apply, params = classifier.train(FEW)
    found, features = classifier.judge(apply, params, images.to_unit_range(rows["image"]))
    np.testing.assert_array_equal(found, rows["label"])
    assert features.shape == (12, 128)

    fit = classifier._fit
    monkeypatch.setattr(classifier, "_fit", lambda *_: pytest.fail("it was kept"))
    _, again = classifier.train(FEW)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, again))
    first, second = (line[line.index("classifier /") :] for line in capsys.readouterr().err.strip().splitlines()[-2:])
    assert first == second
    assert first.endswith(classifier.fingerprint(params))

    (kept,) = (tmp_path / "jaxgen").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])  # it is damaged, and learnt once more, though that cannot be kept
    monkeypatch.setattr(classifier, "_fit", fit)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(classifier, "write_atomically", full)
    _, anew = classifier.train(FEW)
    assert classifier.fingerprint(anew) == classifier.fingerprint(params)
