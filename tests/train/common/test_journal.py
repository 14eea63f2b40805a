import json
import sys

import pytest

from train.common.errors import UserError
from train.common.journal import Metrics, Session


def rows(*losses):
    return [{"loss": loss} for loss in losses]


def read(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_row_is_the_mean_of_its_steps(tmp_path):
    metrics = Metrics(tmp_path, every=2, step=0, pending=[], tensorboard=False)
    metrics.add(1, rows(1.0, 2.0, 3.0))
    metrics.add(4, rows(5.0))
    assert read(tmp_path) == [{"step": 2, "loss": 1.5}, {"step": 4, "loss": 4.0}]


def test_an_interruption_between_rows_changes_no_byte(tmp_path):
    losses = [0.1, 0.7, 0.2, 0.9, 0.3, 0.4]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for folder in (straight, broken):
        folder.mkdir()
    Metrics(straight, 3, 0, [], False).add(1, rows(*losses))
    first = Metrics(broken, 3, 0, [], False)
    first.add(1, rows(*losses[:4]))
    pending = json.loads(json.dumps(first.pending))
    first.add(5, rows(*losses[4:]))  # written after the checkpoint of step 4, and lost with the process
    Metrics(broken, 3, 4, pending, False).add(5, rows(*losses[4:]))
    assert (straight / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()


def test_rows_after_the_restored_step_and_half_rows_are_cut(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 4, "loss": 1}\n{"step": 6, "lo')
    Metrics(tmp_path, 2, 3, [], False)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 2, "loss": 1}\n'


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stops_at_its_step(tmp_path, bad):
    metrics = Metrics(tmp_path, 10, 0, [], False)
    with pytest.raises(UserError, match="loss is .* at step 3"):
        metrics.add(1, rows(0.5, 0.4, bad, 0.3))


def test_a_session_is_one_row_that_is_rewritten_until_it_ends(tmp_path):
    Session(tmp_path, 0, "abacus").note(outcome="interrupted", last_step=5)
    second = Session(tmp_path, 5, "abacus")
    second.note(steps_per_second=2.0)
    second.note(outcome="finished", last_step=9)
    written = [json.loads(line) for line in (tmp_path / "sessions.jsonl").read_text().splitlines()]
    assert [(r["first_step"], r["last_step"], r["outcome"]) for r in written] == [
        (0, 5, "interrupted"),
        (5, 9, "finished"),
    ]
    assert written[1]["steps_per_second"] == 2.0
    assert written[1]["device"] == "abacus"


def test_hosts_without_the_folder_check_the_numbers_and_write_nothing():
    metrics = Metrics(None, 1, 0, [], False)
    metrics.add(1, rows(1.0))
    with pytest.raises(UserError):
        metrics.add(2, rows(float("nan")))
    Session(None, 0, "abacus").note(outcome="finished")


def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboardX", reason="pip install tensorboardX")
    metrics = Metrics(tmp_path, 1, 0, [], tensorboard=True)
    metrics.add(1, rows(1.0))
    metrics.close()
    assert [path.stat().st_size > 0 for path in (tmp_path / "tensorboard").iterdir()] == [True]


def test_tensorboard_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        Metrics(tmp_path, 1, 0, [], tensorboard=True)
