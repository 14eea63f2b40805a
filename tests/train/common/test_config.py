import dataclasses
import json

import pytest

from tests.train.tiny import change
from train import ae, cvae, ddpm, vae
from train.common import config
from train.common.errors import UserError

DATA = {"name": "digits", "num_examples": 1797, "shape": (8, 8, 1), "fingerprint": "abc"}


def configured(sampler="ddim", **job):
    return change(ddpm.DIGITS, sampler=sampler, **job)


def claim(folder, changed=None, data=DATA, recipe="ddpm"):
    changed = configured() if changed is None else changed
    description = config.describe(recipe, changed, data)
    config.check(folder, description, changed)
    config.write(folder, description)


@pytest.fixture
def run(tmp_path):
    """A run folder with a checkpoint."""
    claim(tmp_path)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    return tmp_path


def test_the_same_configuration_may_go_on(run):
    claim(run)
    assert config.read(run)["config"]["job"]["dataset"] == "digits"


def test_more_steps_other_pictures_another_accelerator_and_more_devices_may_go_on(run):
    claim(run, configured("ancestral", steps=99, accelerator="cpu", devices=4, max_hours=1.0, checkpoint_every=7))
    assert config.read(run)["config"]["job"]["steps"] == 99


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 7}, "--batch-size was 64 and is now 7"),
        ({"seed": 1}, "--seed was 0 and is now 1"),
        ({"log_every": 3}, "--log-every"),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_is_written(run, change, said):
    before = (run / "config.json").read_bytes()
    with pytest.raises(UserError, match=said):
        claim(run, configured(**change))
    assert (run / "config.json").read_bytes() == before


def test_a_run_that_never_saved_may_start_again_with_other_settings(tmp_path):
    claim(tmp_path)
    claim(tmp_path, configured(batch_size=8))
    assert config.read(tmp_path)["config"]["job"]["batch_size"] == 8


def test_other_data_under_the_same_name_are_refused(run):
    with pytest.raises(UserError, match="the data's fingerprint was 'abc' and is now 'xyz'"):
        claim(run, data={**DATA, "fingerprint": "xyz"})


def test_the_folder_of_another_recipe_is_refused(tmp_path):
    claim(tmp_path, recipe="vae")
    with pytest.raises(UserError, match=r"holds a run of train\.vae, not of train\.ddpm"):
        claim(tmp_path)


def test_checkpoints_without_a_configuration_are_not_ours(run):
    (run / "config.json").unlink()
    with pytest.raises(UserError, match="is no run of ours"):
        claim(run)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        claim(tmp_path / "run")


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "unet"}'])
def test_a_folder_without_a_run_and_a_foreign_configuration_are_said(tmp_path, content):
    with pytest.raises(UserError, match=r"no config\.json"):
        config.read(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"cannot be read|somebody else's"):
        config.read(tmp_path)


PRESETS = [(module, name) for module in (ae, cvae, ddpm, vae) for name in module.PRESETS]


@pytest.mark.parametrize(("module", "name"), PRESETS, ids=[f"{m.__name__}-{name}" for m, name in PRESETS])
def test_a_configuration_survives_its_file(module, name):
    preset = module.PRESETS[name]
    values = json.loads(json.dumps(dataclasses.asdict(preset)))
    assert config.dataclass_from(module.Config, values) == preset


@pytest.mark.parametrize("module", [ae, cvae, ddpm, vae])
def test_a_presets_data_set_is_its_own_and_its_run_beside_another_is_a_default_folder(module):
    for name, preset in module.PRESETS.items():
        assert preset.job.dataset == (name if name != "*" else config.Job.dataset)
        assert preset.job.beside in (None, f"runs/vae-{name}")


def test_a_nested_setting_that_changed_is_named_alone(tmp_path):
    before = dataclasses.replace(vae.DIGITS, network=dataclasses.replace(vae.DIGITS.network, latent_dim=3))
    claim(tmp_path, before, recipe="vae")
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match=r"settings: --latent-dim was 3 and is now 2\. Give"):
        claim(tmp_path, vae.DIGITS, recipe="vae")


def test_a_run_from_before_a_flag_existed_goes_on_with_its_default(run):
    written = json.loads((run / "config.json").read_text())
    del written["config"]["job"]["stride"]
    (run / "config.json").write_text(json.dumps(written))
    claim(run)
