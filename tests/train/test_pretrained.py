"""What a checkpoint's folder says of its networks and its chain is what diffusers makes of it; what does not fit is refused in words."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests.train import checkpoints
from tests.train.checkpoints import diffusers
from train import pretrained
from train.common.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    checkpoints.save(path)
    return path


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [2, 7, 50])
def test_timesteps_are_those_of_diffusers(spacing, steps, tmp_path):
    scheduler = checkpoints.ddim(timestep_spacing=spacing)
    scheduler.save_pretrained(tmp_path)
    scheduler.set_timesteps(steps)
    chain = pretrained.read_chain(tmp_path)
    np.testing.assert_array_equal(pretrained.timesteps(chain, None, steps), scheduler.timesteps)


@pytest.mark.parametrize("shape", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero", [False, True])
def test_noise_is_that_of_diffusers(shape, zero, tmp_path):
    scheduler = checkpoints.ddim(beta_schedule=shape, rescale_betas_zero_snr=zero, prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path)
    chain = pretrained.read_chain(tmp_path)
    assert chain.predicts == "v"
    np.testing.assert_allclose(chain.schedule.alpha_bars, scheduler.alphas_cumprod, atol=1e-4)


def test_betas_may_be_a_table(tmp_path):
    diffusers.DDIMScheduler(trained_betas=[0.1, 0.2, 0.4]).save_pretrained(tmp_path)
    np.testing.assert_allclose(pretrained.read_chain(tmp_path).schedule.betas, [0.1, 0.2, 0.4])


def test_strength_is_how_far_the_steps_go_not_how_many_they_are(tmp_path):
    checkpoints.ddim(timestep_spacing="trailing").save_pretrained(tmp_path)
    chain = pretrained.read_chain(tmp_path)
    np.testing.assert_array_equal(pretrained.timesteps(chain, None, 4, 0.8), [799, 599, 399, 199])
    for grid in ("leading", "trailing", "linspace", "karras", "even_log_snr"):
        for steps, strength in ((5, 0.3), (50, 0.09), (60, 0.1), (180, 0.3), (250, 0.7)):
            found = pretrained.timesteps(chain, grid, steps, strength)
            assert len(found) == steps
            if grid not in ("karras", "even_log_snr"):  # which go other ways through the chain
                assert abs(found[0] - 1000 * strength) <= 1000 * strength / steps + 2
    np.testing.assert_array_equal(pretrained.timesteps(chain, "leading", 4), [751, 501, 251, 1])
    np.testing.assert_array_equal(pretrained.timesteps(chain, "leading", 4, 0.8), [601, 401, 201, 1])
    with pytest.raises(UserError, match="--steps 30 are too many: .* share of 0.02 of them 20"):
        pretrained.timesteps(chain, None, 30, 0.02)


def test_kernels_are_rounded_once_and_norms_stay_precise(folder):
    checkpoint = pretrained.read(folder, jnp.bfloat16)
    params = pretrained.read_params(folder, checkpoint, "unet")
    kinds = {path[-1].key: leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    assert kinds == {"kernel": jnp.bfloat16, "bias": np.float32, "scale": np.float32}
    decoder = pretrained.read_params(folder, checkpoint, "autoencoder")
    assert {leaf.dtype for leaf in jax.tree.leaves(decoder)} == {np.dtype(np.float32)}


def test_the_upscaler_s_first_files_leave_out_the_scale_of_its_latent_images(tmp_path):
    checkpoints.save(tmp_path, 7)
    file = tmp_path / "vae" / "config.json"
    options = json.loads(file.read_text())
    del options["scaling_factor"]
    file.write_text(json.dumps(options))
    checkpoint = pretrained.read(tmp_path, jnp.float32)
    assert checkpoint.autoencoder.config.scale == 0.08333
    assert checkpoint.low_resolution.betas[-1] == pytest.approx(0.02)
    assert checkpoint.max_noise_level == 350


@pytest.mark.parametrize(
    ("name", "value"),
    [("beta_schedule", "sigmoid"), ("prediction_type", "flow_prediction"), ("timestep_spacing", "random")],
)
def test_a_chain_of_another_kind_is_refused(name, value, tmp_path):
    checkpoints.ddim().save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(UserError, match=f"{name} is '{value}'; only .* are known"):
        pretrained.read_chain(tmp_path)


def test_a_pipeline_of_another_family_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "FluxPipeline", "vae": [], "transformer": []})
    )
    with pytest.raises(UserError, match="is for FluxPipeline; only checkpoints of Stable Diffusion 1.x and 2.x"):
        pretrained.read(tmp_path, jnp.float32)


def test_what_is_no_controlnet_or_one_for_other_u_nets_is_refused(folder, tmp_path):
    checkpoint = pretrained.read(folder, jnp.float32)
    with pytest.raises(UserError, match="holds UNet2DConditionModel, not a ControlNet"):
        pretrained.read_control(folder / "unet", checkpoint)
    with pytest.raises(UserError, match="there is no folder"):
        pretrained.read_control(folder / "nowhere", checkpoint)
    checkpoints.control(cross_attention_dim=16).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a context of 16 channels .* this checkpoint has 12"):
        pretrained.read_control(tmp_path, checkpoint)
    for options, said in (
        ({"layers_per_block": 3}, "blocks of each level are"),
        ({"in_channels": 9}, "channels of latent images are 9, and this one's 4"),
        ({"conditioning_embedding_out_channels": (8, 8, 8, 8, 8)}, "pixels along a latent one are 16, and this one's"),
    ):
        checkpoints.control(**options).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=said):
            pretrained.read_control(tmp_path, checkpoint)


def test_a_checkpoint_is_known_again_by_the_files_of_its_parameters(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    known, of_text = pretrained.digest(folder), pretrained.digest(folder, ["text"])
    assert pretrained.digest(copy) == known != of_text
    weights = next((copy / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    pretrained.check_unchanged(copy, of_text, ["text"])
    with pytest.raises(UserError, match="copy is not the checkpoint that this run began on, of which it keeps a copy"):
        pretrained.check_unchanged(copy, known)
    for unknown in ((None, known), (tmp_path / "gone", known), (copy, None)):
        pretrained.check_unchanged(*unknown)


def test_low_rank_changes_are_read_with_the_alpha_that_diffusers_writes(folder, tmp_path):
    checkpoint = pretrained.read(folder, jnp.float32)
    layer, file = "mid_block.attentions.0.proj_in", tmp_path / "pytorch_lora_weights.safetensors"
    down, up = np.ones((4, 16, 1, 1), np.float32), np.ones((16, 4, 1, 1), np.float32)
    tensors = {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
    about = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {}})}
    safetensors.numpy.save_file(tensors, file, metadata=about)
    changes = pretrained.read_changes(file, checkpoint)
    assert changes["text"] == {}
    assert changes["unet"].keys() == {layer}
    assert changes["unet"][layer].scale == 2

    safetensors.numpy.save_file(tensors, file, metadata={"lora_adapter_metadata": '{"unet.use_dora": true}'})
    with pytest.raises(UserError, match="has the option unet.use_dora, which is not supported"):
        pretrained.read_changes(file, checkpoint)
    safetensors.numpy.save_file({"weight": down}, file)
    with pytest.raises(UserError, match="has no low-rank changes"):
        pretrained.read_changes(file, checkpoint)
    for name, message in (("a.safetensors", "cannot be read"), ("a.ckpt", "is pickled")):
        with pytest.raises(UserError, match=message):
            pretrained.read_changes(tmp_path / name, checkpoint)
