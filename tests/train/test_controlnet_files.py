"""Controls that come as files: a second folder beside the data's, or a picture to draw of."""

import numpy as np
import pytest
from PIL import Image

from tests.train.tiny import CONTROLNET, change, described, save_run
from train import controlnet
from train.common import config, data
from train.common.errors import UserError
from train.conditions import Condition
from train.sample import Options, sample


def write(folder, names, size=(8, 8), mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new(mode, size, (20 * i + 10) if mode == "L" else (20 * i + 10,) * 3).save(folder / name)
    return str(folder)


def test_a_second_folder_gives_each_picture_the_control_of_its_name(tmp_path):
    pictures = write(tmp_path / "pictures", ["a.png", "b.png", "c.png"], mode="RGB")
    hints = write(tmp_path / "hints", ["0.png", "a.bmp", "b.bmp", "c.bmp"])
    settings = change(CONTROLNET, dataset=f"folder:{pictures}", control_folder=hints)
    source = controlnet.furnish(settings, data.load(settings.job.dataset), {})
    rows = source.rows(np.array([2, 0]))
    assert rows["control"].shape == (2, 8, 8, 3)
    assert rows["control"][:, 0, 0].tolist() == [[70] * 3, [30] * 3]
    plain = controlnet.furnish(change(settings, control_folder=None), data.load(settings.job.dataset), {})
    assert plain.fingerprint != source.fingerprint
    write(tmp_path / "hints", ["a.bmp"])
    assert controlnet.furnish(settings, data.load(settings.job.dataset), {}).fingerprint != source.fingerprint


def test_a_second_folder_that_does_not_fit_is_refused_with_the_names_of_the_files(tmp_path):
    names = [f"{letter}.png" for letter in "abcdefgh"]
    pictures = write(tmp_path / "pictures", names)

    def furnish(hints, **values):
        settings = change(CONTROLNET, **{"dataset": f"folder:{pictures}", "control_folder": hints, **values})
        return controlnet.furnish(settings, data.load(settings.job.dataset, image_size=settings.job.image_size), {})

    few = write(tmp_path / "few", names[:1])
    with pytest.raises(UserError, match=r"no pictures of the same names as b\.png, .*, f\.png and 2 more in"):
        furnish(few)
    small = write(tmp_path / "small", names, size=(4, 8))
    with pytest.raises(
        UserError, match=r"small' have 4x8 pixels, and those in .*pictures' 8x8; they must be of one size"
    ):
        furnish(small)
    assert furnish(small, image_size=4).rows(np.arange(2))["control"].shape == (2, 4, 4, 1)
    with pytest.raises(UserError, match="goes with one of --dataset folder:PATH; got --dataset digits"):
        furnish(few, dataset="digits")


@pytest.mark.slow
def test_images_are_drawn_of_a_picture_of_the_control_or_of_the_runs_own_data_and_of_a_label(tmp_path):
    write(tmp_path, ["control.png", "other.png"])
    for name in ("controlnet", "guided_controlnet"):
        save_run(tmp_path / name, name)

    def draw(out, name="controlnet", **options):
        written = sample(
            Options(tmp_path / name, num=3, separate=True, accelerator="cpu", out=tmp_path / out, **options)
        )
        return np.stack([np.asarray(Image.open(path)) for path in written])

    of_data, first, again, other = (
        draw(str(i), condition=Condition(control=control and tmp_path / control))
        for i, control in enumerate([None, "control.png", "control.png", "other.png"])
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != of_data).any()
    threes, fours = (
        draw(f"label{i}", "guided_controlnet", label=i, condition=Condition(control=tmp_path / "control.png"))
        for i in (3, 4)
    )
    assert (threes != fours).any()


def test_a_control_that_does_not_fit_the_run_is_refused_in_words(tmp_path):
    write(tmp_path, ["control.png"], size=(16, 8))
    for name in ("controlnet", "guided_controlnet", "ddpm"):
        config.write(tmp_path / name, described(name, data.load("digits")))

    def refuse(said, name="controlnet", **options):
        with pytest.raises(UserError, match=said):
            sample(Options(tmp_path / name, accelerator="cpu", **options))

    refuse(
        r"control\.png has 16x8 pixels, and the model's images 8x8",
        condition=Condition(control=tmp_path / "control.png"),
    )
    refuse(r"nowhere\.png cannot be read as a picture", condition=Condition(control=tmp_path / "nowhere.png"))
    refuse(
        r"--control is for runs of train\.controlnet; .* train\.ddpm",
        "ddpm",
        condition=Condition(control=tmp_path / "control.png"),
    )
    refuse("--label is for runs of .*knows no labels", label=3)
    refuse("--label must lie between 0 and 9", "guided_controlnet", label=10)
