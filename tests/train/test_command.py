"""What a person meets at the command line. Nearly every test is a process of its own."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests import compiler
from tests.train.tiny import DDPM_FLAGS, JOB, VAE_FLAGS
from train import ae
from train.common import command, config, data
from train.common.errors import UserError
from train.common.recipe import Basis, Recipe, State

ROOT = Path(__file__).parents[2]
# As in this process.
QUICK = {"JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"], "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def start(module, *arguments, cwd, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | QUICK | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(module, *arguments, cwd, **environment):
    process = start(module, *arguments, cwd=cwd, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def committed(folder):
    return sorted(int(p.parent.name) for p in (folder / "checkpoints").glob("*/commit_success.txt"))


def result(folder):
    """What a finished run has that an interruption must not change: the newest checkpoint's sha256, and the metrics."""
    newest = folder / "checkpoints" / str(committed(folder)[-1]) / "meta"
    meta = next(json.loads(p.read_text()) for p in newest.iterdir() if b"sha256" in p.read_bytes())
    return meta["sha256"], (folder / "metrics.jsonl").read_bytes()


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 12 steps, never interrupted, with the flags of the tiny model."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    status, out, err = run("train.ddpm", "--run", folder, "--steps", 12, *DDPM_FLAGS, cwd=folder.parent)
    assert status == 0, err
    return folder, out + err


