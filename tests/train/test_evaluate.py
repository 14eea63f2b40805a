"""An evaluation stopped anywhere ends with the numbers of one that was not; what cannot be evaluated is refused in words."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.train.tiny import save_run
from train import classifier, comparison
from train import evaluate as command
from train.common import config, data, gallery, images
from train.common.errors import UserError
from train.evaluate import Options, main

SETTINGS = {"samples": 3, "split": "train", "num": 11, "batch_size": 4, "accelerator": "cpu"}
PARTIAL = "3-train-0-4-11-7.jsonl"


def evaluate(options):
    """The likelihood's estimates."""
    return command.evaluate(options)[options.split]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was evaluated, and what came out."""
    folder = tmp_path_factory.mktemp("vae")
    save_run(folder, "vae")
    return folder, evaluate(Options(folder, **SETTINGS))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to spoil."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def rows(folder):
    return [json.loads(line) for line in (folder / "evaluations" / PARTIAL).read_text().splitlines()]


def entries(folder):
    return json.loads((folder / "evaluations.json").read_text())


def test_an_estimate_is_the_mean_over_the_images_with_its_standard_error(finished):
    folder, estimates = finished
    batches = rows(folder)[1:]
    assert [len(batch["nll"]) for batch in batches] == [4, 4, 3]
    for name in ("nll", "negative_elbo"):
        values = np.concatenate([batch[name] for batch in batches])
        assert len(np.unique(values)) == 11
        expected = {"mean": values.mean(), "standard_error": values.std(ddof=1) / np.sqrt(11)}
        assert estimates[name] == pytest.approx(expected, rel=1e-6)
    bits = {part: value / (64 * np.log(2)) for part, value in estimates["nll"].items()}
    assert estimates["bits_per_dim"] == pytest.approx(bits, rel=1e-6)
    assert estimates["nll"]["mean"] <= estimates["negative_elbo"]["mean"]


def test_it_is_entered_into_the_runs_list_and_shown_in_its_report(finished):
    folder, estimates = finished
    about = {"samples": 3, "split": "train", "seed": 0, "batch_size": 4, "num_images": 11, "step": 7}
    assert entries(folder) == [{**about, "estimates": estimates}]
    assert "NLL (nats)" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "keep",
    [
        lambda text: "",
        lambda text: text[:30],
        lambda text: text[: text.index("\n") + 1],
        lambda text: text[: text.index('"negative_elbo"')],
        lambda text: text[: len(text) * 3 // 4],
        lambda text: text[:-1],
    ],
    ids=["nothing", "half-a-header", "a-header", "half-a-row", "some-rows", "all-but-a-newline"],
)
def test_stopped_anywhere_it_goes_on_and_ends_with_the_same_numbers(finished, run, keep):
    path = run / "evaluations" / PARTIAL
    whole = path.read_text()
    path.write_text(keep(whole))
    (run / "evaluations.json").unlink()
    assert evaluate(Options(run, **SETTINGS)) == finished[1]
    assert path.read_text() == whole
    assert entries(run) == entries(finished[0])


def test_done_once_it_is_read_and_not_computed_again_and_entered_once(finished, run, monkeypatch):
    monkeypatch.setattr(gallery, "drawer", lambda *_, convolutions: pytest.fail)
    assert evaluate(Options(run, **SETTINGS)) == finished[1]
    assert len(entries(run)) == 1


def test_all_images_in_one_batch_on_8_devices_are_seen_as_well_as_the_first_so_many(finished, run):
    """Another batch size draws other codes, the number of devices does not; more images than there are is all."""
    eight = evaluate(Options(run, **{**SETTINGS, "batch_size": 16, "devices": 8}))
    shutil.rmtree(run / "evaluations")
    one = evaluate(Options(run, **{**SETTINGS, "batch_size": 16}))
    for name, found in one.items():
        assert eight[name] == pytest.approx(found, rel=1e-4)
    assert one["nll"]["mean"] != finished[1]["nll"]["mean"]
    assert [entry["batch_size"] for entry in entries(run)] == [4, 16]


def test_other_settings_make_another_entry_and_steps_are_in_order(run):
    save_run(run, "vae", seed=1, number=5)
    shutil.rmtree(run / "checkpoints" / "7")
    evaluate(Options(run, **{**SETTINGS, "num": 1, "seed": 3}))
    found = entries(run)
    assert [(entry["step"], entry["seed"], entry["num_images"]) for entry in found] == [(5, 3, 1), (7, 0, 11)]
    assert found[0]["estimates"]["nll"]["standard_error"] == float("inf")


def test_numbers_of_other_parameters_are_not_mixed_in(run):
    shutil.rmtree(run / "checkpoints")
    save_run(run, "vae", seed=1)
    before = (run / "evaluations" / PARTIAL).read_bytes()
    with pytest.raises(UserError, match=f"{PARTIAL} was made from other parameters or images; move it away"):
        evaluate(Options(run, **SETTINGS))
    assert (run / "evaluations" / PARTIAL).read_bytes() == before


@pytest.mark.parametrize("damaged", ["[{", "null", "[1]", "[{}]"])
def test_a_damaged_list_is_not_overwritten(run, damaged):
    (run / "evaluations.json").write_text(damaged)
    with pytest.raises(UserError, match=r"evaluations\.json is damaged; move it away"):
        evaluate(Options(run, **SETTINGS))
    assert (run / "evaluations.json").read_text() == damaged


def test_the_command_says_every_estimate_with_its_error(finished, run, capsys):
    assert main(Options(run, **SETTINGS)) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    nll = finished[1]["nll"]
    assert said["nll"] == f"{nll['mean']:.4f} +- {nll['standard_error']:.4f}"
    assert said.keys() == {"nll", "negative_elbo", "bits_per_dim"}


@pytest.mark.parametrize("name", ["ae", "gan"])
def test_a_model_without_a_likelihood_is_refused(tmp_path, name):
    save_run(tmp_path, name)
    said = rf"is a run of train\.{name}, which has no likelihood to evaluate; compare its samples .*: --compare 10000"
    with pytest.raises(UserError, match=said):
        evaluate(Options(tmp_path, **SETTINGS))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": 0}, "--samples must be at least 1; got 0"),
        ({"compare": -1}, "--compare must be at least 0, and finite; got -1"),
        ({"compare": 10_000}, "--compare must lie between 10 and 898, to have as many images of each kind; got 10,000"),
        ({"compare": 9}, "--compare must lie between 10 and 898"),
        ({"num": 0}, "--num must be at least 1; got 0"),
        ({"seed": 2**32}, "--seed must lie between 0 and 4294967295; got 4294967296"),
        ({"batch_size": -1}, "--batch-size must be at least 1; got -1"),
        ({"split": "test"}, "digits has one split, 'train'; got 'test'"),
    ],
)
def test_what_cannot_be_evaluated_is_said(finished, change, said):
    with pytest.raises(UserError, match=said):
        evaluate(Options(finished[0], **{**SETTINGS, **change}))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        evaluate(Options(tmp_path, **SETTINGS))


@pytest.fixture
def features(monkeypatch):
    """In the place of the classifier: the pixels are the features, and the brightest row is the class."""
    monkeypatch.setattr(classifier, "train", lambda source: (None, None))
    monkeypatch.setattr(
        classifier, "judge", lambda apply, params, x: (x.mean((2, 3)).argmax(1), np.asarray(x).reshape(len(x), -1))
    )


def test_samples_are_compared_with_the_data_beside_what_real_images_get(tmp_path, features, capsys):
    save_run(tmp_path, "gan")
    assert main(Options(tmp_path, compare=100, accelerator="cpu")) == 0
    said = capsys.readouterr().out
    found = {entry["split"]: entry["estimates"] for entry in entries(tmp_path)}
    assert list(found) == ["samples", "other training images"]  # digits have no others
    real = found["other training images"]
    assert real["frechet_distance"]["mean"] < 0.5 * found["samples"]["frechet_distance"]["mean"]
    assert abs(real["kernel_distance"]["mean"]) < 4 * real["kernel_distance"]["standard_error"]
    for name in ("precision", "recall", "density", "coverage"):
        assert real[name]["mean"] > 0.6
    assert found["samples"]["precision"]["mean"] < 0.1
    assert f"frechet_distance   {real['frechet_distance']['mean']:.4f}" in said
    assert "Fréchet distance" in (tmp_path / "report.html").read_text()
    with Image.open(tmp_path / "samples" / "neighbours.png") as picture:
        assert picture.size[0] > 100


def test_of_training_images_the_nearest_training_images_are_themselves(tmp_path, features):
    save_run(tmp_path, "gan")
    source = data.load("digits")
    copies = images.to_unit_range(source.rows(data.indices(0, 0, 50, len(source)))["image"])
    description = config.read(tmp_path)
    found = comparison.compare(tmp_path, description, lambda num: copies, 50, None)
    np.testing.assert_allclose(found["samples"]["nearest_distance"]["mean"], 0, atol=1e-3)
    assert found["other training images"]["nearest_distance"]["mean"] > 1


def test_data_without_labels_have_no_classifier(tmp_path):
    save_run(tmp_path, "gan")
    description = config.read(tmp_path)
    description["data"]["num_classes"] = 0
    with pytest.raises(UserError, match="by a classifier of their labels, and these have none"):
        comparison.compare(tmp_path, description, None, 10, None)
