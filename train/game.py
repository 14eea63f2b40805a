"""The adversarial game that recipes share: two players, their moves, and a step that is Algorithm 1 of Goodfellow et al. 2014
(arXiv:1406.2661): k steps of the discriminator, each on a fresh minibatch of data and of noise, and one of the generator on fresh noise.

A recipe brings what the players want, `Losses`; what they are and how they descend, `train.players`, are settings of all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from train import players
from train.common.errors import check_classes


class Losses(NamedTuple):
    """What the players want."""

    discriminator: Callable
    """score: x, labels -> (b,) without state; real, fake, labels, keys (b,) -> scalar, metrics."""
    generator: Callable
    """Scores of generated images (b,) -> one value each, (b,)."""
    constrain: Callable = lambda params: params
    """The discriminator's parameters after a step -> those that it may have."""


class Game(NamedTuple):
    """The moves of both players, on one device's rows of the axis "data"."""

    init: Callable
    """key -> State"""
    discriminator: Callable
    """State, minibatch, key -> State, metrics: one step of the discriminator."""
    generator: Callable
    """State, minibatch, key -> State, metrics: one step of the generator, for the labels of the minibatch; counts as the run's step."""
    generate: Callable
    """The generator's parameters, noise, labels -> images"""
    noise: Callable
    """keys (b,) -> noise"""
    score: Callable
    """The discriminator's parameters, images, labels -> (b,)"""


def build(config: Any, image_shape: tuple[int, ...], num_classes: int, discriminator_steps: int, losses: Losses):
    """The recipe of a game: for a configuration with a job, network, labels and optimizer.

    Raises:
        UserError: if the configuration cannot work, or not for images of this shape, or labels are missing.
    """
    import jax
    import jax.numpy as jnp

    from train.common import codes
    from train.common.errors import in_words
    from train.common.recipe import Recipe, example_keys

    players.check(config.network, config.optimizer, image_shape)
    if config.labels:
        check_classes("--labels", num_classes, config.job.dataset, "leave it out")
    game = moves(config, image_shape, num_classes if config.labels else 0, losses, discriminator_steps)

    def step(state, batch, key):
        return play(game, discriminator_steps, state, batch, key)

    def noise(state, keys, _):
        return game.noise(keys)

    def generate(state, z, labels):
        return game.generate(state.ema, z, labels)

    def keys_of(batch, key):
        return example_keys(key, len(batch["label"]))

    def sample(state, batch, key):
        return generate(state, game.noise(keys_of(batch, key)), batch["label"])

    def landscape(state, points):
        return game.score(state.params["discriminator"], points, jnp.zeros(len(points), jnp.int32))

    points = len(image_shape) == 1
    # Noise on the quarter circle between two draws from N(0, I) is a draw from it too; on the straight line it is too short.
    pictures = {} if points else {"interpolation": codes.interpolation(keys_of, noise, generate, codes.quarter_circle)}
    if config.labels and not points:
        pictures["classes"] = codes.classes(sample, num_classes)
    with in_words():  # the networks say themselves which images they take
        jax.eval_shape(game.init, jax.random.key(0))
    return Recipe(
        game.init,
        step,
        sample,
        pictures,
        convolutions=config.network.architecture != "mlp",
        minibatches=discriminator_steps,
        landscape=landscape if points and not config.labels else None,
    )


def play(game: Game, discriminator_steps: int, state: Any, batch: dict, key: Any) -> tuple[Any, dict]:
    """Algorithm 1: the state after so many steps of the discriminator and one of the generator, and the metrics of the last moves."""
    import jax

    # A Python loop: gradients of convolutions are slow on a CPU inside one of the compiler's.
    for k in range(discriminator_steps):
        minibatch = {name: rows[k::discriminator_steps] for name, rows in batch.items()}
        state, metrics = game.discriminator(state, minibatch, jax.random.fold_in(key, k))
    state, generator_metrics = game.generator(state, minibatch, jax.random.fold_in(key, discriminator_steps))
    return state, {**metrics, **generator_metrics}