def test_help_answers_with_a_second_of_computing_and_shows_the_presets_defaults(tmp_path):
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        status, out, _ = run("train.ddpm", "--dataset", "cifar10", "--help", cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert status == 0
    assert min(seconds) < 1.0
    for flag in ("--run", "--dataset", "--data-dir", "--image-size", "--steps", "--batch-size", "--seed", "--accelerator",
                 "--checkpoint-every", "--sample-every", "--devices", "--max-hours"):  # fmt: skip
        assert flag in out
    assert "800000" in out
    assert "python -m train.ddpm [-h]" in out


def test_a_finished_run_leaves_everything_in_its_folder_and_says_where(finished):
    folder, said = finished
    for name in ("config.json", "metrics.jsonl", "report.html", "samples/step_00000012.png", "samples/denoising.gif"):
        assert (folder / name).stat().st_size > 0
    assert committed(folder)[-1] == 12
    assert str(folder / "report.html") in said
    assert f"python -m train.sample {folder}" in said
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    session = json.loads((folder / "sessions.jsonl").read_text().splitlines()[-1])
    assert session["outcome"] == "finished"
    assert session["seconds_to_first_step"] > 0


def test_the_same_command_after_the_end_changes_no_result(finished):
    folder, _ = finished
    before = result(folder)
    status, _, err = run("train.ddpm", "--run", folder, "--steps", 12, *DDPM_FLAGS, cwd=folder.parent)
    assert status == 0, err
    assert result(folder) == before


@pytest.mark.slow
def test_an_interrupted_run_saves_although_nobody_reads_what_it_says_any_more(tmp_path):
    """As by Ctrl-C of `python -m train.ddpm 2>&1 | tee log`, which ends `tee` too."""
    folder = tmp_path / "run"
    process = start("train.ddpm", "--run", folder, *DDPM_FLAGS, "--steps", 1_000_000, cwd=tmp_path)
    wait_for(lambda: len(committed(folder)) > 0, process)
    process.stderr.close()
    process.stdout.close()
    done = committed(folder)[-1]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert committed(folder)[-1] >= done
    session = json.loads((folder / "sessions.jsonl").read_text().splitlines()[-1])
    assert session["outcome"] == "interrupted"
    assert session["saved"] == committed(folder)[-1]


def test_a_run_that_was_never_saved_begins_anew_on_what_it_stands_on(tmp_path):
    """There is no copy yet of the parameters that its first start was given."""

    def recipe(config, shape, num_classes, about):
        def init(key, given=None):
            return State(jnp.zeros((), jnp.int32), {"w": jnp.ones(()) if given is None else given["w"]}, {}, {}, key)

        def step(state, batch, key):
            return state._replace(step=state.step + 1), {"loss": state.params["w"]}

        return Recipe(init, step, lambda state, batch, key: batch["image"] / 255.0, {})

    def prepare(config, source, begun):
        return source, Basis({"unit": 7}, lambda: {"w": np.float32(42)}) if begun is None else Basis(begun)

    settings = ae.Config(job=replace(JOB, run=str(tmp_path), accelerator="cpu", log_every=1, steps=2))
    description = config.describe("toy", settings, data.load("digits").describe(), {"unit": 7})
    config.write(tmp_path, description)  # all that a run killed before its first checkpoint leaves
    for steps in (2, 3):
        going_on = replace(settings, job=replace(settings.job, steps=steps))
        assert command.main("toy", going_on, recipe, prepare=prepare) == 0
        assert losses(tmp_path) == [42.0] * steps
    assert command.begun("toy", tmp_path)["basis"] == {"unit": 7}
    assert command.begun("vae", tmp_path) == {}


def test_samples_are_drawn_from_a_finished_run(finished, tmp_path):
    folder, _ = finished
    grid = ("--num", 6, "--sampler", "ddim", "--steps", 3, "--out", tmp_path)
    status, out, err = run("train.sample", folder, *grid, "--accelerator", "cpu", cwd=tmp_path)
    assert status == 0, err
    assert Image.open(out.strip()).size[0] > 50
    status, _, err = run("train.sample", folder, "--num", 3, "--separate", "--out", tmp_path / "each", cwd=tmp_path)
    assert status == 0, err
    assert [Image.open(p).size for p in sorted((tmp_path / "each").iterdir())] == [(8, 8)] * 3


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_bits_of_one_that_was_not(finished, tmp_path):
    """kill -9 at moments of all kinds: before the first step, between checkpoints, in the middle of writing one."""
    straight, _ = finished
    folder = tmp_path / "run"
    command = ("train.ddpm", "--run", folder, "--steps", 12, *DDPM_FLAGS, "--checkpoint-every", 1)
    first = start(*command, cwd=tmp_path)
    wait_for((folder / "config.json").exists, first)
    first.kill()
    first.communicate()
    kills = 0
    for pause in (0.0, 0.03, 0.11, 0.0, 0.2):
        done = len(committed(folder)) and committed(folder)[-1]
        process = start(*command, cwd=tmp_path)
        wait_for(lambda done=done: process.poll() is not None or committed(folder)[-1:] > [done], process)  # noqa: B023
        time.sleep(pause)
        kills += process.poll() is None
        process.kill()
        process.communicate()
    assert kills >= 3
    status, _, err = run(*command, cwd=tmp_path)
    assert status == 0, err
    assert result(folder) == result(straight)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["flip", "truncate"])
