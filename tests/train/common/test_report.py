"""The report is one file about one folder: whatever the folder holds, for whoever reads it, wherever it is moved."""

import json
import os
import re
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from train.common import pictures
from train.common.album import HISTORY
from train.common.report import SESSIONS, write_report

NASTY = "<script>alert('x')</script>&\"quotes\""


def rows(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A finished run of 300 steps, trained in two sessions."""
    folder = tmp_path_factory.mktemp("runs") / "ddpm-digits"
    job = {"run": None, "dataset": "digits", "steps": 300, "batch_size": 128}
    data = {"name": "digits", "num_examples": 1797, "shape": [8, 8, 1], "fingerprint": "3f" * 32}
    noise = np.random.default_rng(0).integers(0, 256, (20, 9, 8, 8, 1), dtype=np.uint8)
    for step in range(0, 301, 20):
        pictures.save_png(folder / "samples" / f"step_{step:08d}.png", pictures.grid(noise[step // 20]))
    pictures.save_gif(folder / "samples" / "denoising.gif", pictures.film(noise))
    pictures.save_png(folder / "samples" / "denoising.png", pictures.strip(noise))
    pictures.save_png(folder / "samples" / "nearest_neighbours.png", pictures.grid(noise[0]))
    config = {"job": job, "width": 32, "multipliers": [1, 2]}
    rows(folder / "config.json", {"recipe": "ddpm", "config": config, "data": data})
    rows(folder / "metrics.jsonl", *({"step": s, "loss": 10 / s, "grad_norm": 1.0} for s in range(10, 301, 10)))
    session = {
        "started": "2026-11-21T07:00:00Z", "ended": "2026-11-21T07:01:30Z", "first_step": 0, "last_step": 200,
        "outcome": "interrupted", "device": "cpu: Some Processor x1", "jax": "0.10.2", "steps_per_second": 9.4,
        "images_per_second": 1203.2, "seconds_to_first_step": 14.2,
    }  # fmt: skip
    later = session | {"first_step": 200, "last_step": 300, "outcome": "finished", "jax": "0.12.0"}
    rows(folder / "sessions.jsonl", session, later | {"peak_memory_bytes": 1.5 * 2**30})
    rows(folder / "statistics.json", {"step": 300, "statistics": {}})
    rows(folder / "evaluations.json", [])
    for step in (200, 300):
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    return folder


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of it to read and to spoil."""
    return shutil.copytree(finished_run, tmp_path / finished_run.name)


def read(folder):
    """The page, which must be well-formed, and its text."""
    root = ET.fromstring(write_report(folder).read_text(encoding="utf-8"))
    return root, " ".join("".join(root.find("body").itertext()).split())


def assert_fetches_nothing(root):
    for element in root.iter():
        assert element.tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name in {"src", "srcset"}:
                assert value.startswith("data:image/")
            if name == "href":
                assert value.startswith("#")
            assert "url(" not in value
    assert not re.search(r"url\(|@import|https?:", root.findtext("head/style"))
    policy = root.find("head/meta[@http-equiv='Content-Security-Policy']").get("content")
    assert policy.startswith("default-src 'none'")


def test_the_report_fetches_nothing_and_may_fetch_nothing(run):
    root, _ = read(run)
    assert_fetches_nothing(root)


def test_every_link_leads_to_a_place_in_the_page_and_every_place_is_there_once(run):
    root, _ = read(run)
    places = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(places) == len(set(places))
    assert {element.get("href") for element in root.iter("a")} <= {f"#{place}" for place in places}


def test_every_picture_has_words_for_those_who_do_not_see_it(run):
    root, _ = read(run)
    assert all(image.get("alt") for image in root.iter("img"))


def test_the_report_tells_what_the_folder_tells(run):
    _, text = read(run)
    for told in (
        "train.ddpm · digits 8×8×1", "ddpm-digits", "Finished", "21 November 2026, 07:01 UTC", "300of 300", "3 min 00 s",
        "Samples at step 300", "nearest neighbours", "loss", "grad_norm", "0 – 200", "200 – 300", "interrupted", "14.2 s",
        "1.50 GiB", "cpu: Some Processor x1", "0.10.2, then 0.12.0", "batch_size128", "multipliers1, 2", "3f" * 32,
        "num_examples1797", "1,203",
    ):  # fmt: skip
        assert told in text, told


def test_the_report_depends_on_the_folder_alone(run):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_no_other_file_appears_in_the_folder(run):
    before = set(os.listdir(run))
    write_report(run)
    assert set(os.listdir(run)) == before | {"report.html"}


def test_a_long_history_is_shown_by_a_few_grids_the_first_among_them(run):
    root, _ = read(run)
    shown = [figure.get("id") for figure in root.iter("figure") if figure.get("id")]
    assert len(shown) == HISTORY
    assert (shown[0], shown[-1]) == ("step-0", "step-280")


def test_only_the_last_sessions_are_listed_and_all_are_counted(run):
    line = (run / "sessions.jsonl").read_text().splitlines()[0]
    (run / "sessions.jsonl").write_text(f"{line}\n" * 50)
    root, text = read(run)
    assert len(root.findall(".//tbody/tr")) == SESSIONS
    assert "in 50 sessions" in text
    assert "1 h 15 min" in text


def test_final_samples_take_the_place_of_the_newest_grid(run):
    pictures.save_png(run / "samples" / "final.png", np.zeros((4, 4, 1), np.uint8))
    root, text = read(run)
    assert "Final samples" in text
    assert [figure.get("id") for figure in root.iter("figure") if figure.get("id")][-1] == "step-300"


@pytest.mark.parametrize(
    ("outcome", "style", "told"),
    [
        ("finished", "finished", "Finished"),
        ("interrupted", "stopped", "Interrupted The same command goes on from step 300."),
        ("time limit", "stopped", "Time limit The same command goes on from step 300."),
        ("failed: the loss is NaN", "failed", "Failed the loss is NaN — The same command goes on from step 300."),
        (
            "running",
            "running",
            "In progress Reached step 300. If it was cut off: the same command goes on from step 300.",
        ),
        ("", "running", "In progress Reached step 300. If it was cut off: the same command goes on from step 300."),
    ],
)
def test_the_status_is_how_the_last_session_ended_and_what_to_do(run, outcome, style, told):
    rows(run / "sessions.jsonl", {"first_step": 0, "last_step": 300, "outcome": outcome})
    root, _ = read(run)
    status = root.find(".//header/p[2]")
    assert status.get("class") == f"status {style}"
    assert " ".join(status.itertext()) == told


def test_a_session_that_was_killed_is_known_by_the_one_after_it(run):
    row = {"first_step": 0, "last_step": 300, "outcome": "running"}
    rows(run / "sessions.jsonl", row, row | {"outcome": "time limit"}, row)
    outcomes = [cell.text for cell in read(run)[0].iter("td") if cell.get("data-name") == "Outcome"]
    assert outcomes == ["cut off", "time limit", "running"]


def test_a_run_that_went_beyond_its_last_session_is_in_progress(run):
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 310, "loss": 0.03}\n')
    assert "In progress Reached step 310." in " ".join(read(run)[0].find(".//header").itertext())


