"""Stable Diffusion 1.5 at its full size, with random weights, against diffusers in PyTorch: agreement, time and peak memory on a CPU.

    pip install -r tests/bench/requirements.txt
    python -m tests.bench.sd15_full [--repeats 3] [--threads 2] [--folder /tmp/sd15-random]

The U-Net computes once for 2 latent images of 64x64 and a context of 77 tokens, the autoencoder decodes one image of 512x512; float32.
PyTorch draws the weights, writes them in its layout (3.8 GB), and computes; then a process of ours reads them from there and computes
the same. One process at a time, so that neither is short of memory. Time is the least of the repeats, after one that is not counted,
on the clock and summed over cores (which says more where others compute too); memory is the most the process ever had, with the
reading of the weights and, for ours, compilation.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BLOCK = {"act_fn": "silu", "layers_per_block": 2, "norm_num_groups": 32}
UNET = BLOCK | {"attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64}
VAE = BLOCK | {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 512,
}
PARTS = ("unet", "vae")
ALLOWED = 1e-3


def inputs(part):
    """Channels last."""
    rng = np.random.default_rng(0)
    if part == "vae":
        return (rng.normal(size=(1, 64, 64, 4)).astype(np.float32),)
    x, context = rng.normal(size=(2, 64, 64, 4)), rng.normal(size=(2, 77, 768))
    return x.astype(np.float32), np.array([981, 1]), context.astype(np.float32)


def timed(function, repeats):
    """The least seconds of a call and the least CPU seconds, both without the first call, and the result."""
    walls, cores = [], []
    for _ in range(repeats + 1):
        start, start_cores = time.perf_counter(), time.process_time()
        result = np.asarray(function())
        walls.append(time.perf_counter() - start)
        cores.append(time.process_time() - start_cores)
    return {"seconds": min(walls[1:]), "cpu": min(cores[1:])}, result


def report(folder, side, part, result, numbers):
    np.save(folder / f"{part}-{side}.npy", result)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"peak GiB": round(peak, 2)} | {name: round(value, 2) for name, value in numbers.items()}))


def diffusers_side(folder, part, repeats, threads):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = (UNet2DConditionModel(**UNET) if part == "unet" else AutoencoderKL(**VAE)).eval()
    x, *rest = inputs(part)
    x, rest = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), [torch.from_numpy(y) for y in rest]

    @torch.no_grad()
    def compute():
        y = model(x, *rest).sample if part == "unet" else model.decode(x).sample
        return y.permute(0, 2, 3, 1).numpy()

    seconds, result = timed(compute, repeats)
    report(folder, "diffusers", part, result, seconds)
    model.save_pretrained(folder / part)


def jaxgen_side(folder, part, repeats):
    import jax

    from jaxgen.models.stable_diffusion import autoencoder, unet, weights
    from train.common import diffusers_folder
    from train.common.parallel import compiler_options

    start = time.perf_counter()
    options = diffusers_folder.read_config(folder / part)
    if part == "unet":
        config = unet.unet_config(options)
        shapes, module, method = unet.unet_shapes(config), unet.UNet(config), None
    else:
        config = autoencoder.autoencoder_config(options)
        shapes, module, method = autoencoder.autoencoder_shapes(config), autoencoder.Autoencoder(config), "decode"
    params = jax.device_put(weights.from_tensors(diffusers_folder.read_tensors(folder / part), shapes))
    jax.block_until_ready(params)
    reading = time.perf_counter() - start

    arguments = inputs(part)
    start = time.perf_counter()
    lowered = jax.jit(lambda p, *x: module.apply({"params": p}, *x, method=method)).lower(params, *arguments)
    program = lowered.compile(compiler_options=compiler_options(jax.default_backend()))
    compiling = time.perf_counter() - start
    seconds, result = timed(lambda: program(params, *arguments), repeats)
    report(folder, "jaxgen", part, result, seconds | {"reading": reading, "compiling": compiling})


def run(side, part, arguments):
    """The numbers of one side, computed in a process of its own."""
    flags = ["--side", side, "--part", part, "--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
    command = [sys.executable, "-m", "tests.bench.sd15_full", *flags, "--folder", str(arguments.folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; ours are as many as there are cores")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/sd15-random"))
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--side", choices=("diffusers", "jaxgen"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.side == "diffusers":
        diffusers_side(arguments.folder, arguments.part, arguments.repeats, arguments.threads)
        return
    if arguments.side == "jaxgen":
        jaxgen_side(arguments.folder, arguments.part, arguments.repeats)
        return

    print(
        "| float32 | ours, s (CPU s) | PyTorch, s (CPU s) | peak GiB: ours | PyTorch | read, s | compiled, s | most they differ |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for part in [arguments.part] if arguments.part else PARTS:
        theirs, ours = run("diffusers", part, arguments), run("jaxgen", part, arguments)
        results = [np.load(arguments.folder / f"{part}-{side}.npy") for side in ("jaxgen", "diffusers")]
        difference, spread = np.abs(results[0] - results[1]).max(), results[1].std()
        print(
            f"| {part} | {ours['seconds']} ({ours['cpu']}) | {theirs['seconds']} ({theirs['cpu']}) "
            f"| {ours['peak GiB']} | {theirs['peak GiB']} | {ours['reading']} | {ours['compiling']} "
            f"| {difference:.1e} of values that vary by {spread:.2g} |",
            flush=True,
        )
        shutil.rmtree(arguments.folder / part)
        if not difference <= ALLOWED:
            sys.exit(f"error: {part}: values differ by {difference:.1e}, more than {ALLOWED}")


if __name__ == "__main__":
    main()
