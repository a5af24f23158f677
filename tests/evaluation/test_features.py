"""Feature extractors: the weight-free ones as they are, the field's from small random weights on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluation.features import DEFAULT, measured, open_extractor
from evaluation.measured import comparable
from infra.errors import BackdropError


def pictures(count: int = 5, size: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_random_convolutions_are_the_same_everywhere_and_tell_pictures_apart() -> None:
    extractor = open_extractor(DEFAULT)
    images = pictures()
    features = extractor(images)
    assert features.shape == (5, 448)
    assert features.dtype == np.float32
    assert np.array_equal(features, open_extractor("randconv:0")(images))
    assert np.allclose(features[2:3], extractor(images[2:3]), atol=1e-5)  # a picture for itself
    blurred = images.copy()
    blurred[:] = images.mean(axis=(1, 2), keepdims=True)
    assert np.linalg.norm(extractor(blurred) - features, axis=1).min() > 0.5
    # Drawn by numpy: this very hash is to be expected on every machine.
    assert extractor.weights[:12] == "9f38c2307c8f"
    other = open_extractor("randconv:1")
    assert other.weights != extractor.weights
    with pytest.raises(BackdropError, match="extractor 'randconv:0' and 'randconv:1'"):
        comparable(measured(1.0, "kid", extractor, 5, "r"), measured(1.0, "kid", other, 5, "r"))


def test_the_line_s_own_autoencoder_sees_colour_and_layout() -> None:
    def encode(images: np.ndarray) -> np.ndarray:
        assert images.min() >= -1
        assert images.max() <= 1
        return images[:, :, ::8, ::8]

    extractor = open_extractor("vae-latent", encode, "bundle", 64)
    assert extractor.weights == "bundle"
    assert extractor.preprocessing.startswith("64 × 64")
    with pytest.raises(ValueError, match="not of 64 × 64"):
        extractor(pictures())
    images = np.zeros((70, 64, 64, 3), np.uint8)  # more than one chunk
    images[:, :32] = 255
    features = extractor(images).reshape(70, 3, 4, 4)
    assert (features[:, :, :2] == 1).all()
    assert (features[:, :, 2:] == -1).all()
    with pytest.raises(BackdropError, match="needs the line's autoencoder"):
        open_extractor("vae-latent")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("randconf:0", "Did you mean 'randconv'"),
        ("randconv:x", "names no seed"),
        ("randconv:²", "names no seed"),
        ("randconv:", "names no seed"),
        ("clip:", "not at ''"),
        ("dinov2:/nowhere", "not at '/nowhere'"),
        ("inception:/nowhere.pth", "not at"),
        ("vgg:/tmp", "no feature extractor"),
    ],
)
def test_names_that_are_no_extractor(name: str, message: str) -> None:
    with pytest.raises(BackdropError, match=message):
        open_extractor(name)


def test_only_pictures_have_features() -> None:
    for bad in (pictures().astype(np.float32), pictures()[0], pictures()[:0]):
        with pytest.raises(ValueError, match="features are of pictures"):
            open_extractor(DEFAULT)(bad)


def small_clip(folder: Path) -> str:
    from transformers import CLIPConfig, CLIPModel

    side = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**side, "vocab_size": 8, "max_position_embeddings": 6, "bos_token_id": 6, "eos_token_id": 7},
        vision_config={**side, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    words = ["a", "b", "a</w>", "b</w>", "ab</w>", "!", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (folder / "tokenizer_config.json").write_text("{}")
    return f"clip:{folder}"


def test_clip_from_a_folder_embeds_pictures_and_captions(tmp_path: Path) -> None:
    extractor = open_extractor(small_clip(tmp_path))
    features = extractor(pictures())
    texts = extractor.text(["ab", "b a"])  # type: ignore[attr-defined]
    assert features.shape == (5, 8)
    assert texts.shape == (2, 8)
    for vectors in (features, texts):
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not np.allclose(texts[0], texts[1])
    scores = extractor.scores(pictures(2), ["ab", "b a"])  # type: ignore[attr-defined]
    assert scores == pytest.approx(2.5 * np.maximum((features[:2] * texts).sum(axis=1), 0), abs=1e-5)
    assert "32 × 32" in extractor.preprocessing
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert open_extractor(f"clip:{tmp_path}").weights != extractor.weights  # other weights, another key
    weights.write_bytes(data[:100])
    with pytest.raises(BackdropError):
        open_extractor(f"clip:{tmp_path}")


def without(folder: Path, key: str) -> None:
    """The folder's weights, but for one."""
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path: Path) -> None:
    clip = small_clip(tmp_path / "clip")
    without(tmp_path / "clip", "logit_scale")
    open_extractor(clip)  # no feature depends on it
    without(tmp_path / "clip", "visual_projection.weight")
    with pytest.raises(BackdropError, match=r"1 of its weights are missing .* visual_projection.weight"):
        open_extractor(clip)
    dinov2 = small_dinov2(tmp_path / "dinov2")
    without(tmp_path / "dinov2", "embeddings.mask_token")
    open_extractor(dinov2)
    without(tmp_path / "dinov2", "layernorm.bias")
    with pytest.raises(BackdropError, match=r"1 of its weights are missing .* layernorm.bias"):
        open_extractor(dinov2)


def test_another_network_s_folder_is_refused_by_its_type(tmp_path: Path) -> None:
    small_clip(tmp_path)
    with pytest.raises(BackdropError, match="of type 'clip', not 'dinov2'"):
        open_extractor(f"dinov2:{tmp_path}")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BackdropError, match="does not load as clip"):
        open_extractor(f"clip:{tmp_path}")


def small_dinov2(folder: Path) -> str:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=56, mlp_ratio=1
    )
    Dinov2Model(config).save_pretrained(folder)
    return f"dinov2:{folder}"


def test_dinov2_from_a_folder(tmp_path: Path) -> None:
    extractor = open_extractor(small_dinov2(tmp_path))
    assert extractor(pictures(2)).shape == (2, 16)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BackdropError, match="does not load as dinov2"):
        open_extractor(f"dinov2:{tmp_path}")


def test_inception_from_torchvision_s_weights(tmp_path: Path) -> None:
    from torchvision.models import inception_v3

    path = tmp_path / "inception.pth"
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), path)
    extractor = open_extractor(f"inception:{path}")
    features = extractor(pictures(1))
    assert features.shape == (1, 2048)
    assert np.isfinite(features).all()
    path.write_bytes(b"not weights")
    with pytest.raises(BackdropError):
        open_extractor(f"inception:{path}")
    torch.save([1, 2], path)
    with pytest.raises(BackdropError, match="does not load as inception"):
        open_extractor(f"inception:{path}")
