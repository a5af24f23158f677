"""A reward: how well a composite answers its caption, learned from pairs of which one is the better.

The chance that one is preferred is the logistic of the difference (Bradley and Terry 1952). It is used to pick the best
of k, and is no metric of quality: what picks pictures cannot judge them too (see `evaluation.ranking`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from evaluation.preferences import Preference, reduced, reduced_mask
from evaluation.reward_network import RewardConfig, RewardNetwork, cells
from infra.bundles import open_bundle, write_bundle
from infra.errors import BackdropError
from infra.files import canonical_json
from infra.object_store import ObjectStore

KIND = "reward"
_CHUNK = 256

Embed = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
"""Captions → text tokens (N, L, E) float16, zero beyond each one's length, and lengths (N,)."""


class Reward:
    """A trained network, asked about composites of any size. Calls as `evaluation.measure.Rank`."""

    def __init__(self, network: RewardNetwork, embed: Embed) -> None:
        self.network, self._embed = network.eval(), embed

    def __call__(self, images: np.ndarray, products: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """uint8 (N, H, W, 3), bool (N, H, W) and N captions → float64 (N,); only differences mean something.

        Raises:
            ValueError: as many pictures, masks and captions are not there.
        """
        if not len(images) == len(products) == len(captions):
            raise ValueError(f"{len(images)} pictures, {len(products)} masks and {len(captions)} captions")
        found = []
        for start in range(0, len(images), _CHUNK):
            rows = slice(start, start + _CHUNK)
            seen = cells([reduced(image) for image in images[rows]], [reduced_mask(mask) for mask in products[rows]])
            with torch.inference_mode():
                wanted = self.network.captions(*_tokens(self._embed, captions[rows]))
                found.append((self.network.pictures(seen) * wanted).sum(1).double().numpy())
        return np.concatenate(found)


def train_reward(
    pairs: Sequence[Preference],
    embed: Embed,
    *,
    steps: int,
    seed: int,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Reward:
    """Learn from pairs. The same arguments give the same reward.

    Beside each pair, every other caption of the batch is worse for its picture: what it was asked for is what it shows.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("a reward is learned from pairs, and there are none")
    known = sorted({caption for pair in pairs for caption in (pair.caption, pair.worse_caption)})
    place = {caption: index for index, caption in enumerate(known)}
    text, length = _tokens(embed, known)
    shown, which = _shown(pairs)
    asked = np.array([[place[pair.caption], place[pair.worse_caption]] for pair in pairs])  # (P, 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RewardNetwork(RewardConfig(text_width=text.shape[2]))
    network.normalise(text, length)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps + 1, pct_start=0.15)
    for step in range(steps):
        rows = torch.randint(len(pairs), (min(batch_size, len(pairs)),), generator=generator).numpy()
        better, worse = (network.pictures(_jittered(shown[which[rows, side]], generator)) for side in (0, 1))
        right, wrong = (network.captions(text[asked[rows, side]], length[asked[rows, side]]) for side in (0, 1))
        loss = _loss(better, worse, right, wrong)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        progress(step + 1, steps)
    return Reward(network, embed)


def _loss(better: Tensor, worse: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Bradley-Terry over the pairs, and over each picture's caption against the batch's other ones; all (B, D)."""
    score = (better * right).sum(1)
    pairs = F.softplus((worse * wrong).sum(1) - score).mean()
    crossed = better @ right.T  # (B, B): picture × caption
    others = F.softplus(crossed - score[:, None]) * (1 - torch.eye(len(score)))
    return pairs + others.sum() / max(1, len(score) * (len(score) - 1))


def accuracy(reward: Reward, pairs: Sequence[Preference]) -> dict[str, float]:
    """Share of pairs that it puts right, by kind and over "all"; on pairs that it has not learned from."""
    products = np.stack([pair.product for pair in pairs])
    better = reward(np.stack([pair.better for pair in pairs]), products, [pair.caption for pair in pairs])
    worse = reward(np.stack([pair.worse for pair in pairs]), products, [pair.worse_caption for pair in pairs])
    kinds = np.array([pair.kind for pair in pairs])
    right = (better > worse).astype(np.float64)
    return {"all": float(right.mean())} | {str(kind): float(right[kinds == kind].mean()) for kind in np.unique(kinds)}


def save_reward(store: ObjectStore, prefix: str, reward: Reward, meta: Mapping[str, Any]) -> str:
    """Write it below `prefix`; returns the bundle's id."""
    weights = {name: value.detach().contiguous() for name, value in reward.network.state_dict().items()}
    config = canonical_json(asdict(reward.network.config))
    return write_bundle(store, prefix, KIND, {"model.safetensors": save_tensors(weights), "config.json": config}, meta)


def load_reward(store: ObjectStore, bundle_id: str, embed: Embed) -> Reward:
    """The reward of a bundle, verified by hash.

    Raises:
        BackdropError: another kind of bundle, or an embedder of another width than it has learned from.
    """
    bundle = open_bundle(store, bundle_id)
    if bundle.kind != KIND:
        raise BackdropError(f"bundle {bundle_id[:12]} is a {bundle.kind}, not a {KIND}", "give a reward's id")
    network = RewardNetwork(RewardConfig(**json.loads(bundle.read("config.json"))))
    width = embed(["a product"])[0].shape[2]
    if width != network.config.text_width:
        raise BackdropError(
            f"reward {bundle_id[:12]} reads text of width {network.config.text_width}, the encoder gives {width}",
            "use the text encoder that it was trained with, or train it again",
        )
    network.load_state_dict(load_tensors(bundle.read("model.safetensors")))
    return Reward(network, embed)


def _shown(pairs: Sequence[Preference]) -> tuple[Tensor, np.ndarray]:
    """The cells of all different pictures, and for each pair the places of its better and its worse one, (P, 2)."""
    place: dict[int, int] = {}
    first: list[tuple[np.ndarray, np.ndarray]] = []
    for pair in pairs:
        for image in (pair.better, pair.worse):
            if id(image) not in place:
                place[id(image)] = len(first)
                first.append((image, pair.product))
    chunks = [first[start : start + _CHUNK] for start in range(0, len(first), _CHUNK)]
    shown = torch.cat([cells(*zip(*chunk, strict=True)) for chunk in chunks])
    return shown, np.array([[place[id(pair.better)], place[id(pair.worse)]] for pair in pairs])


def _tokens(embed: Embed, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    text, length = embed(list(captions))
    return torch.from_numpy(text), torch.from_numpy(np.asarray(length, np.int64))


def _jittered(seen: Tensor, generator: torch.Generator) -> Tensor:
    """Cells with some grain: no picture is seen twice as the same."""
    return seen + 0.05 * torch.randn(seen.shape, generator=generator)
