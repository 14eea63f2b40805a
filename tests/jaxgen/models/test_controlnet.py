"""The control branch: nothing at first, a copy in its parameters, and the same network as the U-Net's own way down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.controlnet import ControlNet
from jaxgen.models.unet import UNet
from tests.jaxgen.models.parameters import drawn, noised

NET = UNet(
    out_channels=2, width=8, multipliers=(1, 2), blocks=1, attention=(2,), groups=4, patch=2, num_classes=3, dropout=0.5
)
BRANCH = ControlNet(NET, hint=(4,))


@pytest.fixture(scope="module")
def inputs():
    """x, t, control, labels."""
    x_key, c_key = jax.random.split(jax.random.key(0))
    x, control = jax.random.normal(x_key, (2, 8, 8, 1)), jax.random.normal(c_key, (2, 8, 8, 1))
    return x, jnp.array([3, 700]), control, jnp.array([0, 3])


@pytest.fixture(scope="module")
def base(inputs):
    x, t, _, labels = inputs
    return drawn(NET, x, t, None, labels)


@pytest.fixture(scope="module")
def fresh(inputs):
    x, t, control, labels = inputs
    return jax.jit(BRANCH.init)(jax.random.key(3), x, t, control, None, labels)["params"]


@jax.jit
def predicted(base, x, t, labels, residuals=None):
    return NET.apply({"params": base}, x, t, None, labels, residuals)


@jax.jit
def said(branch, x, t, control, keys, labels):
    return BRANCH.apply({"params": branch}, x, t, control, keys, labels)


def test_its_trunk_has_the_parameters_of_the_u_nets_way_down_and_middle(base, fresh):
    own = {name for name in fresh if name.startswith(("hint", "to_"))}
    shared = fresh.keys() - own
    assert shared == {name for name in base if not name.startswith(("up", "norm_out", "conv_out"))}
    for name in shared:
        assert jax.tree.map(jnp.shape, fresh[name]) == jax.tree.map(jnp.shape, base[name])
    # The first layer, a block and an attention at each level, and what halves the resolution; then the middle.
    assert own == {"hint0", "hint_out", "to_skip0", "to_skip1", "to_skip2", "to_skip3", "to_middle"}


def test_a_fresh_branch_a_copied_one_too_adds_exactly_nothing(base, fresh, inputs):
    x, t, control, labels = inputs
    for branch in (fresh, {name: base.get(name, parameters) for name, parameters in fresh.items()}):
        residuals = said(branch, x, t, control, None, labels)
        assert all((y == 0).all() for y in jax.tree.leaves(residuals))
        np.testing.assert_array_equal(predicted(base, x, t, labels, residuals), predicted(base, x, t, labels))


def test_what_it_says_reaches_the_output_through_every_skip_connection_and_the_middle(base, fresh, inputs):
    x, t, control, labels = inputs
    plain, (to_skips, to_middle) = predicted(base, x, t, labels), said(noised(fresh, 4), x, t, control, None, labels)
    residuals = [*to_skips, to_middle]
    for i in range(len(residuals)):
        *skips, middle = [y if i == j else jnp.zeros_like(y) for j, y in enumerate(residuals)]
        assert jnp.abs(predicted(base, x, t, labels, (skips, middle)) - plain).max() > 1e-3


def test_each_image_is_controlled_by_its_own_control_and_keys(fresh, inputs):
    x, t, control, labels = inputs
    branch, keys = noised(fresh, 4), jax.random.split(jax.random.key(5), 2)
    before = said(branch, x, t, control, keys, labels)
    after = said(branch, x, t, control.at[1].set(-control[1]), keys, labels)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert jnp.abs(a[1] - b[1]).max() > 1e-3
    other = said(branch, x, t, control, jax.random.split(jax.random.key(6), 2), labels)
    assert jnp.abs(other[1] - before[1]).max() > 1e-3


def test_a_control_of_twice_the_size_has_as_many_pixels_as_channels_of_the_first_layer(inputs):
    x, t, control, labels = inputs
    twice = jnp.concatenate([control, -control], axis=1).repeat(2, axis=2)
    (to_skips, to_middle), params = jax.eval_shape(
        BRANCH.init_with_output, jax.random.key(0), x, t, twice, None, labels
    )
    assert params["params"]["hint0"]["kernel"].shape == (3, 3, 16, 4)
    assert [y.shape[1] for y in (*to_skips, to_middle)] == [4, 4, 2, 2, 2]


@pytest.mark.parametrize("size", [(4, 8), (8, 12), (12, 12)])
def test_a_control_of_another_size_is_refused(fresh, inputs, size):
    x, t, _, labels = inputs
    with pytest.raises(ValueError, match=f"the control image must be 8x8, height x width; got {size[0]}x{size[1]}"):
        BRANCH.apply({"params": fresh}, x, t, jnp.zeros((2, *size, 1)), None, labels)


def test_in_bfloat16_parameters_and_what_is_said_stay_float32(base, fresh, inputs):
    x, t, control, labels = inputs
    coarse = ControlNet(NET.clone(dtype=jnp.bfloat16), hint=(4,))
    residuals = jax.jit(coarse.apply)({"params": noised(fresh, 4)}, x, t, control, None, labels)
    assert {y.dtype for y in jax.tree.leaves(residuals)} == {jnp.dtype(jnp.float32)}
    y = jax.jit(NET.clone(dtype=jnp.bfloat16).apply)({"params": base}, x, t, None, labels, residuals)
    exact = predicted(base, x, t, labels, said(noised(fresh, 4), x, t, control, None, labels))
    assert jnp.linalg.norm(y - exact) < 0.1 * jnp.linalg.norm(exact)
