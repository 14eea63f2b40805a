import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen import diffusion, grids, guidance, samplers, schedules

SCHEDULE = schedules.linear()
T = jnp.array([10, 700, 400])


def images(seed):
    return jax.random.normal(jax.random.key(seed), (3, 4, 2, 1))


def constant(prediction):
    return lambda x, t: prediction


@pytest.mark.parametrize("guide", [guidance.classifier_free, lambda c, u, s: guidance.rescaled(c, u, s, 0.7)])
def test_scale_one_is_the_conditional_denoiser_and_scale_zero_forgets_the_condition(guide):
    conditional, unconditional = constant(images(0)), constant(images(1))
    np.testing.assert_allclose(guide(conditional, unconditional, 1.0)(images(2), T), images(0), rtol=1e-5, atol=1e-6)
    free = guidance.classifier_free(conditional, unconditional, 0.0)
    np.testing.assert_array_equal(free(images(2), T), images(1))


def test_classifier_free_guidance_is_affine_in_its_scale_and_takes_one_per_example():
    conditional, unconditional = constant(images(0)), constant(images(1))
    scales = jnp.array([0.0, 1.5, 7.0])
    guided = guidance.classifier_free(conditional, unconditional, scales)(images(2), T)
    for i, scale in enumerate(scales):
        np.testing.assert_allclose(
            guided[i], images(1)[i] + scale * (images(0)[i] - images(1)[i]), rtol=1e-5, atol=1e-6
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("predicts", ["x0", "v"])
def test_to_guide_one_quantity_is_to_guide_them_all(predicts):
    xt, eps = images(2), (images(0), images(1))

    def said(eps):
        return diffusion.target(SCHEDULE, diffusion.predict_x0(SCHEDULE, xt, T, eps), T, eps, predicts)

    guided = guidance.classifier_free(constant(eps[0]), constant(eps[1]), 3.0)(xt, T)
    other = guidance.classifier_free(constant(said(eps[0])), constant(said(eps[1])), 3.0)(xt, T)
    np.testing.assert_allclose(diffusion.x0_and_eps(SCHEDULE, xt, T, other, predicts)[1], guided, rtol=1e-7, atol=1e-9)


def test_fully_rescaled_guidance_has_the_spread_of_the_conditional_prediction():
    conditional, unconditional = images(0), images(1)
    guided = guidance.rescaled(constant(conditional), constant(unconditional), 7.5, 1.0)(images(2), T)
    axes = (1, 2, 3)
    np.testing.assert_allclose(guided.std(axes), conditional.std(axes), rtol=1e-5)
    free = guidance.classifier_free(constant(conditional), constant(unconditional), 7.5)(images(2), T)
    np.testing.assert_array_equal(
        guidance.rescaled(constant(conditional), constant(unconditional), 7.5, 0.0)(images(2), T), free
    )
    assert np.all(free.std(axes) > 2 * conditional.std(axes))


def mixture(weights, means, variance):
    """E[eps | x_t] and log p(x_t) for x_0 from a mixture of normal laws, in one dimension."""
    weights, means = jnp.asarray(weights), jnp.asarray(means)

    def log_terms(x, t):
        a, sigma = diffusion.signal_and_sigma(SCHEDULE, t, x)
        spread = a**2 * variance + sigma**2
        return jnp.log(weights)[None] - 0.5 * (x - a * means[None]) ** 2 / spread - 0.5 * jnp.log(spread)

    def predict_eps(x, t):
        a, sigma = diffusion.signal_and_sigma(SCHEDULE, t, x)
        share = jax.nn.softmax(log_terms(x, t), axis=1)
        return sigma / (a**2 * variance + sigma**2) * (x - a * (share * means[None]).sum(1, keepdims=True))

    return predict_eps, log_terms


@pytest.mark.usefixtures("x64")
def test_a_perfect_classifier_turns_the_model_of_all_classes_into_that_of_one():
    """grad log p(x_t) + grad log p(c | x_t) = grad log p(x_t | c), of two normal laws mixed."""
    x, t = jnp.linspace(-2, 2, 6)[:, None], jnp.array([0, 50, 100, 300, 600, 999])
    both, log_terms = mixture([0.3, 0.7], [-0.8, 0.6], 0.05)
    first, _ = mixture([1.0], [-0.8], 0.05)
    guided = guidance.classifier(both, lambda x, t: jax.nn.log_softmax(log_terms(x, t), axis=1)[:, 0], SCHEDULE)
    np.testing.assert_allclose(guided(x, t), first(x, t), rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_classifier_free_guidance_draws_the_likelier_images_of_a_class_the_more_the_larger_its_scale():
    """Two classes, overlapping normal laws: guided samples of one move away from the other."""
    (both, _), (first, _) = mixture([0.5, 0.5], [-0.3, 0.3], 0.2), mixture([1.0], [-0.3], 0.2)
    x_T = stats.norm.ppf(np.linspace(0.005, 0.995, 100))[:, None]

    @jax.jit
    def mean_image(scale):
        denoise = guidance.classifier_free(first, both, scale)
        return samplers.ddim(denoise, SCHEDULE, jnp.asarray(x_T), grids.trailing(1000, 100)).mean()

    means = [float(mean_image(scale)) for scale in (0.0, 1.0, 2.0, 4.0)]
    np.testing.assert_allclose(means[:2], [0.0, -0.3], atol=0.02)
    assert means[3] < means[2] < means[1] - 0.05


def test_a_share_of_rescaling_lies_between_nothing_and_all():
    with pytest.raises(ValueError, match=r"between 0, nothing, and 1, .*; got 1\.5"):
        guidance.rescaled(constant(0), constant(0), 2.0, 1.5)


# Revised estimates


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_a_revised_denoiser_estimates_the_revised_image_and_the_noise_that_goes_with_it(predicts):
    xt, said = images(2), images(0)
    x0, _ = diffusion.x0_and_eps(SCHEDULE, xt, T, said, predicts)
    knowing = guidance.revised(constant(said), SCHEDULE, jnp.sin, predicts=predicts)
    found, eps = diffusion.x0_and_eps(SCHEDULE, xt, T, knowing(xt, T), predicts)
    np.testing.assert_allclose(found, jnp.sin(x0), atol=1e-9)
    np.testing.assert_allclose(diffusion.q_sample(SCHEDULE, found, T, eps), xt, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_to_revise_nothing_changes_nothing():
    same = guidance.revised(constant(images(0)), SCHEDULE, lambda x0: x0)
    np.testing.assert_allclose(same(images(2), T), images(0), atol=1e-7)
