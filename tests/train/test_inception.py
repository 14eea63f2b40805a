"""The FID is that of pytorch-fid's network on the same file; it stands in a run's list only for who gives the file."""

import hashlib
import json
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn

from tests.train.tiny import save_run
from train import comparison, evaluate, inception
from train.common import config, data, images, quality
from train.common.errors import UserError
from train.evaluate import Options


class Quarters(nn.Module):
    """In the place of the network: the mean of each quarter of a picture, and a parameter."""

    @nn.compact
    def __call__(self, x):
        b = len(x)
        quarters = x[:, :298, :298, 0].reshape(b, 2, 149, 2, 149).mean(axis=(2, 4))
        return quarters.reshape(b, 4) + self.param("bias", nn.initializers.zeros_init(), (1, 4))


@pytest.fixture
def quarters(monkeypatch):
    monkeypatch.setattr(inception.network, "Inception", Quarters)
    monkeypatch.setattr(inception, "AT_ONCE", 3)
    return inception._features({"bias": np.ones((1, 4), np.float32)}, jax.devices()[:2])


@pytest.fixture
def pixels(monkeypatch):
    """In the place of the file: the pixels are the features."""

    def features(x):
        return np.asarray(x).reshape(len(x), -1)

    monkeypatch.setattr(inception, "load", lambda path, on: inception.Loaded(features, "1a2b"))
    return features


@pytest.fixture
def unlabelled(tmp_path, monkeypatch):
    """A run whose data have no labels."""
    load = data.load
    monkeypatch.setattr(data, "load", lambda *given, **how: replace(load(*given, **how), class_names=()))
    save_run(tmp_path, "gan")
    return tmp_path


def entries(folder):
    return json.loads((folder / "evaluations.json").read_text())


def test_images_are_seen_in_batches_on_all_devices_as_files_would_hold_them(quarters):
    x = np.random.default_rng(0).uniform(-1.2, 1.2, (13, 2, 2, 1)).astype(np.float32)
    seen = quarters(x)
    assert seen.dtype == np.float32
    levels = np.round(127.5 * (x.clip(-1, 1) + 1)) / 127.5 - 1
    expected = (
        inception.network.prepare(levels)[:, :298, :298, 0].reshape(13, 2, 149, 2, 149).mean((2, 4)).reshape(13, 4)
    )
    np.testing.assert_allclose(seen, expected + 1, atol=1e-5)


def test_the_fid_of_a_set_with_itself_is_0_also_of_fewer_images_than_features():
    x = np.abs(np.random.default_rng(0).normal(size=(50, 200))).astype(np.float32)
    np.testing.assert_allclose(quality.frechet_distance(x, x[::-1]), 0, atol=1e-5)


def test_the_fid_of_training_images_is_0_and_that_of_others_is_the_floor(unlabelled, pixels):
    source = data.load("digits")
    copies = images.to_unit_range(source.rows(data.indices(0, 0, 300, len(source)))["image"])
    found = comparison.compare(unlabelled, config.read(unlabelled), lambda num: copies, 300, None, pixels)
    assert {name: list(estimates) for name, estimates in found.items()} == {
        "samples": ["fid"],
        "other training images": ["fid"],
    }
    np.testing.assert_allclose(found["samples"]["fid"]["mean"], 0, atol=1e-4)
    others = images.to_unit_range(source.rows(data.indices(0, 0, 600, len(source))[300:])["image"])
    floor = quality.frechet_distance(pixels(others), pixels(copies))
    assert found["other training images"]["fid"]["mean"] == pytest.approx(floor, rel=1e-6)
    assert floor > 0.1


def test_it_is_entered_with_the_files_sha256_and_shown_in_the_report(unlabelled, pixels, tmp_path, capsys):
    assert evaluate.main(Options(unlabelled, compare=20, inception_weights=tmp_path, accelerator="cpu")) == 0
    samples, others = entries(unlabelled)
    about = {"seed": 0, "num_images": 20, "step": 7, "inception_sha256": "1a2b"}
    assert samples == {"split": "samples", **about, "estimates": {"fid": samples["estimates"]["fid"]}}
    assert others["split"] == "other training images"
    assert f"fid                {samples['estimates']['fid']['mean']:.4f}" in capsys.readouterr().out
    report = (unlabelled / "report.html").read_text()
    assert "<th>FID</th>" in report
    assert "in the features of Inception" in report


