import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen import diffusion, schedules

SCHEDULES = {"linear": schedules.linear(), "cosine": schedules.cosine(), "short": schedules.linear(10, 0.05, 0.3)}


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


def some_timesteps(schedule):
    return jnp.array([0, 1, schedule.num_steps // 2, schedule.num_steps - 1])


def images(seed=0, shape=(4, 3, 2, 1), dtype=None):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


@pytest.mark.usefixtures("x64")
def test_iterating_the_one_step_kernels_gives_the_closed_form(schedule):
    """Push the mean and the variance of q(x_t | x_0) through x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps, step by step."""
    mean, variance = 0.7, 0.0
    for t, beta in enumerate(schedule.betas):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if t in some_timesteps(schedule):
            closed_mean, closed_variance = diffusion.q_mean_variance(schedule, jnp.full((1, 1), 0.7), jnp.array([t]))
            np.testing.assert_allclose(closed_mean, [[mean]], rtol=1e-10)
            np.testing.assert_allclose(closed_variance, [[variance]], rtol=1e-10)


def test_q_sample_has_the_mean_and_the_variance_of_q(schedule):
    x0, t, noise = images(), some_timesteps(schedule), images(1)
    mean, variance = diffusion.q_mean_variance(schedule, x0, t)
    np.testing.assert_allclose(
        diffusion.q_sample(schedule, x0, t, noise), mean + jnp.sqrt(variance) * noise, rtol=1e-5, atol=1e-6
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("stride", [1, 3])
def test_q_posterior_equals_bayes_rule_on_a_grid(stride):
    """q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0): multiply, normalise and integrate on a fine grid of x_s."""
    schedule, x0, xt = schedules.linear(10, 0.05, 0.3), 0.4, -0.9
    x = np.linspace(-8, 8, 400_001)
    for t in range(stride, 10):
        s = t - stride
        alpha = np.prod(1 - schedule.betas[s + 1 : t + 1])
        prior = stats.norm.pdf(x, np.sqrt(schedule.alpha_bars[s]) * x0, np.sqrt(1 - schedule.alpha_bars[s]))
        density = stats.norm.pdf(xt, np.sqrt(alpha) * x, np.sqrt(1 - alpha)) * prior
        density /= density.sum()
        mean = (x * density).sum()
        variance = ((x - mean) ** 2 * density).sum()
        ours = diffusion.q_posterior(schedule, jnp.array([[x0]]), jnp.array([[xt]]), jnp.array([t]), jnp.array([s]))
        np.testing.assert_allclose(np.ravel(ours), [mean, variance], rtol=1e-9)


def test_q_posterior_goes_to_the_step_before_by_default(schedule):
    x0, xt, t = images(), images(1), some_timesteps(schedule)
    for default, explicit in zip(
        diffusion.q_posterior(schedule, x0, xt, t), diffusion.q_posterior(schedule, x0, xt, t, t - 1), strict=True
    ):
        np.testing.assert_array_equal(default, explicit)


def test_at_the_first_timestep_the_posterior_is_the_image_without_doubt(schedule):
    x0, xt, t = images(), images(1), jnp.zeros(4, int)
    mean, variance = diffusion.q_posterior(schedule, x0, xt, t)
    np.testing.assert_allclose(mean, x0, rtol=1e-6)
    np.testing.assert_array_equal(variance, 0.0)


@pytest.mark.usefixtures("x64")
def test_the_posterior_mean_from_eps_is_the_posterior_mean_at_the_x0_of_that_eps(schedule):
    x0, eps, t = images(), images(1), some_timesteps(schedule)
    xt = diffusion.q_sample(schedule, x0, t, eps)
    expected, _ = diffusion.q_posterior(schedule, x0, xt, t)
    np.testing.assert_allclose(diffusion.posterior_mean_from_eps(schedule, xt, t, eps), expected, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_x0_and_eps_are_two_names_of_one_point(schedule):
    x0, eps, t = images(), images(1), some_timesteps(schedule)
    xt = diffusion.q_sample(schedule, x0, t, eps)
    np.testing.assert_allclose(diffusion.predict_x0(schedule, xt, t, eps), x0, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(diffusion.predict_eps(schedule, xt, t, x0), eps, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_step_variance_is_beta_and_adds_up_over_steps(schedule):
    t = some_timesteps(schedule)
    beta = diffusion.q_step_variance(schedule, images(), t, t - 1)
    np.testing.assert_allclose(beta[:, 0, 0, 0], schedule.betas[t], rtol=1e-9)
    to_the_image = diffusion.q_step_variance(schedule, images(), t, jnp.full(4, -1))
    np.testing.assert_allclose(to_the_image[:, 0, 0, 0], 1 - schedule.alpha_bars[t], rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_float32_keeps_the_digits_of_float64(schedule):
    t = jnp.arange(schedule.num_steps)
    x0, xt = images(2, (len(t), 1)), images(3, (len(t), 1))
    rounded = x0.astype(jnp.float32), xt.astype(jnp.float32)
    exact = [a.astype(jnp.float64) for a in rounded]
    for function in (
        lambda x0, xt: diffusion.q_posterior(schedule, x0, xt, t),
        lambda x0, xt: diffusion.q_sample(schedule, x0, t, xt),
        lambda eps, xt: diffusion.predict_x0(schedule, xt, t, eps),
    ):
        jax.tree.map(
            lambda low, high: np.testing.assert_allclose(low, high, rtol=3e-4, atol=1e-6),
            function(*rounded),
            function(*exact),
        )


def test_predicting_zero_costs_one():
    """E |eps|^2 / D = 1, with standard error sqrt(2 / (n D))."""
    x0, noise = images(0, (64, 8, 8, 3)), images(1, (64, 8, 8, 3))
    t = jnp.arange(64)
    loss = diffusion.simple_loss(schedules.linear(), lambda x, t: jnp.zeros_like(x), x0, t, noise)
    assert loss.shape == (64,)
    assert abs(loss.mean() - 1) < 4 * np.sqrt(2 / noise.size)


def test_predicting_the_noise_costs_nothing():
    schedule, x0, noise, t = schedules.linear(), images(0), images(1), jnp.array([0, 10, 500, 999])
    loss = diffusion.simple_loss(schedule, lambda x, t: diffusion.predict_eps(schedule, x, t, x0), x0, t, noise)
    np.testing.assert_allclose(loss, 0, atol=1e-6)


def test_the_loss_of_an_example_does_not_depend_on_its_batch():
    x0, noise, t = images(0), images(1), jnp.array([0, 10, 500, 999])
    alone = [
        diffusion.simple_loss(schedules.linear(), lambda x, t: x**2, x0[i : i + 1], t[i : i + 1], noise[i : i + 1])
        for i in range(4)
    ]
    together = diffusion.simple_loss(schedules.linear(), lambda x, t: x**2, x0, t, noise)
    np.testing.assert_allclose(together, jnp.concatenate(alone), rtol=1e-6)


def test_half_precision_images_do_not_cost_the_coefficients_their_digits(schedule):
    t = some_timesteps(schedule)
    x0, xt = images().astype(jnp.bfloat16), images(1).astype(jnp.bfloat16)
    exact = [a.astype(jnp.float32) for a in (x0, xt)]
    jax.tree.map(
        lambda half, full: np.testing.assert_allclose(half, full, rtol=1e-6, atol=1e-7),
        (diffusion.q_posterior(schedule, x0, xt, t), diffusion.q_step_variance(schedule, xt, t, t - 1)),
        (diffusion.q_posterior(schedule, *exact, t), diffusion.q_step_variance(schedule, exact[1], t, t - 1)),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_any_one_of_eps_x0_and_v_determines_the_image_and_the_noise(schedule, predicts):
    x0, eps, t = images(), images(1), some_timesteps(schedule)
    xt = diffusion.q_sample(schedule, x0, t, eps)
    said = diffusion.target(schedule, x0, t, eps, predicts)
    for found, true in zip(diffusion.x0_and_eps(schedule, xt, t, said, predicts), (x0, eps), strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_v_is_the_velocity_of_xt_on_the_circle_of_signal_and_noise():
    """x_t = cos(phi) x_0 + sin(phi) eps: differentiate in phi."""
    schedule, x0, eps, t = schedules.cosine(), images(), images(1), jnp.array([0, 10, 500, 998])
    phi = jnp.arccos(jnp.sqrt(schedule.alpha_bars[t]))[:, None, None, None]
    _, velocity = jax.jvp(lambda phi: jnp.cos(phi) * x0 + jnp.sin(phi) * eps, (phi,), (jnp.ones_like(phi),))
    np.testing.assert_allclose(diffusion.predict_v(schedule, x0, t, eps), velocity, rtol=1e-6, atol=1e-9)


def test_where_nothing_is_left_of_the_image_v_still_says_what_it_was():
    schedule = schedules.zero_terminal_snr(schedules.linear())
    x0, eps, t = images(), images(1), jnp.full(4, 999)
    xt = diffusion.q_sample(schedule, x0, t, eps)
    np.testing.assert_array_equal(xt, eps)
    v = diffusion.predict_v(schedule, x0, t, eps)
    for found, true in zip(diffusion.x0_and_eps(schedule, xt, t, v, "v"), (x0, eps), strict=True):
        np.testing.assert_array_equal(found, true)
    mean, variance = diffusion.q_posterior(schedule, x0, xt, t)
    np.testing.assert_allclose(mean, np.sqrt(schedule.alpha_bars[998]) * x0, rtol=1e-5)
    np.testing.assert_allclose(variance, 1 - schedule.alpha_bars[998], rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_a_whole_number_is_the_same_timestep_as_the_fraction_of_its_value(schedule):
    t, like = jnp.arange(-1, schedule.num_steps), jnp.zeros(schedule.num_steps + 1)
    for function in (
        diffusion.log_snr,
        lambda *a: diffusion.signal_and_sigma(*a)[0],
        lambda *a: diffusion.signal_and_sigma(*a)[1],
    ):
        np.testing.assert_allclose(
            function(schedule, t.astype(float), like), function(schedule, t, like), rtol=1e-9, atol=1e-12
        )


@pytest.mark.usefixtures("x64")
def test_between_two_timesteps_the_logarithm_of_the_noise_level_is_linear(schedule):
    ends = schedule.log_snrs[1:3]
    like = jnp.zeros(1)
    for weight in (0.25, 0.5, 0.9):
        t = jnp.array([1 + weight])
        expected = (1 - weight) * ends[0] + weight * ends[1]
        np.testing.assert_allclose(diffusion.log_snr(schedule, t, like), [expected], rtol=1e-12)
        signal, sigma = diffusion.signal_and_sigma(schedule, t, like)
        np.testing.assert_allclose(2 * np.log(signal / sigma), [expected], rtol=1e-9)
        np.testing.assert_allclose(signal**2 + sigma**2, 1.0, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_the_squared_error_of_every_quantity_is_that_of_x0_times_a_function_of_the_noise_level(schedule, predicts):
    """SNR for eps, 1 for x_0, SNR + 1 for v; so min-SNR weights make all three min(SNR, gamma) times the error of x_0."""
    x0, eps, guess, t = images(), images(1), images(2), some_timesteps(schedule)
    xt = diffusion.q_sample(schedule, x0, t, eps)

    def predict(x, t):
        return diffusion.target(schedule, guess, t, diffusion.predict_eps(schedule, xt, t, guess), predicts)

    loss = diffusion.simple_loss(schedule, predict, x0, t, eps, predicts=predicts)
    error = ((x0 - guess) ** 2).reshape(4, -1).mean(1)
    snr = np.exp(schedule.log_snrs)[t]
    np.testing.assert_allclose(loss, {"eps": snr, "x0": 1.0, "v": snr + 1}[predicts] * error, rtol=1e-7)
    weight = diffusion.min_snr_weight(schedule, t, 5.0, predicts)
    np.testing.assert_allclose(weight * loss, np.minimum(snr, 5.0) * error, rtol=1e-5)


def test_min_snr_weights_are_finite_where_nothing_is_left_of_the_image():
    schedule = schedules.zero_terminal_snr(schedules.linear())
    last = jnp.array([999])
    weights = [float(diffusion.min_snr_weight(schedule, last, predicts=kind)[0]) for kind in ("eps", "x0", "v")]
    assert weights == [1.0, 0.0, 0.0]


def test_a_quantity_that_no_denoiser_predicts_is_refused():
    schedule, x, t = schedules.linear(10), jnp.ones((1, 1)), jnp.array([1])
    for function in (
        lambda: diffusion.x0_and_eps(schedule, x, t, x, "noise"),
        lambda: diffusion.target(schedule, x, t, x, "noise"),
        lambda: diffusion.min_snr_weight(schedule, t, predicts="noise"),
    ):
        with pytest.raises(ValueError, match='"eps", "x0" or "v"; got \'noise\''):
            function()
    with pytest.raises(ValueError, match="gamma must be positive; got 0"):
        diffusion.min_snr_weight(schedule, t, 0.0)
