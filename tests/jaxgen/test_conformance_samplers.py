"""The samplers of the chain against diffusers' schedulers: whole trajectories, from the same noise, on the same denoiser."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import grids, samplers, schedules
from tests.jaxgen.conformance import (
    KEY,
    PREDICTS,
    X_T,
    assert_same,
    denoiser,
    distance,
    ours,
    same_noise,
    theirs,
    theirs_scaled,
    torch,
    torch_denoiser,
)

diffusers = pytest.importorskip("diffusers")

LINEAR = schedules.linear()
GRIDS = {"leading": grids.leading, "trailing": grids.trailing, "linspace": grids.linspace}
ALL = [(n, s, p) for n in (5, 10, 20) for s in ("leading", "trailing") for p in PREDICTS]
SOME = [(5, "trailing", "epsilon"), (10, "leading", "v_prediction"), (20, "trailing", "sample")]
every_case = pytest.mark.parametrize(
    ("num_steps", "spacing", "prediction"),
    [case if case in SOME else pytest.param(*case, marks=pytest.mark.slow) for case in ALL],
)


def made(name, num_steps, spacing="leading", prediction="epsilon", **options):
    """A scheduler of theirs, its timesteps set."""
    scheduler = getattr(diffusers, name)(timestep_spacing=spacing, prediction_type=prediction, **options)
    scheduler.set_timesteps(num_steps)
    return scheduler


def our_ddim(grid, schedule=LINEAR, predict=denoiser, **options):
    return ours(lambda x, t: samplers.ddim(predict, schedule, x, t, trajectory=True, **options), grid)


def our_ancestral(grid, schedule=LINEAR, predict=denoiser, **options):
    def sampler(x, t):
        return samplers.ancestral(KEY, predict, schedule, X_T.shape, t, x_T=x, trajectory=True, **options)

    return ours(sampler, grid)


def our_inversion(grid, **options):
    return ours(lambda x, t: samplers.ddim_inversion(denoiser, LINEAR, x, t, trajectory=True, **options), grid)


@every_case
def test_ddim_goes_where_theirs_goes(num_steps, spacing, prediction):
    scheduler = made("DDIMScheduler", num_steps, spacing, prediction, clip_sample=False)
    states = our_ddim(GRIDS[spacing](1000, num_steps), predicts=PREDICTS[prediction])
    assert_same(states, theirs(scheduler))


@every_case
def test_ddim_with_half_the_noise_goes_where_theirs_goes(monkeypatch, num_steps, spacing, prediction):
    scheduler = made("DDIMScheduler", num_steps, spacing, prediction, clip_sample=False)
    same_noise(monkeypatch, num_steps, scheduler)
    states = our_ddim(GRIDS[spacing](1000, num_steps), eta=0.5, key=KEY, predicts=PREDICTS[prediction])
    assert_same(states, theirs(scheduler, eta=0.5))


@pytest.mark.parametrize("name", ["scaled_linear", "squaredcos_cap_v2"])
def test_ddim_goes_where_theirs_goes_on_the_other_schedules(name):
    ends = {"beta_start": 0.00085, "beta_end": 0.012} if name == "scaled_linear" else {}
    schedule = {"scaled_linear": schedules.scaled_linear, "squaredcos_cap_v2": schedules.cosine}[name]()
    scheduler = made("DDIMScheduler", 10, "leading", clip_sample=False, beta_schedule=name, **ends)
    assert_same(our_ddim(grids.leading(1000, 10), schedule), theirs(scheduler))


def test_ddim_from_noise_without_any_signal_goes_where_theirs_goes():
    scheduler = made("DDIMScheduler", 10, "trailing", "v_prediction", clip_sample=False, rescale_betas_zero_snr=True)
    schedule = schedules.zero_terminal_snr(LINEAR)
    assert_same(our_ddim(grids.trailing(1000, 10), schedule, predicts="v"), theirs(scheduler))


def test_ddim_with_the_image_clipped_goes_where_theirs_goes():
    scheduler = made("DDIMScheduler", 10, "leading", clip_sample=True)
    expected = theirs(scheduler, use_clipped_model_output=True)
    assert_same(our_ddim(grids.leading(1000, 10), clip_x0=True), expected)


@every_case
@pytest.mark.parametrize(("variance", "theirs_is"), [("beta", "fixed_large"), ("beta_tilde", "fixed_small")])
def test_ancestral_sampling_goes_where_ddpm_goes(monkeypatch, num_steps, spacing, prediction, variance, theirs_is):
    if variance == "beta" and spacing == "trailing":
        spacing = "linspace"  # it ends at t = 0, where they add no noise, and is not the grid of ddim
    scheduler = made("DDPMScheduler", num_steps, spacing, prediction, clip_sample=False, variance_type=theirs_is)
    same_noise(monkeypatch, num_steps, scheduler)
    states = our_ancestral(GRIDS[spacing](1000, num_steps), variance=variance, predicts=PREDICTS[prediction])
    assert_same(states, theirs(scheduler))


@pytest.mark.parametrize("num_steps", [5, 20])
def test_ancestral_sampling_with_a_learned_variance_and_the_image_clipped_goes_where_ddpm_goes(monkeypatch, num_steps):
    """v is in [0, 1] here and in [-1, 1] there."""
    scheduler = made("DDPMScheduler", num_steps, "leading", variance_type="learned_range", clip_sample=True)
    same_noise(monkeypatch, num_steps, scheduler)

    def with_v(x, t):
        return denoiser(x, t), 0.5 + 0.5 * jnp.sin(3 * x)

    def torch_with_v(x, t):
        return torch.cat([torch_denoiser(x, t), torch.sin(3 * x)], dim=1)

    states = our_ancestral(grids.leading(1000, num_steps), predict=with_v, variance="learned", clip_x0=True)
    assert_same(states, theirs(scheduler, predict=torch_with_v))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_with_all_the_noise_is_euler_ancestral_in_other_coordinates(monkeypatch, spacing):
    """x / sqrt(alpha_bar): their sigma_up^2 is beta-tilde / alpha_bar, and what is left of the slope is sigma_down."""
    scheduler = made("EulerAncestralDiscreteScheduler", 10, spacing)
    same_noise(monkeypatch, 10, scheduler)
    states = our_ddim(GRIDS[spacing](1000, 10), eta=1.0, key=KEY)
    assert_same(states, theirs_scaled(scheduler))


@pytest.mark.parametrize(("num_steps", "spacing"), [(5, "trailing"), (10, "leading"), (20, "trailing")])
def test_ddim_inversion_goes_where_theirs_goes(num_steps, spacing):
    scheduler = made("DDIMInverseScheduler", num_steps, spacing, clip_sample=False)
    assert_same(our_inversion(GRIDS[spacing](1000, num_steps)), theirs(scheduler))


ARANGE = (np.arange(768, dtype=np.float32) / 768).reshape(4, 3, 8, 8)


def shrinking(x, t):
    return x * (t / (t + 1)).astype(x.dtype).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("beta_start", "predicts", "total"), [(1e-4, "eps", 172.0067), (1e-4, "v", 52.5302), (0.01, "eps", 149.8295)]
)
def test_ten_steps_of_ddim_from_a_ramp_have_the_published_sum(beta_start, predicts, total):
    """The numbers of diffusers' own tests of DDIM, with betas up to 0.02 and the leading grid."""

    def sampler(x, t):
        schedule = schedules.linear(beta_start=beta_start)
        return samplers.ddim(shrinking, schedule, x, t, predicts=predicts, clip_x0=True, trajectory=True)

    states = ours(sampler, grids.leading(1000, 10), ARANGE)
    np.testing.assert_allclose(np.abs(states[-1]).sum(), total, rtol=1e-5)


