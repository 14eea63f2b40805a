"""Our GAN and WGAN-GP against the same in PyTorch: real images trained on per second.

    pip install -r tests/bench/requirements.txt
    python -m tests.bench.gan_cpu [--pairs 9] [--architecture residual] [--compile] [--accelerator gpu]

Both train the networks of ``train.gan --dataset mnist`` and ``train.wgan_gp --dataset mnist`` as these do, on 60,000 images 28x28x1 of
random bytes, in float32; ``--architecture`` puts another pair in their place. A step is k times: draw a batch of images and one of
noise, generate, the discriminator's loss, its gradient, Adam; and once: draw noise, generate, the generator's loss, its gradient,
Adam. The GAN's discriminator has the penalty R1, WGAN-GP's critic the gradient penalty, so both differentiate twice. Ours is the
product's own path, the generators that `loop.fit` folds, and does more: it keeps a moving average of the generator and returns metrics.
PyTorch takes its batches from a float tensor by random permutations, leaves the discriminator's gradient out of the generator's step,
and of two memory formats and two forms of Adam, a loop over parameters and fused, has the quickest, tried beforehand for each row.

The two sides take turns, as `tests.bench.turns` has it, on two CPU cores, PyTorch with 2 threads. With ``--accelerator gpu`` both have
the GPU instead, in its TF32 format where it has one, which is JAX's default there. PyTorch runs eagerly; ``--compile`` adds
``torch.compile`` of the generator, which needs a C++ compiler; what it compiles cannot be differentiated twice.
"""

import itertools
import statistics
import sys
import time
from dataclasses import replace

from tests.bench import turns
from train import gan, wgan_gp

NUM, SHAPE = 60_000, (28, 28, 1)
ROWS = {"GAN": (gan, gan.MNIST), "WGAN-GP": (wgan_gp, wgan_gp.MNIST)}
STEPS = {"cpu": {"GAN": 20, "WGAN-GP": 5}, "gpu": {"GAN": 640, "WGAN-GP": 128}}  # in one turn, by accelerator


def settings(architecture):
    """The configuration of each row, with this pair of networks if it is given."""
    for name, (_, config) in ROWS.items():
        network = replace(config.network, architecture=architecture or config.network.architecture)
        yield name, replace(config, network=network)


def minibatches(config):
    """Steps of the discriminator for each of the generator."""
    return config.critic_steps if isinstance(config, wgan_gp.Config) else config.discriminator_steps


