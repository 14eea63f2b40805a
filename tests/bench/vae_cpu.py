"""Our fully connected VAE against the same in PyTorch: images trained on per second.

    pip install -r tests/bench/requirements.txt
    python -m tests.bench.vae_cpu [--pairs 9] [--network paper] [--compile] [--accelerator gpu]

Both are the network that ``train.vae --dataset mnist`` trains, or with ``--network paper`` that of Burda et al. 2016, arXiv:1509.00519:
784-200-200-(50, 50) and 50-200-200-784 with tanh. Bernoulli likelihood, float32, Adam, batches of 128 of 60,000 images 28x28x1 of
random bytes. A step is: draw a batch, draw its pixels black or white, encode, draw codes, decode, bound, gradient, Adam. Ours is the
product's own path, the generators that `loop.fit` folds, and does more: it clips the gradient, keeps a moving average of the
parameters, lets the learning rate rise and fall, and returns metrics. PyTorch takes its batches from a float tensor by random
permutations, and of Adam's loop over parameters and its fused form the quicker, tried beforehand.

The two sides take turns, as `tests.bench.turns` has it, on two CPU cores, PyTorch with 2 threads. With ``--accelerator gpu`` both have
the GPU instead, in its TF32 format where it has one, which is JAX's default there. PyTorch runs eagerly; ``--compile`` adds
``torch.compile`` of the bound, which needs a C++ compiler.
"""

import itertools
import statistics
import sys
import time
from dataclasses import replace

from tests.bench import turns
from train import vae

NUM, SIZE, BATCH = 60_000, 28, 128
NETWORKS = {
    "preset": vae.MNIST.network,
    "paper": replace(vae.MNIST.network, latent_dim=50, hidden=(200, 200), activation="tanh"),
}
STRIDED, SINGLE = "many steps per dispatch", "one step per dispatch"
ROWS = (STRIDED, SINGLE)
STEPS = {"cpu": 320, "gpu": 3200}  # steps in one turn, by accelerator


