"""Whatever is readable in a run folder is read; whatever is not makes a gap."""

import json

import numpy as np
import pytest

from train.common import history


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def test_an_empty_or_absent_folder_is_an_empty_run(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        run = history.read(folder)
        assert not any((run.recipe, run.config, run.data, run.metrics, run.sessions, run.checkpoints, run.grids))
        assert (run.last_step, run.total_steps) == (0, None)


def test_loss_comes_first_and_every_quantity_is_ascending_in_its_steps(tmp_path):
    write(tmp_path / "metrics.jsonl", {"step": 100, "grad_norm": 2, "loss": 0.5}, {"step": 50, "kl": 3.0, "loss": 1.0})
    metrics = history.read(tmp_path).metrics
    assert list(metrics) == ["loss", "grad_norm", "kl"]
    np.testing.assert_array_equal(metrics["loss"], [[50, 100], [1.0, 0.5]])


def test_half_a_row_and_values_that_are_no_numbers_are_passed_over(tmp_path):
    write(
        tmp_path / "metrics.jsonl",
        {"step": 50, "loss": 1.0, "note": "x", "ok": True, "list": [1]}, '{"step": 100, "loss": NaN}', "", "[1, 2]",
        '{"step": 150, "loss": 1e999}', {"loss": 7.0}, {"step": 200, "loss": 0.5}, '{"step": 250, "lo',
    )  # fmt: skip
    metrics = history.read(tmp_path).metrics
    assert list(metrics) == ["loss"]
    np.testing.assert_array_equal(metrics["loss"], [[50, 200], [1.0, 0.5]])


def test_a_step_logged_twice_counts_as_it_was_logged_last(tmp_path):
    write(tmp_path / "metrics.jsonl", {"step": 50, "loss": 1.0}, {"step": 50, "loss": 2.0})
    np.testing.assert_array_equal(history.read(tmp_path).metrics["loss"], [[50], [2.0]])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"config": 3, "data": null}', "[" * 100_000, "\x00\xff"])
def test_a_broken_configuration_is_an_empty_one(tmp_path, content):
    write(tmp_path / "config.json", content)
    run = history.read(tmp_path)
    assert (run.config, run.data, run.flags, run.total_steps) == ({}, {}, {}, None)


def test_evaluations_ascend_in_their_steps_and_those_of_one_step_stay_in_their_order(tmp_path):
    estimates = {"nll": {"mean": 86.1, "standard_error": 0.2}, "broken": {"mean": None}}
    entries = [{"step": step, "split": split, "estimates": estimates} for step, split in ((9, "a"), (3, "b"), (9, "c"))]
    write(tmp_path / "evaluations.json", entries)
    read = history.read(tmp_path).evaluations
    assert [(evaluation.step, evaluation.split) for evaluation in read] == [(3, "b"), (9, "a"), (9, "c")]
    assert read[0].estimates == {"nll": (86.1, 0.2)}
    assert read[0].samples is None


def test_a_statistic_that_is_no_vector_of_numbers_is_passed_over(tmp_path):
    write(tmp_path / "statistics.json", '{"step": 40, "statistics": {"a": [1, 2.5], "b": [1, NaN], "c": [], "d": "x"}}')
    run = history.read(tmp_path)
    assert list(run.statistics) == ["a"]
    np.testing.assert_array_equal(run.statistics["a"], [1, 2.5])
    assert run.statistics_step == 40


def test_a_number_too_large_for_any_float_is_none(tmp_path):
    write(tmp_path / "metrics.jsonl", {"step": 1, "loss": 10**400}, {"step": 2, "loss": 1.0})
    np.testing.assert_array_equal(history.read(tmp_path).metrics["loss"], [[2], [1.0]])


def test_a_session_lasts_from_its_start_to_its_end_whatever_the_time_zone(tmp_path):
    write(
        tmp_path / "sessions.jsonl",
        {"started": "2026-11-21T07:00:00Z", "ended": "2026-11-21T09:30:00+02:00", "device": "cpu", "jax": None},
        {"started": "2026-11-21T07:00:00", "ended": "soon", "steps_per_second": "fast", "first_step": 3},
    )
    first, second = history.read(tmp_path).sessions
    assert (first.seconds, first.environment) == (1800.0, {"device": "cpu"})
    assert (second.seconds, second.steps_per_second, second.first_step) == (None, None, 3)


def test_pictures_are_grids_by_step_or_have_a_name_and_other_numbered_ones_are_passed_over(tmp_path):
    grids = ["step_00001000.png", "step_00000500.png"]
    named = ["denoising.gif", "final.png", "images_seed12.png", "step_x.png"]
    for name in [*grids, *named, "images_seed0_00012.png", ".final.png.1.tmp", ".hidden.png", "note.txt"]:
        write(tmp_path / "samples" / name, "")
    run = history.read(tmp_path)
    assert {step: path.name for step, path in run.grids.items()} == {500: grids[1], 1000: grids[0]}
    assert list(run.grids) == [500, 1000]
    assert list(run.pictures) == named


def test_only_whole_checkpoints_count(tmp_path):
    for name in ("100", "20", "120.orbax-checkpoint-tmp", "x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    write(tmp_path / "checkpoints" / "300", "a file")
    assert history.read(tmp_path).checkpoints == [20, 100]


def test_the_last_step_is_the_last_that_anything_tells_of(tmp_path):
    write(tmp_path / "metrics.jsonl", {"step": 50, "loss": 1.0})
    assert history.read(tmp_path).last_step == 50
    write(tmp_path / "sessions.jsonl", {"last_step": 60})
    assert history.read(tmp_path).last_step == 60
    (tmp_path / "checkpoints" / "70").mkdir(parents=True)
    assert history.read(tmp_path).last_step == 70


def test_steps_that_an_earlier_session_lost_to_a_kill_are_not_counted(tmp_path):
    sessions = [{"last_step": 1500, "outcome": "running"}, {"last_step": 1200, "outcome": "time limit"}]
    (tmp_path / "sessions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sessions))
    assert history.read(tmp_path).last_step == 1200
