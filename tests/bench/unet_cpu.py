"""Our U-Net against diffusers' ``UNet2DModel`` in PyTorch on two CPU cores: training step, forward pass, 50 DDIM steps.

    pip install -r tests/bench/requirements.txt
    python -m tests.bench.unet_cpu [--pairs 9]

Both networks have 2,245,763 parameters: 32x32x3 images, widths 32-64-64-64, 2 blocks per level, self-attention at 16x16 after
every block and in the middle, heads of 8 channels, normalisation in 32 groups, no dropout, float32. They differ in how a 3x3
convolution of stride 2 pads (ours like the paper's code at the far edge, diffusers' at both) and in diffusers' epsilon (1e-5,
ours 1e-6); neither costs time. A step is: draw timesteps and noise for 16 images, noise them, squared error of the predicted
noise, gradient, Adam. A sampling run is 50 DDIM steps of 16 images, ours in one program, theirs a loop under ``torch.no_grad``.

The two sides take turns, as `tests.bench.turns` has it. PyTorch runs eagerly with 2 threads, in the memory format that is quicker
for it, tried for each row; ``--compile`` adds ``torch.compile``, which needs a C++ compiler.
"""

import statistics
import sys
import time

from tests.bench import turns

BATCH, SIZE, CHANNELS, DDIM_STEPS = 16, 32, 3, 50
WIDTHS = (32, 64, 64, 64)
WORK = {"training step": 3, "forward pass": 6, "50 DDIM steps": 1}  # calls in one turn


def jaxgen_side():
    """Functions to time, one for each row of WORK, and the number of parameters."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxgen import diffusion, grids, samplers, schedules
    from jaxgen.models.unet import UNet
    from train.common.parallel import compiler_options

    unet = UNet(width=32, multipliers=[w // 32 for w in WIDTHS], blocks=2, attention=(16,), head_dim=8)
    schedule, optimizer = schedules.linear(), optax.adam(1e-4)
    images = jax.random.uniform(jax.random.key(0), (BATCH, SIZE, SIZE, CHANNELS), minval=-1.0)
    timesteps = jnp.asarray(grids.trailing(schedule.num_steps, DDIM_STEPS))
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


def main():
    arguments = turns.parser(__doc__, ("jaxgen", "diffusers"), pairs=9).parse_args()
    turns.on_two_cores()
    if arguments.side:
        work, parameters = jaxgen_side() if arguments.side == "jaxgen" else diffusers_side(arguments.compile)
        turns.serve(work, WORK, {"parameters": parameters})
        return

    module = "tests.bench.unet_cpu"
    theirs_flags = ("--side", "diffusers", *(["--compile"] if arguments.compile else []))
    ours, theirs = turns.Side(module, "--side", "jaxgen"), turns.Side(module, *theirs_flags)
    print(turns.setting(turns.cores(), "jax", "flax", "torch", "diffusers"), flush=True)
    print(
        f"parameters: ours {ours.about['parameters']:,}, diffusers {theirs.about['parameters']:,}; "
        f"{arguments.pairs} pairs, medians\n",
        flush=True,
    )
    print("| batch 16, float32 | ours, s | PyTorch, s | ratio (quartiles) |\n|---|---|---|---|")
    for row in turns.rows(ours, theirs, WORK, arguments.pairs):
        ratio = f"{row.middle:.2f} ({row.low:.2f} to {row.high:.2f})"
        print(f"| {row.name} | {row.ours:.3f} | {row.theirs:.3f} | {ratio} |", flush=True)
    ours.close()
    theirs.close()


if __name__ == "__main__":
    main()
