"""RePaint against diffusers' scheduler, whose steps are ours, on the way of the authors' code, which its pipeline does not go."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import editing, schedules
from tests.jaxgen.conformance import KEY, X_T, assert_same, denoiser, distance, same_noise, torch, torch_denoiser

diffusers = pytest.importorskip("diffusers")

KNOWN = np.random.default_rng(2).uniform(-1, 1, X_T.shape).astype(np.float32)
MASK = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
CHAIN = {"beta_start": 0.01, "beta_end": 0.3}


def made(num_train_steps, num_steps, jump, resamplings):
    scheduler = diffusers.RePaintScheduler(num_train_steps, eta=1.0, clip_sample=False, **CHAIN)
    scheduler.set_timesteps(num_steps, jump, resamplings)
    return scheduler


@pytest.mark.parametrize("jump", [1, 2, 3, 10])
@pytest.mark.parametrize("resamplings", [1, 2, 10])
@pytest.mark.parametrize("num_steps", [1, 2, 10, 50, 250])
def test_the_way_of_repaint_is_theirs(num_steps, jump, resamplings):
    """They number it from the image and leave out that it ends there."""
    path = editing.repaint_path(num_steps, jump, resamplings)
    np.testing.assert_array_equal(
        num_steps - 1 - path[:-1], made(1000, num_steps, jump, resamplings).timesteps // (1000 // num_steps)
    )
    assert path[-1] == num_steps


def along_levels(scheduler):
    """The authors' reading of the timesteps: levels of noise, from each of which a step or its undoing leads to the next."""
    x, levels = torch.tensor(X_T), [*scheduler.timesteps.tolist(), -1]
    for here, there in itertools.pairwise(levels):
        x = stepped(scheduler, x, here) if there < here else scheduler.undo_step(x, there)
    return x.numpy()


def along_steps(scheduler):
    """The reading of diffusers' pipeline: timesteps from which a step leads down, or by which the last step is undone."""
    x, last = torch.tensor(X_T), scheduler.timesteps[0] + 1
    for t in scheduler.timesteps:
        x = stepped(scheduler, x, t) if t < last else scheduler.undo_step(x, last)
        last = t
    return x.numpy()


def stepped(scheduler, x, t):
    return scheduler.step(torch_denoiser(x, t), t, x, torch.tensor(KNOWN), torch.tensor(MASK)).prev_sample


def ours_and_theirs(monkeypatch, theirs, num_train_steps=12, num_steps=12, jump=3, resamplings=3):
    """Both from the same noise, each draw of which serves the known and the unknown part, as in theirs."""
    scheduler = made(num_train_steps, num_steps, jump, resamplings)
    count = len(scheduler.timesteps) * (num_train_steps // num_steps)
    noise = same_noise(monkeypatch, count, scheduler)
    monkeypatch.setattr(editing, "normal", lambda draw, _: jnp.where(draw == 0, X_T, jnp.asarray(noise)[draw]))
    schedule = schedules.linear(num_train_steps, **CHAIN)
    timesteps = np.arange(num_steps)[::-1] * (num_train_steps // num_steps)

    def repaint(known, mask):
        return editing.repaint(KEY, denoiser, schedule, known, mask, timesteps, jump=jump, resamplings=resamplings)

    return np.asarray(jax.jit(repaint)(KNOWN, MASK))[None], theirs(scheduler)[None]


@pytest.mark.parametrize(("jump", "resamplings"), [(3, 3), (1, 2), (10, 1)])
def test_repaint_goes_where_their_steps_lead_on_the_authors_way(monkeypatch, jump, resamplings):
    assert_same(*ours_and_theirs(monkeypatch, along_levels, jump=jump, resamplings=resamplings))


DIFFERENCES = {
    "the last way back up begins one step before the image, as the authors' does; that of diffusers' pipeline at the image": (
        lambda patch: ours_and_theirs(patch, along_steps)
    ),
}  # fmt: skip


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_we_differ_on_purpose(monkeypatch, difference):
    assert distance(*DIFFERENCES[difference](monkeypatch)) > 1e-3


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_undoing_a_step_of_several_timesteps_adds_the_variances_between_its_ends_and_theirs_those_above(stride):
    """From t = 0 up to one step of a respaced grid: from 1 - alpha_bar_0 to 1 - alpha_bar_stride, in theirs only if they are neighbours."""
    scheduler, schedule = made(12, 12 // stride, 1, 2), schedules.linear(12, **CHAIN)
    kept = np.prod([1 - float(scheduler.betas[stride + i]) for i in range(stride)])  # what undo_step(x, stride) leaves
    ours = schedule.alpha_bars[stride] / schedule.alpha_bars[0]
    assert np.isclose(kept, ours, rtol=1e-5) == (stride == 1)
