"""A word that the frozen text encoder does not know: vectors learned in front of it (textual inversion)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training.frozen import beside
from training.models.text_encoder import TextEncoder
from training.personalise.subject import PLACEHOLDER


class LearnedToken(nn.Module):
    """`vectors` (n, E) take the place of n word embeddings wherever a caption holds the placeholder."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.detach().clone())


class PromptEncoder:
    """Captions → token embeddings, through a frozen text encoder, with gradients into a learned token.

    `encoder` keeps its weights; its tokenizer learns one entry, the placeholder.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self.length, self.tokenizer, self.model = encoder.length, encoder.tokenizer, encoder.model
        self.width = encoder.width
        self.words = self.model.get_input_embeddings()
        self.tokenizer.add_tokens([PLACEHOLDER], special_tokens=True)
        self.placeholder = int(self.tokenizer.convert_tokens_to_ids(PLACEHOLDER))

    def initial(self, word: str, count: int) -> Tensor:
        """Vectors (count, E) that start as the class word's: its mean embedding (Gal et al. 2022, §4)."""
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        return self.words(torch.tensor(ids, device=self.words.weight.device)).mean(0).expand(count, -1)

    def __call__(self, token: LearnedToken, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """text (N, L, E), zero beyond each caption's length, and lengths int64 (N,); L is the longest's."""
        vectors = token.vectors
        spelled = [caption.replace(PLACEHOLDER, " ".join([PLACEHOLDER] * len(vectors))) for caption in captions]
        tokens = self.tokenizer(spelled, truncation=True, max_length=self.length)["input_ids"]
        device = vectors.device
        lengths = torch.tensor([len(ids) for ids in tokens], device=device)  # (N,)
        valid = torch.arange(int(lengths.max()), device=device) < lengths[:, None]  # (N, L)
        ids = torch.zeros(valid.shape, dtype=torch.long, device=device)
        ids[valid] = torch.tensor([one for row in tokens for one in row], device=device)
        learned = ids == self.placeholder  # (N, L)
        which = (learned.cumsum(1) - 1) % len(vectors)  # (N, L)
        beside(self.model, vectors)
        known = self.words(ids.masked_fill(learned, 0))  # (N, L, E)
        embedded = torch.where(learned[..., None], vectors[which], known)  # (N, L, E)
        states = self.model(inputs_embeds=embedded, attention_mask=valid.long()).last_hidden_state  # (N, L, E)
        return states * valid[..., None], lengths

    def embed(self, token: LearnedToken, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As TextEncoder.embed: float16 (N, length, E) and uint8 (N,)."""
        with torch.inference_mode():
            text, lengths = self(token, captions)
        out = np.zeros((len(captions), self.length, self.width), np.float16)
        out[:, : text.shape[1]] = text.float().cpu().numpy()
        return out, lengths.cpu().numpy().astype(np.uint8)
