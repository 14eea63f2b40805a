"""Training goes on with a checkpoint of Stable Diffusion, whole or by low-rank changes, and diffusers loads what comes out."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen.models.stable_diffusion import lora
from tests.train import checkpoints
from tests.train.checkpoints import SIDE, diffusers
from tests.train.tiny import ADAM, JOB, change
from train import export, finetuning, latent_diffusion, trained
from train.common import checkpoint, config, data
from train.common.errors import UserError

torch = pytest.importorskip("torch", reason="pip install -r tests/bench/requirements.txt")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"noise number {i}")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoints.save(folder)
    return folder


def settings_of(weights, pictures, run, rank=0):
    job = replace(JOB, run=str(run), dataset=f"folder:{pictures}", steps=2, batch_size=8, accelerator="cpu")
    base = change(latent_diffusion.LARGE, job=job, optimizer=ADAM, sampler="ddim", sample_steps=2)
    return replace(base, checkpoint=finetuning.Checkpoint(weights, rank))


@pytest.fixture(scope="module", params=[0, 2])
def run(request, tmp_path_factory, weights, pictures):
    folder = tmp_path_factory.mktemp("run")
    assert latent_diffusion.train(settings_of(weights, pictures, folder, request.param)) == 0
    return request.param, folder


def state_of(folder):
    description = config.read(folder)
    recipe = trained.recipe(folder, description)
    return checkpoint.read(folder / "checkpoints", jax.eval_shape(recipe.init, jax.random.key(0))).state


def tensors_of(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def test_what_is_trained_is_the_unet_or_its_changes_and_the_rest_stays(run, weights):
    rank, folder = run
    state = state_of(folder)
    assert state.params.keys() == ({"lora"} if rank else {"unet"})
    assert state.frozen.keys() == ({"unet"} if rank else set()) | {"autoencoder", "text"}
    momentum = jax.tree.leaves(state.opt[1][0].mu)
    assert all(np.isfinite(leaf).all() for leaf in momentum)
    assert max(np.abs(leaf).max() for leaf in momentum) > 0
    if rank:
        file = export.export(export.Options(folder, folder / "out"))
        assert file.name == "pytorch_lora_weights.safetensors"
    else:
        out = export.export(export.Options(folder, folder / "out"))
        before, after = (diffusers.AutoencoderKL.from_pretrained(path / "vae") for path in (weights, out))
        for name, tensor in tensors_of(before).items():
            np.testing.assert_array_equal(tensors_of(after)[name], tensor)


def test_diffusers_computes_with_what_was_trained_what_we_do(run, weights):
    """The U-Net's prediction, within 1e-4, and not that of the checkpoint."""
    rank, folder = run
    out = export.export(export.Options(folder, folder / "out"))
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(weights if rank else out)
    if rank:
        pytest.importorskip("peft", reason="pip install -r tests/bench/requirements.txt")
        pipeline.load_lora_weights(folder / "out")
    rng = np.random.default_rng(1)
    z, context = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 8, 8, 4), (1, 77, checkpoints.WIDTH)))
    with torch.no_grad():
        theirs = pipeline.unet(
            torch.from_numpy(z.transpose(0, 3, 1, 2)), torch.tensor([500]), torch.from_numpy(context)
        ).sample.numpy()
    state, description = state_of(folder), config.read(folder)
    model = finetuning.model(rank, description["basis"], (SIDE, SIDE, 3), None, None)
    known = {**state.ema, **state.frozen}
    ours = model.apply(known, z, np.array([500]), context, None)
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), atol=1e-4)
    if rank:
        still = {**known, "lora": jax.tree.map(np.zeros_like, known["lora"])}
        assert np.abs(model.apply(still, z, np.array([500]), context, None) - ours).max() > 1e-6


def test_fresh_changes_are_of_every_attention_and_change_nothing(weights):
    from jaxgen.models.stable_diffusion.unet import unet_config, unet_shapes
    from train import pretrained
    from train.common import diffusers_folder

    shapes = unet_shapes(unet_config(diffusers_folder.read_config(weights / "unet")))
    fresh = lora.fresh(jax.random.key(0), shapes, 2)
    attentions = {name.rsplit(".attn", 1)[0] for name in fresh}
    assert len(fresh) == 8 * len(attentions)  # q, k, v and out, of self- and of cross-attention
    params = pretrained.read_params(weights, pretrained.read(weights, np.float32), "unet")
    same = lora.merged(params, lora.changes(fresh))
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_goes_on_without_the_checkpoint_it_began_on(run, weights, pictures, tmp_path):
    rank, folder = run
    settings = settings_of(tmp_path / "gone", pictures, folder, rank)
    assert latent_diffusion.train(replace(settings, job=replace(settings.job, steps=3))) == 0
    assert int(state_of(folder).step) == 3


def test_pictures_and_checkpoints_that_do_not_go_together_are_refused(weights, pictures, tmp_path):
    with pytest.raises(
        UserError, match=r"pictures of 3 channels whose sides are multiples of 4; those of digits are 8x8x1"
    ):
        finetuning.prepare(weights, data.load("digits"), None)
    checkpoints.save(tmp_path / "inpaint", in_channels=9)
    with pytest.raises(UserError, match="looks at more than a latent image and a text"):
        finetuning.prepare(tmp_path / "inpaint", data.load(f"folder:{pictures}"), None)
    with pytest.raises(UserError, match="there is no folder|no model_index"):
        finetuning.prepare(tmp_path / "nowhere", data.load(f"folder:{pictures}"), None)


def test_only_what_went_on_with_a_checkpoint_is_exported(tmp_path):
    from tests.train.tiny import save_run

    save_run(tmp_path / "vae", "vae")
    with pytest.raises(UserError, match=r"is a run of train\.vae; only what went on with a checkpoint"):
        export.export(export.Options(tmp_path / "vae", tmp_path / "out"))
