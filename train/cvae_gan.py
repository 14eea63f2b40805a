"""CVAE-GAN (Bao et al. 2017, arXiv:1703.10155): python -m train.cvae_gan

Four networks: an encoder q(z | x, y), a generator x = G(z, y), a discriminator and a classifier. The last two learn as usual; the generator
does not play against them but learns to give images the features that real ones have there, on average: mean feature matching. So an
image can be coded, its label edited, and decoded. ``step`` lies beside the paper's Algorithm 1.
"""

import math
import sys
from dataclasses import dataclass, field, replace

from train import gan, players
from train.common.config import Job
from train.common.errors import check_classes, check_ranges
from train.players import Network, Optimizer


@dataclass(frozen=True)
class Config:
    """A CVAE-GAN and how to train it."""

    job: Job = field(default_factory=Job)
    network: Network = field(default_factory=Network)
    kl_weight: float = 3.0
    """lambda_1, of KL(q(z | x, y) || N(0, I))."""
    reconstruction_weight: float = 1.0
    """lambda_2, of the squared error in pixels and in the features of discriminator and classifier."""
    discriminator_matching: float = 1e-3
    """lambda_3, of the distance of mean features in the discriminator."""
    classifier_matching: float = 1e-3
    """lambda_4, of the distance of each class's mean features in the classifier."""
    mean_decay: float = 0.9
    """Of the moving averages of those mean features."""
    optimizer: Optimizer = field(default_factory=Optimizer)


DIGITS = Config(
    job=replace(gan.DIGITS.job, steps=3000),
    network=replace(gan.DIGITS.network, architecture="dcgan", latent_dim=16),
    optimizer=Optimizer(learning_rate=5e-4),
)
MNIST = Config(
    job=replace(gan.MNIST.job, steps=2000),
    network=replace(gan.MNIST.network, architecture="dcgan", latent_dim=32),
    kl_weight=20.0,
    discriminator_matching=0.5,
    classifier_matching=0.05,
    optimizer=Optimizer(learning_rate=1e-3, decay_steps=2000),
)
"""Codes as short as N(0, I) asks for, and means that weigh as much as pixels: what is drawn from noise is to look like what is decoded."""
IMAGES = Config(job=gan.IMAGES.job, network=gan.IMAGES.network)

PRESETS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(MNIST, job=replace(MNIST.job, dataset="fashion_mnist")),
    "kmnist": replace(MNIST, job=replace(MNIST.job, dataset="kmnist")),
    "*": IMAGES,
}


