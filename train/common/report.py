"""One web page about a run, for a person: pictures, curves, speed, settings, and what to do next.

It is a function of the run folder, finished or not, and of the samples of a run to compare it with; it says what is not there yet.
"""

import itertools
import shlex
from collections.abc import Iterator
from pathlib import Path

from train.common import album, charts, findings, history, page
from train.common.files import write_atomically
from train.common.history import Run, Session

SESSIONS = 6
"""Sessions listed at most, the last ones."""


def write_report(run_dir: Path) -> Path:
    """Writes report.html into the run folder and returns its path.

    The page needs no network and no other file: it can be sent or moved. Everything it shows is read from `run_dir`:
    config.json, metrics.jsonl, statistics.json, evaluations.json, sessions.jsonl, samples/, and the names in checkpoints/;
    and from samples/ of the run that the flag `beside` names. Missing or broken files make gaps in the page, not errors.

    Raises:
        OSError: the page could not be written; an earlier one is still there.
    """
    path = run_dir / "report.html"
    write_atomically(path, render(history.read(run_dir)).encode())
    return path


def render(run: Run) -> str:
    """The whole page, as HTML."""
    return page.document(
        f"{run.folder.name}, step {run.last_step:,}",
        f"<header>{_header(run)}</header>\n<main>{album.samples(run)}\n{findings.evaluations(run)}\n"
        f"{findings.curves(run)}\n{findings.statistics(run)}\n{_speed(run)}\n{_settings(run)}\n{_commands(run)}</main>",
    )


def _header(run: Run) -> str:
    kind, word, sentence = _status(run)
    about = " · ".join(part for part in (run.recipe and f"train.{run.recipe}", _data_name(run)) if part)
    done = min(1.0, run.last_step / run.total_steps) if run.total_steps else 0.0
    return (
        f'<p class="kind">{page.escape(about)}</p><h1>{page.escape(run.folder.resolve().name)}</h1>'
        f'<p class="status {kind}"><b>{page.escape(word)}</b><span>{page.escape(sentence)}</span></p>'
        f'<div class="progress"><i style="width:{100 * done:.1f}%"></i></div>'
        f'<dl class="tiles">{"".join(_tiles(run))}</dl>'
    )


def _status(run: Run) -> tuple[str, str, str]:
    """Its style, a word, and a sentence."""
    last = run.sessions[-1] if run.sessions else None
    go_on = "The same command goes on from " + (f"step {run.checkpoints[-1]:,}." if run.checkpoints else "the start.")
    if last is None or last.outcome in {"", "running"} or run.last_step > (last.last_step or 0):
        if not run.last_step:
            return "running", "Starting", "Nothing has been logged yet."
        reached = f"Reached step {run.last_step:,}."
        return "running", "In progress", f"{reached} If it was cut off: {go_on[0].lower()}{go_on[1:]}"
    if last.outcome == "finished":
        return "finished", "Finished", f"{last.ended.day} {last.ended:%B %Y, %H:%M} UTC" if last.ended else ""
    if last.outcome.startswith("failed"):
        return "failed", "Failed", f"{last.outcome.removeprefix('failed').lstrip(': ')} — {go_on}"
    return "stopped", last.outcome.capitalize(), go_on


def _tiles(run: Run) -> Iterator[str]:
    of = f"of {run.total_steps:,}" if run.total_steps else ""
    yield _tile("Step", f"{run.last_step:,}", of)
    for name, (_, values) in itertools.islice(run.metrics.items(), 1):
        yield _tile(name.capitalize(), charts.number(charts.smooth(values)[-1]), "moving average")
    if run.sessions and (speed := run.sessions[-1].images_per_second):
        steps = run.sessions[-1].steps_per_second
        yield _tile(
            f"{_examples(run)} per second",
            charts.number(round(speed)),
            f"{charts.number(steps)} steps/s" if steps else "",
        )
    if spent := sum(session.seconds or 0.0 for session in run.sessions):
        count = len(run.sessions)
        yield _tile("Time", _duration(spent), f"in {count} session{'s' if count > 1 else ''}")


def _tile(name: str, value: str, more: str) -> str:
    return f"<div><dt>{page.escape(name)}</dt><dd>{page.escape(value)}<small>{page.escape(more)}</small></dd></div>"


