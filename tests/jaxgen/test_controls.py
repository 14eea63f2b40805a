"""Control images of known pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import controls

edges, scribble = (jax.jit(f, static_argnames=("sigma", "low", "high")) for f in (controls.edges, controls.scribble))
low_resolution = jax.jit(controls.low_resolution, static_argnames="factor")


@pytest.fixture(scope="module")
def blobs():
    """Smooth random pictures, (3, 16, 12, 2) in [-1, 1]."""
    noise = jax.random.normal(jax.random.key(0), (3, 4, 3, 2))
    return jnp.clip(1.5 * jax.image.resize(noise, (3, 16, 12, 2), "cubic"), -1, 1)


def step(low=-1.0, high=1.0, at=7, size=14):
    """Dark to the left of the column `at`, bright from there on."""
    return jnp.broadcast_to(jnp.where(jnp.arange(size) < at, low, high)[None, None, :, None], (1, 10, size, 1))


def found(control):
    """Whether each pixel is marked, (h, w) of the first image; the values are -1 and 1 alone."""
    assert set(np.unique(control)) <= {-1.0, 1.0}
    return np.asarray(control[0, :, :, 0]) > 0


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_step_has_one_edge_one_pixel_wide_on_its_bright_side(sigma):
    expected = np.zeros((10, 14), bool)
    expected[:, 7] = True
    np.testing.assert_array_equal(found(edges(step(), sigma=sigma)), expected)
    np.testing.assert_array_equal(found(edges(step()[:, :, ::-1], sigma=sigma)), expected[:, ::-1])


def test_thresholds_are_shares_of_a_step_from_black_to_white():
    for height, edge in ((0.38, False), (0.42, True)):  # of 2, in the middle: 0.2 is 0.4
        assert found(edges(step(0.0, height))).any() == edge
        assert found(edges(step(0.0, height), sigma=3.0)).any() == edge


def test_a_constant_image_has_no_edge_and_no_stroke():
    for value in (-1.0, 0.3, 1.0):
        image = jnp.full((1, 9, 9, 3), value)
        assert not found(edges(image)).any()
        assert not found(scribble(image)).any()


def test_a_faint_edge_counts_where_it_goes_on_from_a_strong_one():
    """A step that fades from row to row: alone its faint part is nothing."""
    height = jnp.array([1.0] * 4 + [0.3] * 6)
    faint = jnp.where(jnp.arange(14)[None, :] < 7, -height[:, None], height[:, None])[None, :, :, None] / 2
    column = found(edges(faint, high=0.4, low=0.1))[:, 7]
    assert column[:2].all()
    assert column[6:].all()
    assert not found(edges(faint[:, 6:], high=0.4, low=0.1)).any()


@pytest.mark.parametrize("control", [edges, scribble, low_resolution])
def test_a_picture_turned_or_mirrored_has_its_control_so(blobs, control):
    expected = control(blobs)
    turned = control(jnp.rot90(blobs, axes=(1, 2)))
    np.testing.assert_allclose(turned, jnp.rot90(expected, axes=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(control(blobs[:, :, ::-1]), expected[:, :, ::-1], atol=1e-6)


@pytest.mark.parametrize("control", [edges, scribble, low_resolution])
def test_each_image_is_treated_by_itself(blobs, control):
    together = control(blobs)
    for i in range(3):
        np.testing.assert_array_equal(control(blobs[i : i + 1])[0], together[i])


def test_edges_are_thin_and_strokes_are_thick(blobs):
    """A square of 2x2 pixels is all edge only where two edges meet."""
    edge, stroke = np.asarray(edges(blobs)) > 0, np.asarray(scribble(blobs)) > 0
    assert 0.02 < edge.mean() < 0.4
    assert (edge[:, 1:, 1:] & edge[:, :-1, 1:] & edge[:, 1:, :-1] & edge[:, :-1, :-1]).mean() < 0.01
    assert stroke.sum() > edge.sum()
    line = found(scribble(step()))
    assert line.sum(axis=1).tolist() == [3] * 10


def test_low_resolution_keeps_means_and_done_twice_it_is_done_once(blobs):
    low = low_resolution(blobs, factor=4)
    np.testing.assert_allclose(low_resolution(low, factor=4), low, atol=1e-6)
    np.testing.assert_allclose(low.mean((1, 2)), blobs.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(
        low[:, 4:8, 8:12], jnp.broadcast_to(blobs[:, 4:8, 8:12].mean((1, 2), keepdims=True), (3, 4, 4, 2)), rtol=1e-5
    )
    np.testing.assert_array_equal(low_resolution(blobs, factor=1), blobs)


def test_a_mask_hides_one_rectangle_and_leaves_the_rest_as_it_is(blobs):
    hidden = controls.rectangles(jax.random.split(jax.random.key(1), 3), 16, 12)
    masked = controls.hide(blobs, hidden)
    for image, out, mask in zip(blobs, masked, hidden[..., 0] > 0, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert not out[mask].any()
        np.testing.assert_array_equal(out[~mask], image[~mask])


def test_rectangles_depend_on_their_own_key_and_every_size_and_place_occurs():
    keys = jax.random.split(jax.random.key(2), 3000)
    hidden = np.asarray(controls.rectangles(keys, 8, 8))[..., 0]
    np.testing.assert_array_equal(controls.rectangles(keys[5:7], 8, 8)[..., 0], hidden[5:7])
    heights = hidden.any(2).sum(1).astype(int)
    assert set(heights) == {2, 3, 4, 5, 6}
    # A height h has 9 - h places; a row is hidden by min(r + 1, 8 - r, h, 9 - h) of them.
    expected = [np.mean([min(r + 1, 8 - r, h, 9 - h) / (9 - h) for h in range(2, 7)]) for r in range(8)]
    np.testing.assert_allclose(hidden.any(2).mean(0), expected, atol=4 * 0.5 / np.sqrt(3000))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: edges(x, sigma=0.0), "got sigma=0.0"),
        (lambda x: edges(x, low=0.3, high=0.2), "low=0.3, high=0.2"),
        (lambda x: low_resolution(x, factor=5), "16x12 are not made of squares of 5 x 5"),
    ],
)
def test_what_makes_no_sense_is_refused(blobs, call, said):
    with pytest.raises(ValueError, match=said):
        call(blobs)