def jaxgen_side(network, accelerator):
    """Functions to time, one for each of ROWS, and what this side is."""
    import jax
    import numpy as np

    from train.common import devices, loop, sources

    on = devices.select(accelerator, 1)
    rng = np.random.default_rng(0)
    bytes_ = rng.integers(0, 256, (NUM, SIZE, SIZE, 1), np.uint8)
    source = sources.in_memory("random", bytes_, rng.integers(0, 10, NUM), map(str, range(10)))
    recipe = vae.recipe(replace(vae.MNIST, network=network), source.shape)
    common = {"batch_size": BATCH, "seed": 0, "on": on}
    ends = itertools.count(loop.STRIDE, loop.STRIDE)
    first, second = (loop.initial_state(recipe, 0, on) for _ in range(2))  # each loop donates its own
    strided = loop.strides(recipe, first, source, ends, longest=loop.STRIDE, **common)
    single = loop.steps(recipe, second, source, **common)

    def taking(states, count):
        def turn():
            for _ in range(count):
                _, metrics = next(states)
            jax.block_until_ready(metrics)

        return turn

    parameters = sum(p.size for p in jax.tree.leaves(jax.eval_shape(recipe.init, jax.random.key(0)).params))
    work = {
        STRIDED: taking(strided, STEPS[accelerator] // loop.STRIDE),
        SINGLE: taking(single, STEPS[accelerator]),
    }
    return work, {"parameters": parameters, "device": on[0].device_kind}


def torch_side(network, accelerator, compiled):
    """The same function to time for each of ROWS, and what this side is."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(2)
    torch.manual_seed(0)
    device = torch.device({"cpu": "cpu", "gpu": "cuda"}[accelerator])
    if accelerator == "gpu":
        torch.set_float32_matmul_precision("high")
    images = (torch.randint(0, 256, (NUM, SIZE * SIZE)) / 255).to(device)

    activation = {"silu": nn.SiLU, "tanh": nn.Tanh}[network.activation]

    def mlp(*sizes):
        pairs = list(itertools.pairwise(sizes))
        hidden = [module for a, b in pairs[:-1] for module in (nn.Linear(a, b), activation())]
        return nn.Sequential(*hidden, nn.Linear(*pairs[-1]))

    def batches():
        while True:
            for rows in torch.randperm(NUM, device=device).split(BATCH):
                if len(rows) == BATCH:
                    yield images[rows]

    def training(fused):
        encoder = mlp(SIZE * SIZE, *network.hidden, 2 * network.latent_dim).to(device)
        decoder = mlp(network.latent_dim, *network.hidden[::-1], SIZE * SIZE).to(device)
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=vae.MNIST.optimizer.learning_rate, fused=fused)
        feed = batches()

        def negative_elbo(probabilities):
            x = torch.bernoulli(probabilities)
            mean, logvar = encoder(x).chunk(2, dim=1)
            z = mean + torch.exp(logvar / 2) * torch.randn_like(mean)
            reconstruction = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
            kl = 0.5 * (logvar.exp() + mean.square() - 1 - logvar).sum()
            return (reconstruction + kl) / BATCH

        bound = torch.compile(negative_elbo) if compiled else negative_elbo

        def take(steps):
            for _ in range(steps):
                loss = bound(next(feed))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss.item()  # waits for the GPU

        return take, sum(p.numel() for p in parameters)

    variants = {"a loop": training(None), "fused": training(True)}
    few, times = STEPS[accelerator] // 10, {name: [] for name in variants}
    for _ in range(5):
        for name, (take, _) in variants.items():
            start = time.perf_counter()
            take(few)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
    quicker = min(medians, key=medians.get)
    print(f"  PyTorch: Adam is quicker as {quicker}, {medians}", file=sys.stderr)
    take, parameters = variants[quicker]
    return {name: lambda: take(STEPS[accelerator]) for name in ROWS}, {"parameters": parameters}


def main():
    parser = turns.parser(__doc__, ("jaxgen", "torch"), pairs=9)
    parser.add_argument("--accelerator", choices=tuple(STEPS), default="cpu", help="where both sides compute")
    parser.add_argument("--network", choices=tuple(NETWORKS), default="preset", help="that of the preset or the paper")
    arguments = parser.parse_args()
    network, accelerator = NETWORKS[arguments.network], arguments.accelerator
    if accelerator == "cpu":
        turns.on_two_cores()
    if arguments.side:
        ours = arguments.side == "jaxgen"
        work, about = jaxgen_side(network, accelerator) if ours else torch_side(network, accelerator, arguments.compile)
        turns.serve(work, dict.fromkeys(ROWS, 1), about)
        return

    module, flags = "tests.bench.vae_cpu", ["--accelerator", accelerator, "--network", arguments.network]
    flags += ["--compile"] if arguments.compile else []
    ours, theirs = (turns.Side(module, "--side", side, *flags) for side in ("jaxgen", "torch"))
    parameters = ours.about["parameters"]
    assert theirs.about["parameters"] == parameters, f"{parameters} parameters against {theirs.about['parameters']}"
    device = turns.cores() if accelerator == "cpu" else ours.about["device"]
    images = STEPS[accelerator] * BATCH
    print(turns.setting(device, "jax", "flax", "torch"), flush=True)
    print(
        f"hidden sizes {network.hidden}, {network.activation}, parameters: {parameters:,} on both sides; "
        f"{arguments.pairs} pairs of turns of {images:,} images, medians\n",
        flush=True,
    )
    print("| batch 128, float32 | ours, images/s | PyTorch, images/s | ratio (quartiles) |\n|---|---|---|---|")
    for row in turns.rows(ours, theirs, ROWS, arguments.pairs):
        ratio = f"{1 / row.middle:.2f} ({1 / row.high:.2f} to {1 / row.low:.2f})"
        print(f"| {row.name} | {images / row.ours:,.0f} | {images / row.theirs:,.0f} | {ratio} |", flush=True)
    ours.close()
    theirs.close()


if __name__ == "__main__":
    main()