def test_the_commands_are_the_ones_to_type(run):
    commands = ["".join(pre.itertext()) for pre in read(run)[0].iter("pre")]
    assert commands == [
        f"python -m train.ddpm --dataset digits --run {run} --steps 600",
        f"python -m train.sample {run} --num 64 --sampler ddim --steps 50",
        f"python -m train.sample {run} --num 64 --sampler ddim --steps 50 --separate",
        "python -m train.ddpm --help",
    ]


def test_of_a_run_of_points_the_report_speaks_of_points(run):
    described = json.loads((run / "config.json").read_text())
    described["data"] = {"name": "ring8", "shape": [2]}
    rows(run / "config.json", described | {"recipe": "gan"})
    root, text = read(run)
    assert root.findtext(".//p[@class='kind']") == "train.gan · ring8"
    assert "Points per second" in text
    assert "Points/s" in text
    assert "Images" not in text
    commands = ["".join(pre.itertext()) for pre in root.iter("pre")]
    assert f"python -m train.sample {run} --num 2500" in commands
    assert not any("--separate" in command for command in commands)


def test_the_command_to_go_on_is_the_one_that_was_typed(run):
    typed = "python -m train.ddpm --accelerator tpu --run 'my run'"
    rows(run / "sessions.jsonl", {"last_step": 300, "outcome": "time limit", "command": typed})
    assert "".join(read(run)[0].find(".//pre").itertext()) == typed
    rows(run / "sessions.jsonl", {"last_step": 300, "outcome": "finished", "command": typed})
    assert "".join(read(run)[0].find(".//pre").itertext()) == f"{typed} --steps 600"