def recipe(config: Config, image_shape: tuple[int, int, int], num_classes: int):
    """A CVAE-GAN of images (h, w, c) with so many classes. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if there are no classes, or the configuration cannot work, or not for images of this shape.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from jaxgen import adversarial, gaussian
    from jaxgen.models import gan as models
    from train import game
    from train.common import codes, images, optimizer
    from train.common.errors import in_words
    from train.common.recipe import Recipe, State, example_keys, mean_over_rows

    _check(config, image_shape, num_classes)
    generator, conditional = players.networks(config.network, image_shape, num_classes)
    with in_words():  # the networks say themselves which images they take
        trunk, noise_shape = conditional.trunk, generator.noise_shape
    discriminator, classifier = models.Discriminator(trunk), models.Classifier(trunk, num_classes)
    encoder = models.Encoder(trunk, noise_shape, num_classes)
    descent, other_descent = players.descents(config.optimizer)
    descents = {"encoder": descent, "generator": descent, "discriminator": other_descent, "classifier": other_descent}

    def encode(params, x, y):
        """Mean and logvar of q(z | x, y), (b, *noise_shape) each."""
        return encoder.apply({"params": params}, x, y)

    def generate(params, z, y):
        return generator.apply({"params": params}, z, y)

    def discriminate(params, x):
        """Logits (b,) of D(x), and features f_D (b, m)."""
        return discriminator.apply({"params": params}, x)

    def classify(params, x):
        """Logits (b, num_classes) of P(y | x), and features f_C (b, m)."""
        return classifier.apply({"params": params}, x)

    def half_square(a, b):
        """1/2 ||a_i - b_i||^2 for each row, (b,)."""
        return 0.5 * gaussian.sum_per_example((a - b) ** 2)

    def noise(keys):
        return jax.vmap(lambda key: jax.random.normal(key, noise_shape))(keys)

    def init(key):
        *keys, run_key = jax.random.split(key, 5)
        x, z, y = jnp.zeros((1, *image_shape)), jnp.zeros((1, *noise_shape)), jnp.zeros(1, jnp.int32)
        params = {
            "encoder": encoder.init(keys[0], x, y)["params"],
            "generator": generator.init(keys[1], z, y)["params"],
            "discriminator": discriminator.init(keys[2], x)["params"],
            "classifier": classifier.init(keys[3], x)["params"],
        }
        f_D, f_C = discriminate(params["discriminator"], x)[1], classify(params["classifier"], x)[1]
        means = {"D": jnp.zeros_like(f_D[0]), "C": jnp.zeros((num_classes, f_C.shape[1]))}
        opt = {name: descents[name].init(params[name]) for name in params}
        opt |= {"real_means": means, "fake_means": jax.tree.map(jnp.copy, means)}
        return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, averaged(params)), opt, run_key)

    def averaged(params):
        return {name: params[name] for name in ("encoder", "generator")}

    def mean_features(f_D, f_C, y, before):
        """Moving averages of the mean of f_D and of each class's mean of f_C; their gradient is that of this batch's own means."""
        members = jax.nn.one_hot(y, num_classes)
        share = mean_over_rows(members)[:, None]
        of_class = mean_over_rows(members[:, :, None] * f_C[:, None, :]) / jnp.maximum(share, 1e-12)
        now = {"D": mean_over_rows(f_D), "C": jnp.where(share > 0, of_class, before["C"])}
        after = jax.tree.map(lambda a, b: config.mean_decay * a + (1 - config.mean_decay) * b, before, now)
        return jax.tree.map(lambda b, a: b + jax.lax.stop_gradient(a - b), now, after)

    def coder_loss(two, state, x, y, z_keys, noise_keys):
        """lambda_1 L_KL + lambda_2 L_G + lambda_3 L_GD + lambda_4 L_GC: of these L_KL is the encoder's alone, the last two are the
        generator's alone."""
        mean, logvar = encode(two["encoder"], x, y)
        z = jax.vmap(gaussian.reparameterize)(z_keys, mean, logvar)
        x_f, x_p = generate(two["generator"], z, y), generate(two["generator"], noise(noise_keys), y)
        seen = jnp.concatenate([x, x_f, x_p])
        f_D, f_C = discriminate(state.params["discriminator"], seen)[1], classify(state.params["classifier"], seen)[1]
        (f_D_real, f_D_f, f_D_p), (f_C_real, f_C_f, f_C_p) = jnp.split(f_D, 3), jnp.split(f_C, 3)
        kl = gaussian.kl_to_standard_normal(mean, logvar).mean()
        error = (half_square(x, x_f) + half_square(f_D_real, f_D_f) + half_square(f_C_real, f_C_f)).mean()
        real_means = mean_features(f_D_real, f_C_real, y, state.opt["real_means"])
        fake_means = mean_features(f_D_p, f_C_p, y, state.opt["fake_means"])
        L_GD = half_square(real_means["D"][None], fake_means["D"][None])[0]
        L_GC = half_square(real_means["C"], fake_means["C"]).sum()
        value = config.kl_weight * kl + config.reconstruction_weight * error
        value += config.discriminator_matching * L_GD + config.classifier_matching * L_GC
        metrics = {"loss": value, "kl": kl, "error": error, "matching_D": L_GD, "matching_C": L_GC}
        return value, (metrics, x_f, x_p, {"real_means": real_means, "fake_means": fake_means})

    def discriminator_loss(params, x, x_f, x_p):
        real, f, p = jnp.split(discriminate(params, jnp.concatenate([x, x_f, x_p]))[0], 3)
        fake = jnp.concatenate([f, p])
        value = adversarial.discriminator_loss(real, f) - adversarial.saturating_generator_loss(p).mean()
        return value, {"d_real": jax.nn.sigmoid(real).mean(), "d_fake": jax.nn.sigmoid(fake).mean()}

    def classifier_loss(params, x, y):
        logits = classify(params, x)[0]
        value = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return value, {"accuracy": (logits.argmax(axis=1) == y).astype(jnp.float32).mean()}

    def step(state, batch, key):
        """Algorithm 1: all four networks move at once, each along the gradient of its own loss at the parameters before."""
        x, y, keys = images.to_unit_range(batch["image"]), batch["label"], example_keys(key, len(batch["label"]))
        z_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        of_coder = jax.grad(coder_loss, has_aux=True)(averaged(state.params), state, x, y, z_keys, noise_keys)
        grads, (metrics, x_f, x_p, means) = of_coder
        of_discriminator = jax.grad(discriminator_loss, has_aux=True)(state.params["discriminator"], x, x_f, x_p)
        of_classifier = jax.grad(classifier_loss, has_aux=True)(state.params["classifier"], x, y)
        grads |= {"discriminator": of_discriminator[0], "classifier": of_classifier[0]}
        metrics = metrics | of_discriminator[1] | of_classifier[1]
        metrics, grads = jax.lax.pmean((metrics, grads), "data")
        for player, descent in descents.items():
            state = game.descend(state, player, descent, grads[player])
        ema = optimizer.moving_average(config.network.ema_decay, state.step, state.ema, averaged(state.params))
        metrics |= {**game.spread(x, x_p), "grad_norm": optimizer.global_norm(grads)}
        return state._replace(step=state.step + 1, ema=ema, opt={**state.opt, **means}), metrics

    def sample(state, batch, key):
        return generate(state.ema["generator"], noise(example_keys(key, len(batch["label"]))), batch["label"])

    def observe(batch, _):
        return images.to_unit_range(batch["image"])

    def code(state, x, y):
        return encode(state.ema["encoder"], x, y)[0]

    def image(state, z, y):
        return generate(state.ema["generator"], z, y)

    def edited(state, batch, key):
        """Each image, and beside it its code decoded as each class, (b, h, (1 + n) w, c)."""
        x = observe(batch, key)
        z = code(state, x, batch["label"])
        as_class = [image(state, z, labels) for labels in codes.each_class(batch["label"], num_classes)]
        return jnp.concatenate([x, *as_class], axis=2)

    pictures = {
        "classes": codes.classes(sample, num_classes),
        "edited": edited,
        "reconstructions": codes.reconstructions(observe, code, image),
        "interpolation": codes.interpolation(observe, code, image),
    }
    with in_words():
        jax.eval_shape(init, jax.random.key(0))
    return Recipe(init, step, sample, pictures, convolutions=config.network.architecture != "mlp")


def _check(config, image_shape, num_classes):
    check_classes("train.cvae_gan", num_classes, config.job.dataset, "use train.gan")
    players.check(config.network, config.optimizer, image_shape)
    check_ranges(
        ("kl-weight", config.kl_weight, 0, math.inf),
        ("reconstruction-weight", config.reconstruction_weight, 0, math.inf),
        ("discriminator-matching", config.discriminator_matching, 0, math.inf),
        ("classifier-matching", config.classifier_matching, 0, math.inf),
        ("mean-decay", config.mean_decay, 0.0, 0.9999),
    )


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("cvae_gan", command.parse(Config, PRESETS, __doc__), recipe))