def test_after_damage_to_the_newest_checkpoint_a_run_still_ends_with_the_same_bits(finished, tmp_path, harm):
    straight, _ = finished
    folder = tmp_path / "run"
    command = ("train.ddpm", "--run", folder, *DDPM_FLAGS, "--checkpoint-every", 3, "--steps")
    assert run(*command, 8, cwd=tmp_path)[0] == 0
    for path in (folder / "checkpoints" / "8" / "state").rglob("d/*"):
        content = bytearray(path.read_bytes())
        if harm == "flip":
            content[len(content) // 2] ^= 1
        else:
            content = content[: len(content) // 2]
        path.write_bytes(content)
    status, _, err = run(*command, 12, cwd=tmp_path)
    assert status == 0, err
    assert "the checkpoint of step 8 is damaged" in err
    assert "going on from step 6" in err
    assert result(folder) == result(straight)


def test_without_a_sound_checkpoint_a_run_stops_and_overwrites_nothing(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    for path in folder.glob("checkpoints/*/state/**/d/*"):
        path.write_bytes(path.read_bytes()[:-1])
    before = contents(folder)
    status, _, err = run("train.ddpm", "--run", folder, *DDPM_FLAGS, "--steps", 20, cwd=tmp_path)
    assert status == 1
    assert "error: no checkpoint in" in err
    assert "Traceback" not in err
    assert contents(folder) == before


def test_a_run_that_lost_its_checkpoints_stops_and_overwrites_nothing(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("commit_success.txt"))
    before = contents(folder)
    status, _, err = run("train.ddpm", "--run", folder, *DDPM_FLAGS, "--steps", 20, cwd=tmp_path)
    assert status == 1
    assert "had a checkpoint of step 12, and now has none that is whole" in err
    assert contents(folder) == before


@pytest.mark.slow
def test_a_run_in_strides_ends_with_the_same_bits_wherever_it_was_cut(tmp_path):
    def train(name, *flags):
        status, _, err = run("train.vae", "--run", tmp_path / name, *VAE_FLAGS, *flags, cwd=tmp_path)
        assert status == 0, err
        return tmp_path / name

    straight = train("straight", "--steps", 150)
    assert committed(straight) == [150]
    for steps in (37, 100, 150):
        cut = train("cut", "--steps", steps, "--checkpoint-every", 45)
    assert result(cut) == result(straight)
    assert [row["step"] for row in map(json.loads, (cut / "metrics.jsonl").open())] == list(range(2, 151, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_and_the_run_ends_with_the_same_bits(finished, tmp_path, number, status):
    straight, _ = finished
    folder = tmp_path / "run"
    command = ("train.ddpm", "--run", folder, *DDPM_FLAGS, "--steps")
    process = start(*command, 1_000_000, cwd=tmp_path)
    wait_for(
        lambda: (folder / "sessions.jsonl").exists(), process
    )  # it compiles now, and the first step will be its last
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert "stopping after this step and saving" in err
    assert "The same command goes on from here" in err
    assert committed(folder) == [1]
    assert run(*command, 12, cwd=tmp_path)[0] == 0
    assert result(folder) == result(straight)


@pytest.mark.slow
def test_when_the_hours_are_over_the_run_leaves_with_success(tmp_path):
    folder = tmp_path / "run"
    status, _, err = run(
        "train.ddpm", "--run", folder, *DDPM_FLAGS, "--steps", 1_000_000, "--max-hours", 1e-6, cwd=tmp_path
    )
    assert status == 0, err
    assert "time limit at step 1 of 1000000; saved" in err
    assert committed(folder) == [1]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_keeps_the_newest_sound_checkpoint(tmp_path):
    folder = tmp_path / "run"
    wild = ("--learning-rate", 1e20, "--clip-norm", 1e30, "--steps", 50, "--checkpoint-every", 1, "--warmup-steps", 3)
    status, _, err = run("train.ddpm", "--run", folder, *DDPM_FLAGS, *wild, cwd=tmp_path)
    assert status == 1
    assert "Traceback" not in err
    step = int(err.split(" at step ")[-1].split(".")[0])
    assert committed(folder)[-1] == step - 1


@pytest.mark.slow
def test_two_hosts_train_the_run_of_one(finished, tmp_path):
    """Two processes with two emulated devices each; the losses agree with those of one device to 1e-5."""
    folder = tmp_path / "run"
    flags = ("--run", folder, *DDPM_FLAGS, "--devices", 2, "--checkpoint-every", 4)
    # The second time both hosts go on from what the first one saved, with the other back end.
    for steps, parallel in ((8, "pmap"), (12, "shard_map")):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        together = (
            "--steps",
            steps,
            "--parallel",
            parallel,
            "--coordinator",
            f"localhost:{port}",
            "--num-processes",
            2,
        )
        hosts = [start("train.ddpm", *flags, *together, "--process-id", i, cwd=tmp_path) for i in range(2)]
        for host in hosts:
            _, err = host.communicate(timeout=300)
            assert host.returncode == 0, err
    assert losses(folder) == pytest.approx(losses(finished[0]), rel=1e-5)


@pytest.mark.slow
def test_eight_devices_train_the_run_of_one_and_both_back_ends_since_jax_0_8_the_same_bits(finished, tmp_path):
    results = []
    for parallel in ("pmap", "shard_map"):
        folder = tmp_path / parallel
        flags = ("--run", folder, *DDPM_FLAGS, "--steps", 12, "--devices", 8, "--parallel", parallel)
        status, _, err = run("train.ddpm", *flags, cwd=tmp_path)
        assert status == 0, err
        assert losses(folder) == pytest.approx(losses(finished[0]), rel=1e-5)
        results.append(result(folder))
    if compiler.ONE_BACK_END:
        assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "said"), [(10_000, "the checkpoint of step 14 could not"), (300, "File too large")])
def test_a_full_disk_ends_in_one_clear_line_and_costs_no_earlier_checkpoint(finished, tmp_path, limit, said):
    """A limit on the size of files stands in for the full disk: too little for a checkpoint, or for a row of metrics."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    ended = subprocess.run(
        [sys.executable, "-m", "train.ddpm", "--run", str(folder), *DDPM_FLAGS, "--steps", "14"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "0"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert committed(folder)[-1] == 12
    assert run("train.ddpm", "--run", folder, *DDPM_FLAGS, "--steps", 14, cwd=tmp_path)[0] == 0


@pytest.mark.slow
def test_a_trained_model_is_drawn_from_and_measured_on_the_devices_that_are_asked_for(finished, tmp_path):
    """In a process of its own, which has only the devices that it asks for."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    several = ("--accelerator", "cpu", "--devices", 2)
    drawn = run("train.sample", folder, "--num", 3, *several, cwd=tmp_path)
    assert drawn[0] == 0, drawn[2]
    measured = run("train.evaluate", folder, "--split", "train", "--num", 4, "--samples", 2, *several, cwd=tmp_path)
    assert measured[0] == 0, measured[2]
    missing = run("train.sample", folder, "--accelerator", "tpu", cwd=tmp_path)
    assert (missing[0], missing[2].count("\n")) == (1, 1)
    assert "--accelerator tpu is not available here" in missing[2]


BAD = {
    "hosts that do not know where to meet": (["--num-processes", "2", "--process-id", "1"], "--coordinator HOST:PORT"),
    "seed beyond those of JAX": (["--seed", "4294967296"], "--seed must lie between 0 and 4294967295"),
    "seed below nought": (["--seed", "-1"], "--seed must lie between 0 and 4294967295"),
    "unknown data set": (["--dataset", "mnits"], "mnist"),
    "accelerator that is not there": (["--accelerator", "tpu"], "--accelerator tpu is not available here"),
    "no devices": (["--devices", "0"], "--devices must be at least 1"),
    "pieces that do not divide": (["--pieces", "3"], "the 16 rows of a device do not divide into 3 pieces"),
    "batch not divisible by devices": (["--devices", "2", "--batch-size", "7"], "try --batch-size 6 or 8"),
    "folder that is not there": (["--dataset", "folder:nowhere"], "nowhere"),
    "a chain of no steps": (["--num-timesteps", "0"], "--num-timesteps must be at least 2"),
    "points instead of images": (
        ["--dataset", "ring8"],
        "train.ddpm is for images; train.gan and train.wgan_gp take points",
    ),
    "no training steps": (["--steps", "0"], "--steps must be at least 1"),
    "more sampling steps than the chain has": (["--sample-steps", "50"], "--sample-steps must lie between 1 and 20"),
    "images that do not halve so often": (["--multipliers", "1", "1", "1", "1", "1"], "8x8"),
    "folder without room or permission": (["--run", "/proc/run"], "/proc/run"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_clear_line(case, tmp_path):
    flags, said = BAD[case]
    status, _, err = run("train.ddpm", "--run", tmp_path / "run", *DDPM_FLAGS, *flags, cwd=tmp_path)
    assert status != 0
    assert said in err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_an_empty_folder_and_a_broken_picture_among_good_ones_are_named(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    flags = ("--run", tmp_path / "run", *DDPM_FLAGS, "--dataset", f"folder:{pictures}", "--image-size", 8)
    status, _, err = run("train.ddpm", *flags, cwd=tmp_path)
    assert status == 1
    assert str(pictures) in err
    for i in range(3):
        Image.new("RGB", (8, 8), (i, i, i)).save(pictures / f"{i}.png")
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:40])
    status, _, err = run("train.ddpm", *flags, cwd=tmp_path)
    assert status == 1
    assert "1.png" in err
    assert "Traceback" not in err


def test_a_run_of_another_recipe_or_with_other_settings_is_left_alone(finished, tmp_path):
    folder, _ = finished
    before = contents(folder)
    status, _, err = run("train.ddpm", "--run", folder, *DDPM_FLAGS, "--learning-rate", 0.5, cwd=tmp_path)
    assert status == 1
    assert "--learning-rate was 0.002 and is now 0.5" in err
    assert contents(folder) == before
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "config.json").write_text((folder / "config.json").read_text().replace('"ddpm"', '"vae"'))
    status, _, err = run("train.ddpm", "--run", other, *DDPM_FLAGS, cwd=tmp_path)
    assert status == 1
    assert "holds a run of train.vae" in err


def test_a_folder_in_use_is_not_entered_twice(tmp_path):
    folder = tmp_path / "run"
    first = start("train.ddpm", "--run", folder, *DDPM_FLAGS, "--steps", 1_000_000, cwd=tmp_path)
    try:
        wait_for(lambda: (folder / "sessions.jsonl").exists(), first)
        status, _, err = run("train.ddpm", "--run", folder, *DDPM_FLAGS, "--steps", 1_000_000, cwd=tmp_path)
        assert status == 1
        assert "another process is training in" in err
    finally:
        first.kill()
        first.communicate()


def test_sampling_from_nothing_is_refused(tmp_path):
    status, _, err = run("train.sample", tmp_path, cwd=tmp_path)
    assert status == 1
    assert "is not a run folder" in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            MemoryError("Unable to allocate 27.9 GiB"),
            "error: out of memory (Unable to allocate 27.9 GiB); try a smaller",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: 16 GiB"),
            "error: out of memory (RESOURCE_EXHAUSTED: 16 GiB); try a smaller",
        ),
        (UserError("--steps must be"), "error: --steps must be"),
        (OSError(28, "No space left on device", "a.png"), "error: [Errno 28] No space left on device: 'a.png'"),
    ],
)
def test_what_a_person_can_mend_is_one_line(error, said, capsys):
    def fail():
        raise error

    assert command.reporting_errors(fail) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("train.latent_diffusion", "--autoencoder-steps", 0), "--autoencoder-steps must be at least 1"),
        (("train.latent_diffusion", "--lora-rank", 4), "--lora-rank is for going on with a checkpoint"),
        (("train.latent_diffusion", "--text-encoder", "nowhere"), "there is no folder nowhere"),
        (
            ("train.super_resolution", "--image-size", 10, "--factor", 4),
            "images of 10x10 pixels have no low resolution of --factor 4",
        ),
    ],
)
def test_what_is_wrong_before_training_is_one_line_too(tmp_path, command, said):
    status, _, err = run(*command, "--accelerator", "cpu", cwd=tmp_path)
    assert status == 1
    assert err.strip().splitlines()[-1].startswith(f"error: {said}")
    assert "Traceback" not in err
    assert not any(tmp_path.iterdir())
