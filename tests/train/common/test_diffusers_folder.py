"""Folders of checkpoints: what diffusers writes is read, what is written diffusers loads, and a pickle is never opened."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import pytorch
from jaxgen.models.stable_diffusion import autoencoder, controlnet, text, unet, weights
from tests.jaxgen.models.stable_diffusion import peers
from train.common import diffusers_folder
from train.common.errors import UserError

diffusers = pytest.importorskip("diffusers", reason="pip install -r tests/bench/requirements.txt")
transformers = pytest.importorskip("transformers", reason="pip install -r tests/bench/requirements.txt")
torch = peers.torch

CROSS = {"attention_head_dim": 2, "norm_num_groups": 4, "cross_attention_dim": 12, "layers_per_block": 1}
DOWN = {"block_out_channels": (8, 16), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
UP = {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
TEXT = {
    "vocab_size": 99,
    "hidden_size": 12,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "bos_token_id": 97,
    "eos_token_id": 98,
}


def their_parts():
    """Each part's model, and of ours the reader of its configuration and the shapes of its parameters."""
    vae = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    vae |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return {
        "unet": (diffusers.UNet2DConditionModel(**CROSS, **DOWN, **UP), unet.unet_config, unet.unet_shapes),
        "vae": (diffusers.AutoencoderKL(**vae), autoencoder.autoencoder_config, autoencoder.autoencoder_shapes),
        "controlnet": (
            diffusers.ControlNetModel(**CROSS, **DOWN, conditioning_embedding_out_channels=(4, 8)),
            controlnet.controlnet_config,
            controlnet.controlnet_shapes,
        ),
        "text_encoder": (
            transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)),
            text.text_config,
            text.text_shapes,
        ),
    }


PARTS = {name: (peers.randomised(model), *ours) for name, (model, *ours) in their_parts().items()}


@functools.cache
def shapes_of(name):
    model, to_config, shapes = PARTS[name]
    speaker = model.config if name == "text_encoder" else model
    return shapes(to_config(json.loads(speaker.to_json_string())))


def params_of(folder, name):
    """Our parameters of the part in this folder."""
    return weights.from_tensors(diffusers_folder.read_tensors(folder), shapes_of(name))


def expected(name):
    return weights.from_tensors(peers.tensors(PARTS[name][0]), shapes_of(name))


def assert_same(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), ours, theirs)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_diffusers_has_written_is_read_bit_for_bit(name, tmp_path):
    model, to_config, shapes = PARTS[name]
    model.save_pretrained(tmp_path)
    assert shapes(to_config(diffusers_folder.read_config(tmp_path))) == shapes_of(name)
    assert_same(params_of(tmp_path, name), expected(name))


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_we_have_written_loads_there_bit_for_bit(name, tmp_path):
    model = PARTS[name][0]
    model.save_pretrained(tmp_path / "theirs")
    config = diffusers_folder.read_config(tmp_path / "theirs")
    diffusers_folder.write_part(tmp_path / "ours", config, pytorch.to_tensors(expected(name)))
    again, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for (key, tensor), (key_again, tensor_again) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert key == key_again
        assert torch.equal(tensor, tensor_again)
    assert_same(params_of(tmp_path / "ours", name), expected(name))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_tensors_spread_over_several_files_are_read(variant, tmp_path):
    PARTS["unet"][0].save_pretrained(tmp_path, max_shard_size="20KB", variant=variant)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same(params_of(tmp_path, "unet"), expected("unet"))


