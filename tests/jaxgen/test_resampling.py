"""Low resolution is a mean; images that agree with one are a plane, or what of it lies in a cube, and have a nearest point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen import diffusion, grids, guidance, resampling, samplers, schedules, solvers

X = np.random.default_rng(0).uniform(-1, 1, (3, 6, 8, 2))
SCHEDULE = schedules.linear()

pytestmark = pytest.mark.usefixtures("x64")


def low(seed=1, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-scale, scale, (3, 3, 4, 2)))


@pytest.mark.parametrize("factor", [1, 2])
def test_low_resolution_is_the_mean_of_each_square(factor):
    found = resampling.downsample(jnp.asarray(X), factor)
    for i, j in np.ndindex(6 // factor, 8 // factor):
        square = X[:, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        np.testing.assert_allclose(found[:, i, j], square.mean((1, 2)), rtol=1e-12)


@pytest.mark.parametrize("factor", [0, 3, 4])
def test_squares_that_do_not_fill_the_image_are_refused(factor):
    with pytest.raises(ValueError, match=f"images of 6x8 pixels have no squares of {factor}x{factor}"):
        resampling.downsample(jnp.asarray(X), factor)


def test_the_low_resolution_of_repeated_pixels_is_the_pixels():
    np.testing.assert_allclose(resampling.downsample(resampling.repeat(low(), 2), 2), low(), rtol=1e-12)


@pytest.mark.parametrize("factor", [2, 4])
def test_interpolation_is_pillows_bicubic(factor):
    found = resampling.upsample(jnp.asarray(X), factor)
    for i, c in np.ndindex(3, 2):
        picture = Image.fromarray(X[i, ..., c].astype(np.float32))
        expected = picture.resize((8 * factor, 6 * factor), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(found[i, ..., c], np.asarray(expected), atol=2e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_interpolation_reproduces_quadratic_polynomials_away_from_the_border_and_constants_everywhere(factor):
    def polynomial(size, step):
        y, x = np.meshgrid(*2 * [(np.arange(size) + 0.5) * step], indexing="ij")
        return (0.3 - 0.2 * x + 0.5 * y + 0.07 * x**2 - 0.04 * x * y + 0.02 * y**2)[None, ..., None]

    found = resampling.upsample(jnp.asarray(polynomial(8, 1.0)), factor)
    inside = np.s_[:, 2 * factor : -2 * factor, 2 * factor : -2 * factor]
    np.testing.assert_allclose(found[inside], polynomial(8 * factor, 1 / factor)[inside], rtol=1e-6)
    np.testing.assert_allclose(resampling.upsample(jnp.full((1, 3, 3, 1), 0.7), factor), 0.7, rtol=1e-6)


def test_the_projection_has_the_low_resolution_and_leaves_alone_what_has_it():
    projected = resampling.project(jnp.asarray(X), low(), 2)
    np.testing.assert_allclose(resampling.downsample(projected, 2), low(), atol=1e-12)
    np.testing.assert_allclose(resampling.project(projected, low(), 2), projected, atol=1e-12)


def test_what_the_projection_changes_is_orthogonal_to_all_images_of_one_low_resolution():
    projected = resampling.project(jnp.asarray(X), low(), 2)
    for seed in range(3):
        other = resampling.project(jnp.asarray(np.random.default_rng(seed).normal(size=X.shape)), low(), 2)
        np.testing.assert_allclose(jnp.vdot(X - projected, other - projected), 0, atol=1e-9)


def test_the_projection_within_bounds_has_the_low_resolution_and_keeps_the_bounds():
    x = 3 * jnp.asarray(X)
    projected = resampling.project(x, low(), 2, within=(-1.0, 1.0))
    np.testing.assert_allclose(resampling.downsample(projected, 2), low(), atol=1e-8)
    assert np.abs(projected).max() <= 1
    assert (np.abs(projected) == 1).mean() > 0.2


def test_the_projection_within_bounds_is_nearest():
    """Variational inequality of the projection p onto a convex set: (x - p) . (z - p) <= 0 for all its points z."""
    x = 3 * jnp.asarray(X)
    projected = resampling.project(x, low(), 2, within=(-1.0, 1.0))
    for seed in range(5):
        z = resampling.project(
            jnp.asarray(np.random.default_rng(seed).normal(size=X.shape)), low(), 2, within=(-1.0, 1.0)
        )
        assert jnp.vdot(x - projected, z - projected) <= 1e-7


def test_the_two_projections_are_one_where_nothing_is_clipped():
    x, small = 0.3 * jnp.asarray(X), low(scale=0.3)
    free, bounded = (resampling.project(x, small, 2, within) for within in (None, (-1.0, 1.0)))
    np.testing.assert_allclose(bounded, free, atol=1e-8)


def test_black_and_white_squares_are_black_and_white_and_low_resolutions_out_of_bounds_come_as_near_as_they_can():
    wanted = jnp.asarray([-1.0, 1.0, -1.5, 2.0]).reshape(1, 2, 2, 1)
    found = resampling.project(jnp.asarray(X[:1, :4, :4, :1]), wanted, 2, within=(-1.0, 1.0))
    np.testing.assert_allclose(found, resampling.repeat(jnp.clip(wanted, -1, 1), 2), atol=1e-8)


def denoiser(predicts):
    """One that knows nothing at all but the low resolution."""

    def predict(xt, t):
        x0 = jnp.tanh(3 * xt)
        return diffusion.target(SCHEDULE, x0, t, diffusion.predict_eps(SCHEDULE, xt, t, x0), predicts)

    def project(x0):
        return resampling.project(x0, low(), 2, within=(-1.0, 1.0))

    return guidance.revised(predict, SCHEDULE, project, predicts=predicts)


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    "sampler", [samplers.ddim, solvers.dpm_solver, solvers.unipc, solvers.heun, solvers.pndm], ids=lambda f: f.__name__
)
def test_with_projected_estimates_a_sampler_lands_on_an_image_of_the_known_low_resolution(predicts, sampler):
    """The last step of PNDM combines several estimates; here they agree."""
    x_T, grid = jax.random.normal(jax.random.key(0), X.shape), grids.trailing(1000, 7)
    found = sampler(denoiser(predicts), SCHEDULE, x_T, grid, predicts=predicts, clip_x0=True)
    np.testing.assert_allclose(resampling.downsample(found, 2), low(), atol=1e-6)


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_so_do_those_that_add_noise(predicts):
    key, grid, how = jax.random.key(1), grids.trailing(1000, 7), {"predicts": predicts, "clip_x0": True}
    x_T = jax.random.normal(jax.random.key(0), X.shape)
    for found in (
        samplers.ancestral(key, denoiser(predicts), SCHEDULE, X.shape, grid, **how),
        samplers.ddim(denoiser(predicts), SCHEDULE, x_T, grid, eta=1.0, key=key, **how),
        solvers.dpm_solver(denoiser(predicts), SCHEDULE, x_T, grid, key=key, **how),
    ):
        np.testing.assert_allclose(resampling.downsample(found, 2), low(), atol=1e-6)