def ddim_against(clip_x0=False, spacing="leading", num_steps=10, **options):
    grid = GRIDS[spacing](1000, num_steps)
    return our_ddim(grid, clip_x0=clip_x0), theirs(made("DDIMScheduler", num_steps, spacing, **options))


def noise_on_the_image(monkeypatch):
    scheduler = made("DDPMScheduler", 10, "trailing", clip_sample=False, variance_type="fixed_large")
    same_noise(monkeypatch, 10, scheduler)
    return our_ancestral(grids.trailing(1000, 10)), theirs(scheduler)


def inversion_of(prediction):
    scheduler = made("DDIMInverseScheduler", 10, prediction=prediction, clip_sample=False)
    return our_inversion(grids.leading(1000, 10), predicts=PREDICTS[prediction]), theirs(scheduler)


DIFFERENCES = {
    "a clipped x_0 has its own eps, as in Algorithm 2 of the paper's code; theirs keeps the model's unless asked": (
        lambda _: ddim_against(clip_x0=True, clip_sample=True)
    ),
    "our last step lands on the image; theirs, as Stable Diffusion was published, may stop at alpha_bar_0": (
        lambda _: ddim_against(clip_sample=False, set_alpha_to_one=False)
    ),
    "a step of ours goes to the grid's next timestep; theirs to t - T // n, which linspace does not visit": (
        lambda _: ddim_against(clip_sample=False, spacing="linspace")
    ),
    "nor does trailing where n does not divide T": (
        lambda _: ddim_against(clip_sample=False, spacing="trailing", num_steps=7)
    ),
    "our last step adds no noise; theirs of variance beta does on a grid that ends above 0": noise_on_the_image,
    "in inversion v belongs to the x_t that is sought, of which x_s is the first guess; theirs takes it for x_s's": (
        lambda _: inversion_of("v_prediction")
    ),
    "and so with x_0, where theirs divides by the noise of the image, zero": lambda _: inversion_of("sample"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_we_differ_on_purpose(monkeypatch, difference):
    with np.errstate(invalid="ignore"):
        assert not distance(*DIFFERENCES[difference](monkeypatch)) < 1e-3
