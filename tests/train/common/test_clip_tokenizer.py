"""Ids equal those of transformers' CLIPTokenizer, made from the same files."""

import itertools
import json
import shutil

import numpy as np
import pytest

from train.common import clip_tokenizer
from train.common.errors import UserError

pre_tokenizers = pytest.importorskip("tokenizers.pre_tokenizers", reason="pip install tokenizers")
transformers = pytest.importorskip("transformers", reason="pip install -r tests/bench/requirements.txt")

CORPUS = """
a photo of a cat sitting on the mat, highly detailed, 4k! it's the dog's lantern; they're painted by rembrandt.
an oil painting of mountains and rivers in the evening light, trending on artstation !!! 猫 на столе été
"""
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def flagged(content, **flags):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False} | flags


KINDS = {  # tokenizer_config.json, special_tokens_map.json
    "version 1": (
        {
            "model_max_length": 77,
            "bos_token": flagged(BEGIN) | {"__type": "AddedToken"},
            "eos_token": flagged(END) | {"__type": "AddedToken"},
            "unk_token": flagged(END) | {"__type": "AddedToken"},
            "pad_token": END,
        },
        {"bos_token": flagged(BEGIN), "eos_token": flagged(END), "unk_token": flagged(END), "pad_token": END},
    ),
    "version 2": (
        {"model_max_length": 77, "pad_token": END},
        {"bos_token": flagged(BEGIN), "eos_token": flagged(END), "unk_token": flagged(END), "pad_token": "!"},
    ),
    "saved lately": (
        {
            "model_max_length": 77,
            "bos_token": BEGIN,
            "eos_token": END,
            "unk_token": END,
            "pad_token": "!",
            "added_tokens_decoder": {
                "0": flagged("!", normalized=False, special=True),
                "-2": flagged(BEGIN, normalized=False, special=True),
                "-1": flagged(END, normalized=True, special=True),
            },
        },
        {},
    ),
    "bare": ({"model_max_length": 77}, {}),
}
PROMPTS = {
    "empty": "",
    "plain": "A photo of a cat, 4K!",
    "long": "an oil painting of mountains " * 40,
    "one too long": "a " * 76,
    "just fits": "a " * 75,
    "emoji": "a cat 🐱 and 👩‍👩‍👧‍👦🏳️‍🌈 !",
    "Chinese": "一只猫坐在垫子上，细节丰富",
    "weird spaces": "\u00a0 a\tphoto\n\n of\u2003a\u200bcat\u3000 ",
    "accents, composed and not": "été e\u0301te\u0301 ÉTÉ ẞ İstanbul",
    "endings": "it's THE dog's; they're 'tis don't I'll we'd",
    "digits": "1234 x5 ½ ²",
    "signs": "hello!!! ((masterpiece:1.2)), [a|b] <lora:x> !a! a!b",
    "special tokens in the text": f"a {END} b {BEGIN}c <|EndOfText|> d{END}{END}",
    "control characters": "a\x00b\x07 \x1f c",
    "Russian and Arabic": "кот на столе قطة",
}


def byte_alphabet():
    """GPT-2's printable sign of each byte, from the tokenizers library itself."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda sign: (ord(sign) > 126, ord(sign)))
    assert len(signs) == 256
    assert signs[0] == "!"
    return signs


def small_vocabulary():
    """Byte-pair encoding learnt from CORPUS: ids in CLIP's order (bytes, bytes that end a word, merges, the two special tokens), merges."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = [(*sign[:-1], sign[-1] + "</w>") for word in CORPUS.split() for sign, _ in level.pre_tokenize_str(word)]
    merges = []
    for _ in range(60):
        pairs = [pair for word in words for pair in itertools.pairwise(word)]
        if not pairs:
            break
        best = max(sorted(set(pairs)), key=pairs.count)
        merges.append(best)
        words = [merged(word, best) for word in words]
    tokens = byte_alphabet() + [sign + "</w>" for sign in byte_alphabet()] + [a + b for a, b in merges] + [BEGIN, END]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def merged(word, pair):
    out = []
    for sign in word:
        if out and (out[-1], sign) == pair:
            out[-1] += sign
        else:
            out.append(sign)
    return tuple(out)


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    vocabulary, merges = small_vocabulary()
    config, special = (dict(content) for content in KINDS[request.param])
    if decoder := config.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {str(int(i) % len(vocabulary)): token for i, token in decoder.items()}
    (path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"} | config))
    if special:
        (path / "special_tokens_map.json").write_text(json.dumps(special))
    return path


def their_ids(folder, prompts):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    return np.array(tokenizer(prompts, padding="max_length", max_length=77, truncation=True).input_ids)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_ids_are_those_of_transformers(folder, prompt):
    np.testing.assert_array_equal(clip_tokenizer.read(folder).encode([prompt]), their_ids(folder, [prompt]))


def test_many_prompts_are_encoded_one_by_one(folder):
    tokenizer, prompts = clip_tokenizer.read(folder), list(PROMPTS.values())
    ids = tokenizer.encode(prompts)
    assert ids.dtype == np.int32
    assert ids.shape == (len(prompts), 77)
    np.testing.assert_array_equal(ids, np.concatenate([tokenizer.encode([prompt]) for prompt in prompts]))
    assert tokenizer.encode([]).shape == (0, 77)


def test_what_is_cut_is_counted_and_the_end_stays(folder):
    tokenizer = clip_tokenizer.read(folder)
    assert [tokenizer.cut(PROMPTS[name]) for name in ("empty", "just fits", "one too long")] == [0, 0, 1]
    assert tokenizer.encode([PROMPTS["long"]])[0, -1] == tokenizer.end


def test_tokenizer_json_alone_says_the_same(folder, tmp_path):
    transformers.CLIPTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    assert (tmp_path / "tokenizer.json").exists()
    prompts = list(PROMPTS.values())
    np.testing.assert_array_equal(clip_tokenizer.read(tmp_path).encode(prompts), their_ids(tmp_path, prompts))


def test_a_token_of_ones_own_is_not_split(folder, tmp_path):
    if "added_tokens_decoder" in (folder / "tokenizer_config.json").read_text():
        pytest.skip("such a folder has no added_tokens.json")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    size = len(json.loads((folder / "vocab.json").read_text()))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<my-cat>": size}))
    prompts = ["a photo of <my-cat>, 4k", "<MY-CAT>!"]
    ids = clip_tokenizer.read(tmp_path).encode(prompts)
    assert size in ids
    np.testing.assert_array_equal(ids, their_ids(tmp_path, prompts))


def test_padding_is_the_end_or_as_in_version_2_an_exclamation_mark_of_id_0(folder):
    tokenizer = clip_tokenizer.read(folder)
    assert tokenizer.pad == (0 if folder.name.startswith(("version_2", "saved_lately")) else tokenizer.end)


def test_a_folder_without_a_vocabulary_or_with_nonsense_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer: merges\.txt is missing"):
        clip_tokenizer.read(tmp_path)
    (tmp_path / "merges.txt").write_text("a b c\n")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match="are not those of CLIP's tokenizer"):
        clip_tokenizer.read(tmp_path)