def test_the_older_name_of_an_index_is_read(tmp_path):
    PARTS["unet"][0].save_pretrained(tmp_path, max_shard_size="20KB", variant="fp16")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.rename(tmp_path / "diffusion_pytorch_model.fp16.safetensors.index.json")
    assert_same(params_of(tmp_path, "unet"), expected("unet"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["vae", "text_encoder"])
def test_half_precision_is_read_as_the_same_values_in_float32(name, dtype, tmp_path):
    model = PARTS[name][0]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.to(dtype).save_pretrained(tmp_path, variant="fp16")
    theirs = {key: tensor.float().numpy() for key, tensor in model.state_dict().items()}
    model.float().load_state_dict(before)
    assert_same(params_of(tmp_path, name), weights.from_tensors(theirs, shapes_of(name)))


def test_full_precision_goes_before_half(tmp_path):
    PARTS["vae"][0].save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not read")
    assert_same(params_of(tmp_path, "vae"), expected("vae"))


def save_checkpoint(folder, variant=None):
    """A Stable Diffusion pipeline without a tokenizer, written by diffusers."""
    pipeline = diffusers.StableDiffusionPipeline(
        vae=PARTS["vae"][0],
        text_encoder=PARTS["text_encoder"][0],
        tokenizer=None,
        unet=PARTS["unet"][0],
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, variant=variant)


def test_the_index_names_the_parts(tmp_path):
    save_checkpoint(tmp_path)
    index = diffusers_folder.read_index(tmp_path)
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_checkpoint_with_one_new_part_and_the_rest_copied_loads_in_diffusers(variant, tmp_path):
    save_checkpoint(tmp_path / "old", variant)
    (tmp_path / "old" / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"a duplicate")
    tuned = jax.tree.map(lambda p: p + 1, expected("unet"))
    config = diffusers_folder.read_config(tmp_path / "old" / "unet")
    diffusers_folder.write_part(tmp_path / "new" / "unet", config, pytorch.to_tensors(tuned))
    diffusers_folder.copy_rest(tmp_path / "old", tmp_path / "new", {"unet"})

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "new", tokenizer=None, safety_checker=None)
    assert type(pipeline.scheduler) is diffusers.DDIMScheduler
    assert not list((tmp_path / "new" / "vae").glob("*.bin"))
    for name, model in {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}.items():
        for key, tensor in PARTS[name][0].state_dict().items():
            assert torch.equal(model.state_dict()[key], tensor + 1 if name == "unet" else tensor)


def test_writing_over_a_part_leaves_no_weights_of_before(tmp_path):
    PARTS["unet"][0].save_pretrained(tmp_path, max_shard_size="20KB")
    config = diffusers_folder.read_config(tmp_path)
    diffusers_folder.write_part(tmp_path, config, pytorch.to_tensors(expected("unet")))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_a_checkpoint_is_not_copied_onto_itself(tmp_path):
    save_checkpoint(tmp_path)
    with pytest.raises(UserError, match="would be written over"):
        diffusers_folder.copy_rest(tmp_path, tmp_path / ".", set())


def test_no_tensor_is_read_before_its_values_are_asked_for(tmp_path, monkeypatch):
    PARTS["vae"][0].save_pretrained(tmp_path)
    tensors = diffusers_folder.read_tensors(tmp_path)
    reads = []
    original = diffusers_folder.Tensor.__array__
    monkeypatch.setattr(
        diffusers_folder.Tensor, "__array__", lambda t, *a, **k: reads.append(t) or original(t, *a, **k)
    )
    assert tensors["decoder.conv_in.weight"].shape == (8, 4, 3, 3)
    assert not reads
    np.asarray(tensors["decoder.conv_in.weight"])
    assert len(reads) == 1


# Refusals


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt"])
def test_a_pickle_is_refused_with_the_reason_and_the_way_out(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError, match=r"pickled .* any code .* \.safetensors .* python -c "):
        diffusers_folder.read_tensors(tmp_path)


def test_a_single_file_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "sd.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=r"is a single file; .*\.from_single_file"):
        diffusers_folder.read_index(tmp_path / "sd.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "names no files"),
        ({"weight_map": {"a": "../elsewhere.safetensors"}}, "which is not beside it"),
        ({"weight_map": {"a": "one.safetensors"}}, "one.safetensors is missing"),
    ],
)
def test_an_index_that_names_what_is_not_there_is_refused(content, message, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        diffusers_folder.read_tensors(tmp_path)


def test_a_damaged_file_and_a_stand_in_of_git_lfs_are_refused_by_name(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\x00" * 5)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        diffusers_folder.read_tensors(tmp_path)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match="git lfs pull"):
        diffusers_folder.read_tensors(tmp_path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    for read, message in (
        (diffusers_folder.read_index, "has no model_index.json"),
        (diffusers_folder.read_config, "has no config.json"),
        (diffusers_folder.read_tensors, "has no weights"),
    ):
        with pytest.raises(UserError, match=message):
            read(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        diffusers_folder.read_index(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(UserError, match="is not JSON"):
        diffusers_folder.read_config(tmp_path)


def test_parameters_on_a_device_are_written_too(tmp_path):
    params = jax.tree.map(jnp.asarray, expected("vae"))
    diffusers_folder.write_part(tmp_path, {"_class_name": "AutoencoderKL"}, pytorch.to_tensors(params))
    read = diffusers_folder.read_tensors(tmp_path)
    for name, tensor in pytorch.to_tensors(params).items():
        np.testing.assert_array_equal(read[name], tensor)
