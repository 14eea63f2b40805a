"""jaxgen: the mathematics and the networks of image generative models, as pure functions.

Nothing here reads a file, prints, parses a flag or hides randomness: every draw takes a key. Functions are called through
their module, ``diffusion.q_sample(...)``, and read like the paper they cite.

Conventions, the same everywhere
    images      float32, (batch, height, width, channels), in [-1, 1]
    labels      int32, (batch,)
    timesteps   int32, (batch,), in {0, ..., T-1}; t = 0 is the data after ONE noising step
    losses      one value per example, (batch,), in nats unless the name says bits; the caller takes the mean
    keys        typed keys of ``jax.random.key``; split once, children named by use: ``t_key, eps_key``

Symbols, one meaning each
    x0          an image                            xt          its noised version at timestep t
    t           a timestep                          s           the timestep a sampler goes to, s < t; s = -1 is the image
    eps         standard normal noise               beta        variance added by one noising step
    alpha_bar   prod_{i <= t} (1 - beta_i)          z           a latent vector
    mean        a Gaussian's mean                   logvar      the logarithm of its variance
"""

__version__ = "0.1.0"