def _speed(run: Run) -> str:
    if not run.sessions:
        return page.section("speed", "Speed and hardware", page.missing("No session has ended yet."))
    names = ["Started (UTC)", "Steps", "Outcome", "Duration", "First step after", "Steps/s"]
    names += [f"{_examples(run)}/s", "Peak memory"]
    # A later session shows that an earlier one is not running any more.
    past = [s._replace(outcome="cut off") if s.outcome == "running" else s for s in run.sessions[:-1]]
    table = page.table(names, [_session_row(session) for session in (*past, run.sessions[-1])[-SESSIONS:]])
    if len(run.sessions) > SESSIONS:
        table += f'<p class="note">The last {SESSIONS} of {len(run.sessions)} sessions.</p>'
    seen: dict[str, list[str]] = {}
    for session in run.sessions:
        for name, value in session.environment.items():
            if value not in seen.setdefault(name, []):
                seen[name].append(value)
    hardware = page.facts("Hardware and versions", ((name, ", then ".join(values)) for name, values in seen.items()))
    return page.section("speed", "Speed and hardware", table + hardware)


def _session_row(session: Session) -> list[str]:
    steps = (session.first_step, session.last_step)
    memory = session.peak_memory_bytes
    return [
        f"{session.started:%Y-%m-%d %H:%M}" if session.started else "",
        "" if None in steps else " – ".join(charts.number(step) for step in steps),
        session.outcome,
        *("" if s is None else _duration(s) for s in (session.seconds, session.seconds_to_first_step)),
        *("" if v is None else charts.number(v) for v in (session.steps_per_second, session.images_per_second)),
        "" if memory is None else f"{memory / 2**30:.2f} GiB",
    ]


def _settings(run: Run) -> str:
    if not run.config and not run.data:
        return page.section("settings", "Settings", page.missing("config.json is not there yet, or cannot be read."))
    loose = {name: value for name, value in run.config.items() if not isinstance(value, dict)}
    groups = {run.recipe or "recipe": loose} | {n: v for n, v in run.config.items() if isinstance(v, dict)}
    groups["data"] = run.data
    lists = (page.facts(name, _flat(values)) for name, values in groups.items() if values)
    return page.section("settings", "Settings", f'<div class="columns">{"".join(lists)}</div>')


def _commands(run: Run) -> str:
    if not run.recipe:
        return page.section(
            "next", "What to do next", page.missing("config.json does not name the recipe of this run.")
        )
    folder, recipe = shlex.quote(str(run.folder)), f"python -m train.{shlex.quote(run.recipe)}"
    command, same = run.sessions[-1].command if run.sessions else "", ""
    if not command:
        # The data set chooses the preset, so it is the one flag that matters most.
        dataset = run.flags.get("dataset")
        of = f" --dataset {shlex.quote(str(dataset))}" if dataset else ""
        command, same = f"{recipe}{of} --run {folder}", ", with the flags of the first time"
    commands = []
    if _status(run)[0] != "finished":
        commands.append((f"Go on: the same command again{same}", command))
    elif run.total_steps:
        commands.append((f"Train on, to twice as many steps{same}", f"{command} --steps {2 * run.total_steps}"))
    if _status(run)[0] == "finished" and findings.has_tug(run) and run.last_step not in findings.evaluated_steps(run):
        name = str(run.data.get("name", ""))
        # Of these there is nothing that the model has not seen.
        seen = " --split train" if name == "digits" or name.startswith("folder:") else ""
        commands.append(("Estimate the likelihood", f"python -m train.evaluate {folder}{seen}"))
    if run.checkpoints:
        drawn = f"python -m train.sample {folder} --num 64"
        if "denoising.gif" in run.pictures:
            drawn += " --sampler ddim --steps 50"
        if run.is_points:
            commands.append(("Draw new points", f"python -m train.sample {folder} --num 2500"))
        else:
            commands += [("Draw new pictures", drawn), ("The same, each in a file of its own", f"{drawn} --separate")]
    commands.append(("See every flag", f"{recipe} --help"))
    body = "".join(f"<p>{page.escape(what)}</p>{page.command(how)}" for what, how in commands)
    return page.section("next", "What to do next", body)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _examples(run: Run) -> str:
    return "Points" if run.is_points else "Images"


def _data_name(run: Run) -> str:
    name = run.data.get("name") or run.flags.get("dataset") or ""
    shape = run.data.get("shape")
    return f"{name} {_shape(shape)}" if name and isinstance(shape, list) and not run.is_points else str(name)


def _shape(shape: list) -> str:
    return "×".join(str(side) for side in shape)


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield (
                prefix + str(name),
                _shape(value) if name == "shape" and isinstance(value, list) else history.as_text(value),
            )