def moves(
    config: Any, image_shape: tuple[int, ...], num_classes: int, losses: Losses, discriminator_steps: int = 1
) -> Game:
    """The players of this configuration; with num_classes = 0 they do not look at labels. The discriminator is to move so many times for
    each move of the generator.
    """
    import jax
    import jax.numpy as jnp

    from train.common import images, optimizer
    from train.common.recipe import State, example_keys

    generator, discriminator = players.networks(config.network, image_shape, num_classes)
    generator_descent, discriminator_descent = players.descents(config.optimizer, discriminator_steps)

    def observe(batch):
        return batch["point"] if "point" in batch else images.to_unit_range(batch["image"])

    def noise(keys):
        return jax.vmap(lambda key: jax.random.normal(key, generator.noise_shape))(keys)

    def generate(params, z, labels):
        return generator.apply({"params": params}, z, labels)

    def score(params, x, labels):
        return discriminator.apply({"params": params}, x, labels)[0]

    def init(key):
        generator_key, discriminator_key, run_key = jax.random.split(key, 3)
        label = jnp.zeros(1, jnp.int32)
        params = {
            "generator": generator.init(generator_key, jnp.zeros((1, *generator.noise_shape)), label)["params"],
            "discriminator": discriminator.init(discriminator_key, jnp.zeros((1, *image_shape)), label)["params"],
        }
        opt = {
            "generator": generator_descent.init(params["generator"]),
            "discriminator": discriminator_descent.init(params["discriminator"]),
        }
        return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params["generator"]), opt, run_key)

    def discriminator_move(state, minibatch, key):
        real, labels = observe(minibatch), minibatch["label"]
        z_keys, loss_keys = jax.vmap(jax.random.split, out_axes=1)(example_keys(key, len(real)))
        fake = generate(state.params["generator"], noise(z_keys), labels)

        def loss(params):
            return losses.discriminator(lambda x, y: score(params, x, y), real, fake, labels, loss_keys)

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params["discriminator"])
        metrics, grads = jax.lax.pmean(({"loss": value, **metrics}, grads), "data")
        state = descend(state, "discriminator", discriminator_descent, grads)
        params = {**state.params, "discriminator": losses.constrain(state.params["discriminator"])}
        metrics = {**metrics, **spread(real, fake), "grad_norm": optimizer.global_norm(grads)}
        return state._replace(params=params), metrics

    def generator_move(state, minibatch, key):
        labels = minibatch["label"]
        z = noise(example_keys(key, len(labels)))

        def loss(params):
            return losses.generator(score(state.params["discriminator"], generate(params, z, labels), labels)).mean()

        value, grads = jax.lax.pmean(jax.value_and_grad(loss)(state.params["generator"]), "data")
        state = descend(state, "generator", generator_descent, grads)
        average = optimizer.moving_average(config.network.ema_decay, state.step, state.ema, state.params["generator"])
        metrics = {"generator_loss": value, "generator_grad_norm": optimizer.global_norm(grads)}
        return state._replace(step=state.step + 1, ema=average), metrics

    return Game(init, discriminator_move, generator_move, generate, noise, score)


def of_both(score: Callable, real: Any, fake: Any, labels: Any) -> tuple[Any, Any]:
    """Scores of real and of generated images, in one pass."""
    import jax.numpy as jnp

    scores = score(jnp.concatenate([real, fake]), jnp.concatenate([labels, labels]))
    return scores[: len(real)], scores[len(real) :]


def of_each(function: Callable, score: Callable, x: Any, labels: Any) -> Any:
    """What the function, such as a penalty, says of the score of one image at a time, with that image's label: (b,)."""
    return function(lambda image, label: score(image[None], label[None])[0], x, labels)


def descend(state: Any, player: str, descent: Any, grads: Any) -> Any:
    """The state after a step of one player along these gradients, by its own optimiser; the rest of it unchanged."""
    import optax

    updates, opt = descent.update(grads, state.opt[player], state.params[player])
    params = optax.apply_updates(state.params[player], updates)
    return state._replace(params={**state.params, player: params}, opt={**state.opt, player: opt})


def spread(real: Any, fake: Any) -> dict[str, Any]:
    """The metric "spread", the standard deviation of what is generated over that of the data, the root mean square over pixels: 1 is
    right, 0 a single image. None of a batch of one, of which it would be 0 however it is.
    """
    import jax
    import jax.numpy as jnp

    def variance(x):
        mean, square = jax.lax.pmean((x.mean(axis=0), (x**2).mean(axis=0)), "data")
        return jnp.maximum(square - mean**2, 0).mean()

    if len(real) * jax.lax.psum(1, "data") == 1:
        return {}
    return {"spread": jnp.sqrt(variance(fake) / jnp.maximum(variance(real), 1e-12))}
