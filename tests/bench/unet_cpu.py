"""Our U-Net against diffusers' ``UNet2DModel`` in PyTorch on two CPU cores: training step, forward pass, 50 DDIM steps.

    pip install -r tests/bench/requirements.txt
    python -m tests.bench.unet_cpu [--pairs 9]

Both networks have 2,245,763 parameters: 32x32x3 images, widths 32-64-64-64, 2 blocks per level, self-attention at 16x16 after
every block and in the middle, heads of 8 channels, normalisation in 32 groups, no dropout, float32. They differ in how a 3x3
convolution of stride 2 pads (ours like the paper's code at the far edge, diffusers' at both) and in diffusers' epsilon (1e-5,
ours 1e-6); neither costs time. A step is: draw timesteps and noise for 16 images, noise them, squared error of the predicted
noise, gradient, Adam. A sampling run is 50 DDIM steps of 16 images, ours in one program, theirs a loop under ``torch.no_grad``.

Each side has a process of its own on the same two cores and sleeps while the other is timed; they take turns, so that a busy
machine slows both, and the ratio is taken within each pair of turns. PyTorch runs eagerly with 2 threads, in the memory format
that is quicker for it, tried for each row; ``--compile`` adds ``torch.compile``, which needs a C++ compiler.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time

BATCH, SIZE, CHANNELS, DDIM_STEPS = 16, 32, 3, 50
WIDTHS = (32, 64, 64, 64)
WORK = {"training step": 3, "forward pass": 6, "50 DDIM steps": 1}  # calls in one turn


def jaxgen_side():
    """Functions to time, one for each row of WORK, and the number of parameters."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxgen import diffusion, samplers, schedules
    from jaxgen.models.unet import UNet
    from train.common.parallel import compiler_options

    unet = UNet(width=32, multipliers=[w // 32 for w in WIDTHS], blocks=2, attention=(16,), head_dim=8)
    schedule, optimizer = schedules.linear(), optax.adam(1e-4)
    images = jax.random.uniform(jax.random.key(0), (BATCH, SIZE, SIZE, CHANNELS), minval=-1.0)
    timesteps = jnp.asarray(schedules.trailing_timesteps(schedule.num_steps, DDIM_STEPS))
    t = jnp.arange(BATCH)

    def init(key):
        params = unet.init(key, images, t)["params"]
        return params, optimizer.init(params)

    def predict(params, x, t):
        return unet.apply({"params": params}, x, t)

    def step(state, key, x0):
        params, moments = state
        t_key, eps_key = jax.random.split(key)
        t = jax.random.randint(t_key, (BATCH,), 0, schedule.num_steps)
        eps = jax.random.normal(eps_key, x0.shape)
        xt = diffusion.q_sample(schedule, x0, t, eps)
        loss, gradients = jax.value_and_grad(lambda p: jnp.square(eps - predict(p, xt, t)).mean())(params)
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(params, updates), moments), loss

    def sample(params, noise):
        return samplers.ddim(lambda x, t: predict(params, x, t), schedule, noise, timesteps)

    def program(function, *arguments, donate=()):
        lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
        return lowered.compile(compiler_options=compiler_options("cpu"))

    state = jax.jit(init)(jax.random.key(1))
    params = jax.tree.map(jnp.copy, state[0])
    keys = iter(jax.random.split(jax.random.key(2), 10_000))
    run_step = program(step, state, jax.random.key(0), images, donate=0)
    run_forward, run_sample = program(predict, params, images, t), program(sample, params, images)

    def train_once():
        nonlocal state
        state, loss = run_step(state, next(keys), images)
        loss.block_until_ready()

    work = {
        "training step": train_once,
        "forward pass": lambda: run_forward(params, images, t).block_until_ready(),
        "50 DDIM steps": lambda: run_sample(params, images).block_until_ready(),
    }
    return work, sum(p.size for p in jax.tree.leaves(params))


def diffusers_side(compiled):
    """Functions to time, one for each row of WORK, and the number of parameters."""
    import torch
    from diffusers import DDIMScheduler, UNet2DModel

    torch.set_num_threads(2)
    torch.manual_seed(0)
    schedule = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, timestep_spacing="trailing")
    schedule.set_timesteps(DDIM_STEPS)

    def work_in(memory_format):
        unet = UNet2DModel(
            sample_size=SIZE,
            layers_per_block=2,
            block_out_channels=WIDTHS,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            norm_num_groups=32,
        ).to(memory_format=memory_format)
        network = torch.compile(unet) if compiled else unet
        optimizer = torch.optim.Adam(unet.parameters(), lr=1e-4)
        images = (2 * torch.rand(BATCH, CHANNELS, SIZE, SIZE) - 1).contiguous(memory_format=memory_format)
        t = torch.arange(BATCH)

        def step():
            t, eps = torch.randint(0, 1000, (BATCH,)), torch.randn_like(images)
            loss = torch.nn.functional.mse_loss(network(schedule.add_noise(images, eps, t), t).sample, eps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        @torch.no_grad()
        def forward():
            network(images, t)

        @torch.no_grad()
        def sample():
            x = images
            for t in schedule.timesteps:
                x = schedule.step(network(x, t).sample, t, x).prev_sample

        return dict(zip(WORK, (step, forward, sample), strict=True)), sum(p.numel() for p in unet.parameters())

    (plain, parameters), (last, _) = work_in(torch.contiguous_format), work_in(torch.channels_last)
    probe = {"50 DDIM steps": "forward pass"}  # the same work 50 times

    def quicker(name):
        first, second = (variant[probe.get(name, name)] for variant in (plain, last))
        times = {first: [], second: []}
        for _ in range(5):
            for function in times:
                start = time.perf_counter()
                function()
                times[function].append(time.perf_counter() - start)
        is_last = statistics.median(times[second][1:]) < statistics.median(times[first][1:])
        print(f"  diffusers, {name}: {'channels_last' if is_last else 'contiguous'} is quicker", file=sys.stderr)
        return (last if is_last else plain)[name]

    return {name: quicker(name) for name in WORK}, parameters


def serve(work, parameters):
    """Answer each row's name on standard input with the seconds of one call, averaged over one turn."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the replies
    for function in work.values():
        function()
    print(parameters, file=replies, flush=True)
    for line in sys.stdin:
        name = line.strip()
        start = time.perf_counter()
        for _ in range(WORK[name]):
            work[name]()
        print((time.perf_counter() - start) / WORK[name], file=replies, flush=True)


class Side:
    """A process that owns one of the two implementations."""

    def __init__(self, *flags):
        command = [sys.executable, "-m", "tests.bench.unet_cpu", *flags]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.parameters = int(self.process.stdout.readline())

    def seconds(self, name):
        print(name, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def hardware():
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def _lines(path):
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="turns of each side for each row")
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of eager PyTorch")
    parser.add_argument("--side", choices=("jaxgen", "diffusers"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    if arguments.side:
        serve(*(jaxgen_side() if arguments.side == "jaxgen" else diffusers_side(arguments.compile)))
        return

    theirs_flags = ("--side", "diffusers", *(["--compile"] if arguments.compile else []))
    ours, theirs = Side("--side", "jaxgen"), Side(*theirs_flags)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "torch", "diffusers"))
    print(f"{hardware()}; Python {platform.python_version()}, {versions}; {datetime.date.today()}", flush=True)
    print(
        f"parameters: ours {ours.parameters:,}, diffusers {theirs.parameters:,}; {arguments.pairs} pairs, medians\n",
        flush=True,
    )
    print("| batch 16, float32 | ours, s | PyTorch, s | ratio (quartiles) |\n|---|---|---|---|")
    for name in WORK:
        pairs = []
        for i in range(arguments.pairs):
            order = (ours, theirs) if i % 2 == 0 else (theirs, ours)
            times = {side: side.seconds(name) for side in order}
            pairs.append((times[ours], times[theirs]))
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        print(f"| {name} | {mine:.3f} | {other:.3f} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)
    ours.close()
    theirs.close()


if __name__ == "__main__":
    main()