VARIATIONAL = [{"step": 10 * i, "loss": 30 / i + i, "kl": i, "reconstruction": 30 / i} for i in range(1, 31)]


def test_an_evaluation_is_offered_once_to_a_finished_run_whose_loss_has_two_terms(run):
    def offered():
        return f"python -m train.evaluate {run} --split train" in [
            "".join(pre.itertext()) for pre in read(run)[0].iter("pre")
        ]

    assert not offered()
    rows(run / "metrics.jsonl", *VARIATIONAL)
    assert offered()
    estimates = {"nll": {"mean": 86.1, "standard_error": 0.2}}
    (run / "evaluations.json").write_text(json.dumps([{"step": 200, "estimates": estimates}]))
    assert offered()
    (run / "evaluations.json").write_text(json.dumps([{"step": 300, "estimates": estimates}]))
    assert not offered()
    (run / "evaluations.json").unlink()
    rows(run / "sessions.jsonl", {"last_step": 300, "outcome": "interrupted"})
    assert not offered()


def test_what_was_measured_has_sections_of_its_own_where_there_is_something(run):
    def sections():
        return [section.get("id") for section in read(run)[0].iter("section")]

    assert sections() == ["samples", "curves", "speed", "settings", "next"]
    (run / "statistics.json").write_text(json.dumps({"step": 300, "statistics": {"KL": [1.0, 0.5]}}))
    (run / "evaluations.json").write_text(json.dumps([{"step": 300, "estimates": {"nll": {"mean": 1.0}}}]))
    assert sections() == ["samples", "evaluation", "curves", "statistics", "speed", "settings", "next"]


def test_the_curve_of_the_loss_comes_first(run):
    names = [
        figure.findtext("figcaption/b") for figure in read(run)[0].iter("figure") if figure.get("class") == "chart"
    ]
    assert names == ["loss", "grad_norm"]


def test_text_from_the_folder_stays_text(run):
    rows(
        run / "config.json",
        {"recipe": NASTY, "config": {NASTY: {NASTY: NASTY}}, "data": {"name": NASTY, "shape": [NASTY]}},
    )
    rows(run / "sessions.jsonl", {"outcome": f"failed: {NASTY}", NASTY: NASTY, "command": NASTY, "last_step": 300})
    rows(run / "metrics.jsonl", {"step": 10, NASTY: 1.0})
    (run / "samples" / "a&b 'c'.png").write_bytes((run / "samples" / "denoising.png").read_bytes())
    (run / "statistics.json").write_text(json.dumps({"statistics": {NASTY: [1.0]}}))
    evaluation = {"split": NASTY, "step": 300, "estimates": {NASTY: {"mean": 1.0}}}
    (run / "evaluations.json").write_text(json.dumps([evaluation]))
    root, text = read(run)
    assert_fetches_nothing(root)
    assert text.count(NASTY) >= 12


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "metrics.jsonl",
        "sessions.jsonl",
        "statistics.json",
        "evaluations.json",
        "samples/step_00000300.png",
        "samples/denoising.gif",
    ],
)
@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_a_file_cut_off_anywhere_makes_a_gap_and_no_error(run, name, left):
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: int(left * len(content))])
    root, _ = read(run)
    assert_fetches_nothing(root)


def test_a_truncated_last_row_of_metrics_costs_that_row_only(run):
    before = write_report(run).read_bytes()
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 310, "lo')
    assert write_report(run).read_bytes() == before


def test_an_empty_folder_has_a_report_that_says_what_is_missing(tmp_path):
    root, text = read(tmp_path)
    assert_fetches_nothing(root)
    assert len(root.findall(".//p[@class='missing']")) == 5
    assert "Starting Nothing has been logged yet." in " ".join(root.find(".//header").itertext())
    assert "There are no samples yet." in text


def test_without_room_on_the_disk_the_earlier_report_stays(run, monkeypatch):
    before = write_report(run).read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before
    assert not list(run.glob(".*"))


def test_a_report_of_a_million_steps_is_no_larger_than_needed(run):
    rng = np.random.default_rng(0)
    rows(run / "metrics.jsonl", *({"step": 50 * i, "loss": float(rng.uniform())} for i in range(1, 20_001)))
    root, _ = read(run)
    assert sum(len(ET.tostring(figure)) for figure in root.findall(".//figure[@class='chart']")) < 100_000
