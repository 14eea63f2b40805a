"""Variational autoencoders (Kingma and Welling 2014, arXiv:1312.6114): python -m train.vae

`build` lies beside the paper's Algorithm 1: draw a minibatch and noise, a gradient step on the bound.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from train import pixels
from train.ae import Network, Optimizer, check_common, code_shape, networks
from train.common.config import Job
from train.common.errors import UserError, check_ranges


@dataclass(frozen=True)
class Config:
    """A variational autoencoder and how to train it."""

    job: Job = field(default_factory=Job)
    network: Network = field(default_factory=Network)
    likelihood: Literal["bernoulli", "gaussian", "discretized_logistic"] = "bernoulli"
    """What the decoder says of a pixel. bernoulli: it is binary, grey levels are drawn as dots at each step; gaussian: it is
    real; discretized_logistic: it is one of 256 levels."""
    variance: float = 0.1
    """gaussian: the decoder's fixed variance, of pixels in [-1, 1]."""
    regularizer: Literal["kl", "naive"] = "kl"
    """naive: ||mean||^2 + ||logvar||^2 in place of the KL, to see what that does."""
    beta: float = 1.0
    """Weight of the regulariser."""
    free_bits: float = 0.0
    """Nats of the KL in each latent dimension that cost nothing."""
    iwae_samples: int = 1
    """Codes drawn per image; with more than one, the importance-weighted bound."""
    optimizer: Optimizer = field(default_factory=Optimizer)


DIGITS = Config(
    job=Job(dataset="digits", steps=4000, batch_size=128, checkpoint_every=1000, sample_every=2000),
    network=Network(latent_dim=2),
)
"""Two latent dimensions, to look at; a minute on two CPU cores."""

MNIST = Config(
    job=Job(dataset="mnist", steps=50_000, batch_size=128, checkpoint_every=2500, sample_every=10_000),
    network=Network(hidden=(400, 400)),
    optimizer=Optimizer(learning_rate=3e-3, decay_steps=50_000),
)
"""A quarter of an hour on two CPU cores."""

COLOUR = Config(
    job=Job(steps=100_000, batch_size=128, checkpoint_every=1000, sample_every=5000),
    network=Network(architecture="conv", latent_dim=128, width=64),
    likelihood="discretized_logistic",
)

PRESETS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": replace(MNIST, job=replace(MNIST.job, dataset="fashion_mnist")),
    "kmnist": replace(MNIST, job=replace(MNIST.job, dataset="kmnist")),
    "*": COLOUR,
}


AT_ONCE = 10
"""Codes per image in one piece of an estimate: a hundred images then take a thousand passes through the decoder at a time."""


class Condition(NamedTuple):
    """What a label changes."""

    params: dict
    """Initial values of parameters of its own."""
    prior_mean: Callable
    """Those parameters, labels (b,) -> mean of the prior of the codes, (b, d)."""
    context: Callable
    """labels (b,) -> what encoder and decoder see of them, (b, e), or None."""


def recipe(config: Config, image_shape: tuple[int, int, int], num_classes: int = 0):
    """A VAE of images (h, w, c); it does not look at labels. JAX is imported here, once the command line has been read.

    Raises:
        UserError: if the configuration cannot work, or not for images of this shape.
    """
    import jax.numpy as jnp

    def origin(_, labels):
        return jnp.zeros((len(labels), math.prod(code_shape(config.network, image_shape))))

    return build(config, image_shape, Condition({}, origin, lambda labels: None))