def test_data_with_labels_are_compared_by_both(tmp_path, pixels, monkeypatch):
    save_run(tmp_path, "gan")
    monkeypatch.setattr(
        comparison, "_judged", lambda run, judge, reference, sets, classes: {name: {"a": 1} for name in sets}
    )
    monkeypatch.setattr("train.classifier.train", lambda source: (None, None))
    found = comparison.compare(tmp_path, config.read(tmp_path), lambda num: np.zeros((num, 8, 8, 1)), 20, None, pixels)
    assert [list(estimates) for estimates in found.values()] == [["a", "fid"]] * 2


def test_points_have_no_fid(unlabelled, pixels):
    description = config.read(unlabelled)
    description["data"]["shape"] = [2]
    with pytest.raises(UserError, match="is a run on digits, which are points; only images are compared"):
        comparison.compare(unlabelled, description, None, 20, None, pixels)


def test_weights_are_for_a_comparison(tmp_path):
    with pytest.raises(UserError, match="--inception-weights is for the FID of samples; .*: --compare 10000"):
        evaluate.evaluate(Options(tmp_path, inception_weights=tmp_path))


def test_a_pickle_is_refused_and_converted_by_the_line_that_it_is_told(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install -r tests/bench/requirements.txt")
    pytest.importorskip("safetensors.torch")
    path = tmp_path / "inception.pth"
    torch.save({"fc.bias": torch.arange(3.0)}, path)
    with pytest.raises(
        UserError, match="is pickled: loading such a file can run any code its author put there"
    ) as raised:
        inception.load(path, jax.devices()[:1])
    line = re.search('python -c "(.*)"$', str(raised.value))[1]
    exec(line, {})
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "inception.safetensors")["fc.bias"], range(3))


def test_what_is_no_file_of_these_weights_is_said(tmp_path):
    path = tmp_path / "inception.safetensors"
    with pytest.raises(UserError, match=f"there is no file {path}"):
        inception.load(path, jax.devices()[:1])
    path.write_bytes(b"PK\x03\x04 as torch.save begins")
    with pytest.raises(UserError, match="is not safetensors: .*; if it is pickled, if you trust it, convert it once"):
        inception.load(path, jax.devices()[:1])
    safetensors.numpy.save_file({"fc.bias": np.zeros(1000, np.float32)}, path)
    with pytest.raises(
        UserError, match=r"inception\.safetensors: the tensors are not those of the FID's Inception: 471 missing"
    ):
        inception.load(path, jax.devices()[:1])


@pytest.mark.slow
def test_the_features_are_those_of_pytorch_fid(tmp_path, monkeypatch, capsys):
    """Its own network, with its own resizing, loads the very tensors of our file, strictly."""
    torch = pytest.importorskip("torch", reason="pip install -r tests/bench/requirements.txt")
    peer = pytest.importorskip("pytorch_fid.inception", reason="pip install pytorch-fid")
    state = {}

    def randomised(*_, **__):
        bare = peer._inception_v3(num_classes=1008, aux_logits=False, weights=None)
        generator = torch.Generator().manual_seed(0)
        for name, tensor in bare.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith(("running_var", "bn.weight")):
                noise = 0.5 + noise.abs()
            elif name.endswith("conv.weight"):
                noise *= (2 / tensor[0].numel()) ** 0.5
            state[name] = noise if tensor.dtype == torch.float32 else tensor
        return state

    monkeypatch.setattr(peer, "load_state_dict_from_url", randomised)
    theirs = peer.InceptionV3().eval()
    path = tmp_path / "inception.safetensors"
    safetensors.numpy.save_file({name: tensor.numpy() for name, tensor in state.items()}, path)
    monkeypatch.setattr(inception, "AT_ONCE", 2)
    loaded = inception.load(path, jax.devices()[:1])
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"sha256 {loaded.sha256}" in capsys.readouterr().err
    levels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    levels //= np.array([1, 3, 9], np.uint8)[:, None, None, None]  # far apart: what is compared is how features differ
    with torch.no_grad():
        expected = theirs(torch.from_numpy(levels.transpose(0, 3, 1, 2) / np.float32(255)))[0][:, :, 0, 0].numpy()
    seen = loaded.features(np.asarray(images.to_unit_range(levels)))
    assert expected.shape == (3, 2048)
    assert (expected.std(axis=0) > 0).mean() > 0.3
    error = np.linalg.norm(seen - expected, axis=1) / np.linalg.norm(expected - expected.mean(axis=0), axis=1)
    assert error.max() < 1e-4
