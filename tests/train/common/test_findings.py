"""Numbers that were measured are shown as they are, with their errors, and nothing stands where none were."""

import json
import xml.etree.ElementTree as ET

import pytest

from train.common import findings, history, page, points


def write(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def shown(section, folder):
    return ET.fromstring(page.document("", section(history.read(folder))))


def cells(root):
    return [[cell.text or "" for cell in row] for row in root.findall(".//tbody/tr")]


def log(folder, *rows):
    write(folder, "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("mean", "error", "written"),
    [
        (86.1, 0.2, "86.10 ± 0.20"), (90.1234, 0.0213, "90.123 ± 0.021"), (0.15843, 0.00037, "0.15843 ± 0.00037"),
        (12345.6, 123.4, "12,346 ± 123"), (86.1234567, None, "86.123"), (86.1, 0.0, "86.1 ± 0"), (-3.0, 1.0, "-3.0 ± 1.0"),
        (1e200, 1e199, "1e+200 ± 1e199"), (1.0, -1.0, "1"), (1.0, 1e-200, "1 ± 1e-200"),
    ],
)  # fmt: skip
def test_a_mean_is_written_to_the_second_digit_of_its_error(mean, error, written):
    assert findings.with_error(mean, error) == written


def test_evaluations_are_a_table_with_the_newest_step_last(tmp_path):
    def entry(step, **estimates):
        return {"split": "test", "samples": 5000, "seed": 0, "step": step, "num_images": 10000, "estimates": estimates}

    nll, bits = {"mean": 86.1, "standard_error": 0.2}, {"mean": 0.158, "standard_error": 0.001}
    entries = [entry(200, nll=nll, bits_per_dim=bits), entry(100, nll=nll | {"mean": 90.0}), "x", {"step": 3}]
    write(tmp_path, "evaluations.json", entries)
    root = shown(findings.evaluations, tmp_path)
    heads = [head.text for head in root.iter("th")]
    assert heads == ["Step", "Split", "Images", "Samples per image", "Seed", "NLL (nats)", "Bits per dimension"]
    assert cells(root) == [
        ["100", "test", "10,000", "5,000", "0", "90.00 ± 0.20", ""],
        ["200", "test", "10,000", "5,000", "0", "86.10 ± 0.20", "0.1580 ± 0.0010"],
    ]


@pytest.mark.parametrize(
    "content", ["", "[", "{}", "[3]", '[{"estimates": 3}]', '[{"step": 1, "estimates": {"nll": {"mean": NaN}}}]']
)
def test_without_an_estimate_there_is_no_table(tmp_path, content):
    write(tmp_path, "evaluations.json", content)
    assert findings.evaluations(history.read(tmp_path)) == ""


def test_what_is_not_known_of_an_evaluation_is_left_open(tmp_path):
    write(tmp_path, "evaluations.json", [{"estimates": {"my estimate": {"mean": 2}}}])
    assert cells(shown(findings.evaluations, tmp_path)) == [["", "", "", "", "", "2"]]


def test_a_statistic_says_how_many_of_its_values_are_active(tmp_path):
    values = [0.5, 0.001, 0.01, 0.02]
    write(tmp_path, "statistics.json", {"step": 4000, "statistics": {"KL <b>": values, "other": [1]}})
    root = shown(findings.statistics, tmp_path)
    told = [(figure.findtext(".//b"), figure.findtext(".//output")) for figure in root.iter("figure")]
    assert told == [("KL <b>", "2 of 4 above 0.01"), ("other", "1 of 1 above 0.01")]
    assert "at step 4,000" in root.findtext(".//p[@class='note']")


@pytest.mark.parametrize("values", ["[]", "[NaN]", '["a"]', "[true]", "3", "[[1]]", "[1, 1e999]"])
def test_what_is_no_vector_of_numbers_is_no_statistic(tmp_path, values):
    write(tmp_path, "statistics.json", '{"step": 1, "statistics": {"KL": ' + values + "}}")
    assert findings.statistics(history.read(tmp_path)) == ""


def test_the_tug_is_shown_where_both_its_ends_were_logged_beside_the_curve_of_each(tmp_path):
    log(
        tmp_path,
        *({"step": i, "loss": 9, "kl": i, "reconstruction": 9 - i} for i in range(1, 9)),
        {"step": 9, "kl": 50},
    )
    root = shown(findings.curves, tmp_path)
    names = [figure.findtext(".//b") for figure in root.iter("figure")]
    assert names == ["loss", "kl", "reconstruction", "reconstruction against kl"]
    assert root.findall(".//output")[-1].text == "sum 9"


def warnings(folder, rows, **metrics):
    """What the page warns of where each metric has these values in turn, the last of them ever after."""
    values = [{name: v[min(i, len(v) - 1)] for name, v in metrics.items()} for i in range(rows)]
    log(folder, *({"step": 10 * i, "loss": 1.0, **row} for i, row in enumerate(values, 1)))
    root = shown(findings.curves, folder)
    section = list(root.find(".//section"))
    warned = [p.text for p in section if p.get("class") == "warning"]
    assert [p.text for p in section[1 : 1 + len(warned)]] == warned
    return warned


def test_a_discriminator_that_is_sure_of_both_kinds_has_won(tmp_path):
    (warned,) = warnings(tmp_path, 20, d_real=[0.99], d_fake=[0.01])
    assert warned.startswith("The discriminator has won: of late D is 0.990 on the data and 0.010 on samples")
    assert "--discriminator-steps" in warned


def test_samples_whose_spread_is_less_than_half_the_datas_have_collapsed(tmp_path):
    (warned,) = warnings(tmp_path, 20, spread=[0.25])
    assert warned.startswith("The samples are more alike than the data: of late their standard deviation is 0.25 times")


@pytest.mark.parametrize(("shares", "lost"), [([0.5, 0.4], 0), ([0.9, 0.01], 1), ([0.0, 0.98, 0.005], 2)])
def test_gaussians_without_samples_are_counted_in_words(tmp_path, shares, lost):
    write(tmp_path, "statistics.json", {"step": 1, "statistics": {points.SHARES: shares, "KL": [0.0]}})
    warned = [p.text for p in shown(findings.statistics, tmp_path).iter("p") if p.get("class") == "warning"]
    said = f"{lost} of the {len(shares)} Gaussians of the data have at most 0.01 of the samples each: modes have collapsed."
    assert [text[: len(said)] for text in warned] == [said] * (lost > 0)


def test_both_may_happen_at_once(tmp_path):
    assert len(warnings(tmp_path, 5, d_real=[1.0], d_fake=[0.0], spread=[0.0])) == 2


@pytest.mark.parametrize(
    "metrics",
    [
        {}, {"d_real": [0.5], "d_fake": [0.5], "spread": [1.0]}, {"d_real": [0.99], "d_fake": [0.3]},
        {"d_real": [0.7], "d_fake": [0.01]}, {"d_real": [0.99]}, {"d_fake": [0.01]}, {"spread": [3.0]},
    ],
)  # fmt: skip
def test_where_nothing_is_wrong_nothing_is_said(tmp_path, metrics):
    assert warnings(tmp_path, 20, **metrics) == []


@pytest.mark.parametrize(
    ("rows", "bad", "told"), [(100, 6, 1), (100, 5, 0), (40, 3, 1), (40, 2, 0), (5, 5, 1), (4, 4, 0)]
)
def test_the_last_tenth_of_the_rows_counts_and_five_at_least(tmp_path, rows, bad, told):
    """The mean of ones and, in the end, so many noughts is below a half if more than half of what counts are noughts."""
    assert len(warnings(tmp_path, rows, spread=[1.0] * (rows - bad) + [0.0])) == told


@pytest.mark.parametrize("other", [{"step": 2, "reconstruction": 3.0}, {"step": 1, "grad_norm": 3.0}])
def test_without_steps_in_common_there_is_no_tug(tmp_path, other):
    log(tmp_path, {"step": 1, "kl": 1.0}, other)
    assert not findings.has_tug(history.read(tmp_path))
    assert len(list(shown(findings.curves, tmp_path).iter("figure"))) == 2