def build(config: Config, image_shape: tuple[int, int, int], condition: Condition):
    """A VAE under a condition.

    Raises:
        UserError: as `recipe`.
    """
    import jax
    import jax.numpy as jnp

    from jaxgen import gaussian, likelihoods, variational
    from train.common import codes, optimizer
    from train.common.errors import in_words
    from train.common.recipe import Recipe, example_keys, mean_over_rows

    _check(config, image_shape)
    pixel = pixels.of(config.likelihood, config.variance, image_shape[-1])
    latent_dim = math.prod(code_shape(config.network, image_shape))
    settings, K = config.optimizer, config.iwae_samples
    encoder, decoder = networks(config.network, image_shape, 2 * latent_dim, pixel.channels)
    adam = optimizer.adam(settings.learning_rate, settings.warmup_steps, settings.clip_norm, settings.decay_steps)

    def init(key):
        encoder_key, decoder_key, run_key = jax.random.split(key, 3)
        context = condition.context(jnp.zeros(1, jnp.int32))
        params = {
            "encoder": encoder.init(encoder_key, jnp.zeros((1, *image_shape)), context)["params"],
            "decoder": decoder.init(decoder_key, jnp.zeros((1, latent_dim)), context)["params"],
            "condition": jax.tree.map(jnp.asarray, condition.params),
        }
        return optimizer.start(params, adam, run_key)

    def infer(params, x, labels):
        """Mean and logvar of q(z | x), and mean of the prior p(z), all (b, d)."""
        encoded = encoder.apply({"params": params["encoder"]}, x, condition.context(labels))
        return *jnp.split(encoded, 2, axis=-1), condition.prior_mean(params["condition"], labels)

    def decode(params, z, labels):
        """What p(x | z) is made of, for codes (b, d)."""
        return decoder.apply({"params": params["decoder"]}, z, condition.context(labels))

    def draw(keys, num, mean, logvar):
        """So many codes of each q(z | x), (num, b, d), by each example's own key."""
        keys = jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(keys)
        return jax.vmap(jax.vmap(gaussian.reparameterize), (0, None, None))(keys, mean, logvar)

    def log_likelihood(params, z, x, labels):
        """log p(x | z) for codes (num, b, d): (num, b)."""
        decoded = decode(params, z.reshape(-1, latent_dim), jnp.tile(labels, len(z)))
        return jax.vmap(pixel.log_prob, (0, None))(decoded.reshape(len(z), len(x), *decoded.shape[1:]), x)

    def kl_per_dimension(mean, logvar, prior_mean):
        return gaussian.kl_per_dimension(mean, logvar, prior_mean, jnp.zeros_like(logvar))

    def loss(params, x, labels, z_keys):
        mean, logvar, prior_mean = infer(params, x, labels)
        z = draw(z_keys, K, mean, logvar)
        log_p = log_likelihood(params, z, x, labels)
        kl = kl_per_dimension(mean, logvar, prior_mean)
        if K > 1:
            weights = variational.log_weights(log_p, z, mean, logvar, prior_mean)
            bound = variational.importance_weighted_bound(weights).mean()
        elif config.regularizer == "naive":
            bound = variational.elbo(log_p[0], variational.naive_regularizer(mean, logvar), config.beta).mean()
        else:
            charged = variational.free_bits(mean_over_rows(kl), config.free_bits)
            bound = variational.elbo(log_p.mean(), charged, config.beta)
        return -bound, {"reconstruction": -log_p.mean(), "kl": kl.sum(axis=1).mean()}

    def step(state, batch, key):
        x_keys, z_keys = jax.vmap(jax.random.split, out_axes=1)(example_keys(key, len(batch["image"])))
        x = pixel.observe(batch["image"], x_keys)
        (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params, x, batch["label"], z_keys)
        value, terms, grads = jax.lax.pmean((value, terms, grads), "data")
        state = optimizer.descend(state, grads, adam, settings.ema_decay)
        return state, {"loss": value, **terms, "grad_norm": optimizer.global_norm(grads)}

    def sample(state, batch, key):
        """The mean of p(x | z) for codes of the prior."""
        labels = batch["label"]
        mean = condition.prior_mean(state.ema["condition"], labels)
        z = jax.vmap(gaussian.reparameterize)(example_keys(key, len(labels)), mean, jnp.zeros_like(mean))
        return image(state, z, labels)

    def evaluate(state, batch, key, samples):
        """In nats, (b,): minus log p(x) as the importance-weighted bound of so many samples has it, from above; minus the ELBO. Of
        pixels that are not real but one of so many also the first in bits per dimension.
        """
        labels, params = batch["label"], state.ema
        x_keys, z_keys = jax.vmap(jax.random.split, out_axes=1)(example_keys(key, len(labels)))
        x = pixel.observe(batch["image"], x_keys)
        mean, logvar, prior_mean = infer(params, x, labels)
        at_once = min(samples, AT_ONCE)

        def add(sums, i):
            z = draw(jax.vmap(jax.random.fold_in, (0, None))(z_keys, i), at_once, mean, logvar)
            weights = variational.log_weights(log_likelihood(params, z, x, labels), z, mean, logvar, prior_mean)
            counts = (i * at_once + jnp.arange(at_once) < samples)[:, None]
            log_sum = jax.nn.logsumexp(jnp.where(counts, weights, -jnp.inf), axis=0)
            return (jnp.logaddexp(sums[0], log_sum), sums[1] + jnp.where(counts, weights, 0).sum(axis=0)), None

        nothing = jnp.full(len(x), -jnp.inf), jnp.zeros(len(x))
        (log_sum, total), _ = jax.lax.scan(add, nothing, jnp.arange(-(-samples // at_once)))
        nll = math.log(samples) - log_sum
        estimates = {"nll": nll, "negative_elbo": -total / samples}
        if config.likelihood == "gaussian":
            return estimates
        return estimates | {"bits_per_dim": likelihoods.bits_per_dim(nll, math.prod(image_shape))}

    def observe(batch, key):
        return pixel.observe(batch["image"], example_keys(key, len(batch["image"])))

    def code(state, x, labels):
        return infer(state.ema, x, labels)[0]

    def image(state, z, labels):
        return pixel.mean(decode(state.ema, z, labels))

    def spent(state, batch, key):
        return kl_per_dimension(*infer(state.ema, observe(batch, key), batch["label"]))

    pictures = codes.pictures(observe, code, image, latent_dim)
    with in_words():  # the networks say themselves which images they take
        jax.eval_shape(init, jax.random.key(0))
    return Recipe(
        init,
        step,
        sample,
        pictures,
        statistics={"KL per latent dimension": spent},
        evaluate=evaluate,
        convolutions=config.network.architecture != "mlp",
    )


def _check(config, image_shape):
    check_common(config.network, config.optimizer)
    check_ranges(
        ("variance", config.variance, 1e-6, math.inf),
        ("beta", config.beta, 0, math.inf),
        ("free-bits", config.free_bits, 0, math.inf),
        ("iwae-samples", config.iwae_samples, 1, math.inf),
    )
    if config.likelihood == "bernoulli" and image_shape[-1] > 1:
        raise UserError(
            f"--likelihood bernoulli is for grey pixels, drawn as black or white dots; these have {image_shape[-1]} channels. "
            "Choose discretized_logistic or gaussian"
        )
    if config.iwae_samples > 1 and (config.regularizer, config.beta, config.free_bits) != ("kl", 1, 0):
        raise UserError(
            "--iwae-samples above 1 bounds log p(x) itself: leave --regularizer, --beta and --free-bits as they are"
        )
    if config.regularizer == "naive" and config.free_bits:
        raise UserError("--free-bits are of the KL: leave them out, or choose --regularizer kl")


if __name__ == "__main__":
    from train.common import command

    sys.exit(command.main("vae", command.parse(Config, PRESETS, __doc__), recipe))