def jaxgen_side(architecture, accelerator):
    """Functions to time, one for each of ROWS, and what this side is."""
    import jax
    import numpy as np

    from train.common import devices, loop, sources

    on = devices.select(accelerator, 1)
    rng = np.random.default_rng(0)
    bytes_ = rng.integers(0, 256, (NUM, *SHAPE), np.uint8)
    source = sources.in_memory("random", bytes_, rng.integers(0, 10, NUM), map(str, range(10)))

    def row(name, config):
        recipe = ROWS[name][0].recipe(config, source.shape)
        state = loop.initial_state(recipe, 0, on)
        parameters = sum(p.size for p in jax.tree.leaves(state.params))
        common = {"batch_size": config.job.batch_size, "seed": 0, "on": on}
        steps, stride = STEPS[accelerator][name], 1 if accelerator == "cpu" else loop.STRIDE
        if stride == 1:
            states = loop.steps(recipe, state, source, **common)
        else:
            ends = itertools.count(stride, stride)
            states = loop.strides(recipe, state, source, ends, longest=stride, **common)

        def turn():
            for _ in range(steps // stride):
                _, metrics = next(states)
            jax.block_until_ready(metrics)

        return turn, parameters

    rows = {name: row(name, config) for name, config in settings(architecture)}
    parameters = {name: count for name, (_, count) in rows.items()}
    return {name: turn for name, (turn, _) in rows.items()}, {"parameters": parameters, "device": on[0].device_kind}


def torch_side(architecture, accelerator, compiled):
    """Functions to time, one for each of ROWS, and what this side is."""
    import torch

    from tests.bench import torch_gan

    torch.set_num_threads(2)
    torch.manual_seed(0)
    device = torch.device({"cpu": "cpu", "gpu": "cuda"}[accelerator])
    if accelerator == "gpu":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    height, width, channels = SHAPE
    images = (torch.randint(0, 256, (NUM, channels, height, width)) / 127.5 - 1).to(device)

    def quickest(name, config):
        variants = {
            (str(memory_format), "fused" if fused else "loop"): torch_gan.training(
                config, images, minibatches(config), memory_format, fused, compiled
            )
            for memory_format in (torch.contiguous_format, torch.channels_last)
            for fused in (None, True)
        }
        few, times = max(1, STEPS[accelerator][name] // 10), {variant: [] for variant in variants}
        for _ in range(5):
            for variant, (take, _) in variants.items():
                start = time.perf_counter()
                take(few)
                times[variant].append(time.perf_counter() - start)
        medians = {variant: statistics.median(seconds[1:]) / few for variant, seconds in times.items()}
        best = min(medians, key=medians.get)
        print(f"  PyTorch, {name}: {' and '.join(best)} is quickest, seconds of a step {medians}", file=sys.stderr)
        take, parameters = variants[best]
        return lambda: take(STEPS[accelerator][name]), parameters

    rows = {name: quickest(name, config) for name, config in settings(architecture)}
    parameters = {name: count for name, (_, count) in rows.items()}
    return {name: turn for name, (turn, _) in rows.items()}, {"parameters": parameters}


def main():
    parser = turns.parser(__doc__, ("jaxgen", "torch"), pairs=9)
    parser.add_argument("--accelerator", choices=tuple(STEPS), default="cpu", help="where both sides compute")
    parser.add_argument("--architecture", choices=("dcgan", "residual"), help="in place of the presets'")
    arguments = parser.parse_args()
    architecture, accelerator = arguments.architecture, arguments.accelerator
    if accelerator == "cpu":
        turns.on_two_cores()
    if arguments.side:
        ours = arguments.side == "jaxgen"
        side = jaxgen_side if ours else lambda *both: torch_side(*both, arguments.compile)
        work, about = side(architecture, accelerator)
        turns.serve(work, dict.fromkeys(ROWS, 1), about)
        return

    flags = ["--accelerator", accelerator, *(["--architecture", architecture] if architecture else [])]
    flags += ["--compile"] if arguments.compile else []
    ours, theirs = (turns.Side("tests.bench.gan_cpu", "--side", side, *flags) for side in ("jaxgen", "torch"))
    parameters = ours.about["parameters"]
    assert theirs.about["parameters"] == parameters, f"{parameters} parameters against {theirs.about['parameters']}"
    configs = dict(settings(architecture))
    device = turns.cores() if accelerator == "cpu" else ours.about["device"]
    print(turns.setting(device, "jax", "flax", "torch"), flush=True)
    for name, config in configs.items():
        network = config.network
        print(
            f"{name}: {network.architecture}, width {network.width} x {network.multipliers}, {parameters[name]:,} parameters on "
            f"both sides, batch {config.job.batch_size}, {minibatches(config)} of the discriminator's steps for each of the generator's"
        )
    print(f"{arguments.pairs} pairs of turns, medians; images are real ones\n", flush=True)
    print("| float32 | ours, images/s | PyTorch, images/s | ratio (quartiles) |\n|---|---|---|---|")
    for row in turns.rows(ours, theirs, ROWS, arguments.pairs):
        config = configs[row.name]
        images = STEPS[accelerator][row.name] * minibatches(config) * config.job.batch_size
        ratio = f"{1 / row.middle:.2f} ({1 / row.high:.2f} to {1 / row.low:.2f})"
        print(f"| {row.name} | {images / row.ours:,.0f} | {images / row.theirs:,.0f} | {ratio} |", flush=True)
    ours.close()
    theirs.close()


if __name__ == "__main__":
    main()
