"""Stable Diffusion without PyTorch, transformers, diffusers or TensorFlow."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]

PROGRAM = """
import sys
for name in ("torch", "transformers", "diffusers", "tensorflow", "huggingface_hub"):
    sys.modules[name] = None  # importing it fails

import tempfile
from pathlib import Path

import jax, numpy as np

from jaxgen.models import pytorch
from jaxgen.models.stable_diffusion import autoencoder, controlnet, text, unet, weights
from train.common import clip_tokenizer, diffusers_folder

config = text.TextConfig(vocabulary=9, positions=5, width=4, hidden=6, layers=1, heads=2)
zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), text.text_shapes(config))
folder = Path(tempfile.mkdtemp()) / "text_encoder"
diffusers_folder.write_part(folder, {"model_type": "clip_text_model"}, pytorch.to_tensors(zeros))
params = weights.from_tensors(diffusers_folder.read_tensors(folder), text.text_shapes(config))
print(text.TextEncoder(config).apply({"params": params}, np.zeros((1, 5), int)).shape)
"""


def test_a_checkpoint_is_written_read_and_computed_with_where_nothing_else_is_installed():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "(1, 5, 4)\n", done.stderr
