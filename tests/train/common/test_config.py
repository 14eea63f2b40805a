import dataclasses
import json

import pytest

from train import ddpm
from train.common import config
from train.common.errors import UserError

DATA = {"name": "digits", "num_examples": 1797, "shape": (8, 8, 1), "fingerprint": "abc"}


def described(data=DATA, **job):
    changed = dataclasses.replace(ddpm.DIGITS, job=dataclasses.replace(ddpm.DIGITS.job, **job))
    return config.describe("ddpm", changed, data)


def test_the_same_configuration_may_go_on(tmp_path):
    config.claim(tmp_path / "run", described())
    config.claim(tmp_path / "run", described())
    assert config.read(tmp_path / "run")["config"]["job"]["dataset"] == "digits"


def test_more_steps_another_accelerator_and_more_devices_may_go_on(tmp_path):
    config.claim(tmp_path, described())
    config.claim(tmp_path, described(steps=99, accelerator="cpu", devices=4, max_hours=1.0, checkpoint_every=7))
    assert config.read(tmp_path)["config"]["job"]["steps"] == 99


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 7}, "--batch-size was 64 and is now 7"),
        ({"seed": 1}, "--seed was 0 and is now 1"),
        ({"log_every": 3}, "--log-every"),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_is_written(tmp_path, change, said):
    config.claim(tmp_path, described())
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=said):
        config.claim(tmp_path, described(**change))
    assert (tmp_path / "config.json").read_bytes() == before


def test_other_data_under_the_same_name_are_refused(tmp_path):
    config.claim(tmp_path, described())
    with pytest.raises(UserError, match="the data's fingerprint was 'abc' and is now 'xyz'"):
        config.claim(tmp_path, described({**DATA, "fingerprint": "xyz"}))


def test_the_folder_of_another_recipe_is_refused(tmp_path):
    config.claim(tmp_path, {**described(), "recipe": "vae"})
    with pytest.raises(UserError, match=r"holds a run of train\.vae, not of train\.ddpm"):
        config.claim(tmp_path, described())


def test_checkpoints_without_a_configuration_are_not_ours(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(UserError, match="is no run of ours"):
        config.claim(tmp_path, described())


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is no run of ours"):
        config.claim(tmp_path / "run", described())


def test_a_folder_without_a_run_and_a_broken_configuration_are_said(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        config.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        config.read(tmp_path)


@pytest.mark.parametrize("preset", ddpm.PRESETS.values(), ids=ddpm.PRESETS)
def test_a_configuration_survives_its_file(preset):
    values = json.loads(json.dumps(dataclasses.asdict(preset)))
    assert config.dataclass_from(ddpm.Config, values) == preset
