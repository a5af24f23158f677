"""An engine of the registry, opened and tried: what the studio asks, and what it says about who answered."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deploy.engines.protocol import GraphEngine
from deploy.registry import CHALLENGER, CHAMPION, REGISTERED_NAMES, ModelVersion, Registry
from deploy.studio.frames import Box, Seen
from evaluation.measure import Rank
from evaluation.ranking import best_of_k, candidate_seed
from infra.errors import BackdropError
from infra.object_store import ObjectStore
from infra.settings import Settings

log = logging.getLogger(__name__)

MODEL = REGISTERED_NAMES["tensorrt_engine"]
REPORTS = "stages/evaluation_report/"
BY_SEED = "seed"


@dataclass(frozen=True)
class Candidates:
    """The k answers to one request, best first: uint8 (k, S, S, 3) before compositing, their seeds and scores.

    A score is None where nobody ranks; only differences between scores mean something.
    """

    pictures: np.ndarray
    seeds: tuple[int, ...]
    scores: tuple[float | None, ...]
    ranked_by: str


@dataclass(frozen=True)
class Opened:
    """An engine that is ready. `ranker` is the line's reward model, where a report made one with this engine."""

    version: ModelVersion
    engine: GraphEngine
    steps: int
    guidance: float
    dataset: str
    ranker: Rank | None = None
    reward: str = ""

    @property
    def size(self) -> int:
        """Of the model's pictures, in pixels."""
        return self.engine.image_size

    def answer(self, seen: Seen, prompt: str, negative: str, seed: int, k: int) -> Candidates:
        """k pictures in one batch, ranked."""
        chosen = best_of_k(
            self.engine,
            seen.image[None],
            seen.kept[None],
            [prompt],
            k=k,
            ranker=self.ranker or _no_opinion,
            steps=self.steps,
            guidance=self.guidance,
            seeds=[seed],
            student=True,
            negative=[negative] if negative else None,
        )
        rewards = chosen.rewards[0]
        ranked = self.ranker is not None and bool(np.isfinite(rewards).all())
        order = np.argsort(-rewards, kind="stable") if ranked else np.arange(k)
        return Candidates(
            chosen.candidates[0][order],
            tuple(candidate_seed(seed, int(index)) for index in order),
            tuple(float(rewards[index]) if ranked else None for index in order),
            f"reward {self.reward[:12]}" if ranked else BY_SEED,
        )

    def close(self) -> None:
        """Frees the engine."""
        self.engine.close()


def _no_opinion(images: np.ndarray, products: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    return np.zeros(len(images))


class Source(Protocol):
    """Where engines come from."""

    def aliases(self) -> dict[str, ModelVersion]:
        """ "champion" and "challenger", as far as they are set. Raises whatever the registry raises."""

    def open(self, version: ModelVersion) -> Opened:
        """Opens, verifies and tries it. Raises BackdropError, or whatever a damaged engine raises."""


class LineSource:
    """The registry, the catalog and the store of the line.

    `fallbacks` is what `open_engine` counts into; `guidance` is that of the preset's evaluation.
    """

    def __init__(
        self,
        settings: Settings,
        store: ObjectStore,
        guidance: float,
        backend: str = "auto",
        fallbacks: Counter[str] | None = None,
    ) -> None:
        self._settings, self._store, self._guidance, self._backend = settings, store, guidance, backend
        self._registry = Registry(str(settings.mlflow_uri))
        self._fallbacks: Counter[str] = Counter() if fallbacks is None else fallbacks

    def aliases(self) -> dict[str, ModelVersion]:
        at, found = self._registry.aliases(MODEL), {}
        for alias in (CHAMPION, CHALLENGER):
            try:
                if alias in at:
                    who = f"{MODEL}@{alias} points at version {at[alias]}"
                    found[alias] = self._registry.version(MODEL, at[alias], who)
            except BackdropError as error:
                if alias == CHAMPION:
                    raise
                log.warning("there is no challenger to compare with: %s", error.what)
        return found

    def open(self, version: ModelVersion) -> Opened:
        from deploy.engines.open import open_engine
        from deploy.studio.trust import trust_of
        from evaluation.reward import load_reward
        from infra.bundles import open_bundle

        began = time.monotonic()
        engine = open_engine(
            self._store,
            version.bundle,
            trust_of(self._settings),
            self._backend,
            text_encoder=self._settings.text_encoder,
            fallbacks=self._fallbacks,
        )
        ranker, reward = None, ""
        try:
            if found := reward_of(self._store, version.bundle):
                ranker, reward = load_reward(self._store, found, engine.embed), found
        except Exception as error:  # a ranker is a luxury: candidates then come in the order of their seeds
            log.warning("candidates are not ranked: %s", error)
        try:
            meta = open_bundle(self._store, version.bundle).meta
            opened = Opened(
                version, engine, int(meta["steps"]), self._guidance, str(meta["catalog"]["dataset_version"]), ranker,
                reward,
            )  # fmt: skip
            try_out(opened)
        except BaseException:
            engine.close()
            raise
        log.info("version %s (%s) opened in %.1f s", version.version, version.bundle[:12], time.monotonic() - began)
        return opened


def try_out(opened: Opened, most: int = 4) -> None:
    """Raises unless the engine answers with pictures; also warms what the first requests would wait for."""
    size = opened.size
    kept = np.zeros((size, size), bool)
    kept[size // 4 : size // 2, size // 4 : size // 2] = True
    seen = Seen(np.full((size, size, 3), 128, np.uint8), kept, Box(0, 0, size, size))
    for count in (1, most):
        made = opened.answer(seen, "a product on a grey floor against a white wall", "", 0, count)
        if made.pictures.shape != (count, size, size, 3) or made.pictures.dtype != np.uint8:
            raise BackdropError(
                f"the engine answers with {made.pictures.dtype} {made.pictures.shape}, "
                f"{count} pictures of {size} pixels are wanted",
                "materialise tensorrt_engine again",
            )


def reward_of(store: ObjectStore, engine: str) -> str | None:
    """The reward model that this engine's evaluation has trained: a bundle id out of its report's result."""
    for key in store.list(REPORTS):
        if not key.endswith("/result.json"):
            continue
        data = json.loads(store.get(key)).get("data", {})
        if data.get("engine") == engine and data.get("reward"):
            return str(data["reward"])
    return None
