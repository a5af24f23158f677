"""The editing task over parts that are not a model: what is kept, what is asked of an engine, what a seed decides."""

from collections.abc import Sequence

import numpy as np

from training import masks
from training.editing import complete, composite, noise, to_float, to_uint8


class PlainParts:
    """Latents are quarter-size pictures; the velocity leads to a grey picture and counts its calls."""

    image_size, factor = 8, 4

    def __init__(self) -> None:
        self.calls: list[dict[str, np.ndarray]] = []
        self.embedded: list[list[str]] = []

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images[:, :, ::4, ::4].astype(np.float32)

    def velocity(self, z, t, masked, mask, text, text_length, *rest):  # type: ignore[no-untyped-def]
        given = {"t": t, "masked": masked, "mask": mask, "text_length": text_length}
        names = ("step", "guidance", "negative", "negative_length")
        self.calls.append({**given, **(dict(zip(names, rest, strict=True)) if rest else {})})
        return (z - masked) / t[:, None, None, None]

    def decode(self, latent: np.ndarray, *kept: object) -> np.ndarray:
        return latent.repeat(4, 2).repeat(4, 3)

    def embed(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        self.embedded.append(list(captions))
        return np.ones((len(captions), 3, 2), np.float16), np.full(len(captions), 2, np.uint8)


def scene(count: int = 3) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    product = np.zeros((count, 8, 8), bool)
    product[:, 4:, :4] = True
    return images, product, ["a red wall"] * count


def test_a_teacher_takes_two_forwards_a_step_and_one_without_guidance() -> None:
    images, product, captions = scene()
    for guidance, forwards in ((2.0, 8), (1.0, 4)):
        parts = PlainParts()
        out = complete(parts, images, product, captions, steps=4, guidance=guidance, seeds=range(3), student=False)
        assert out.shape == images.shape
        assert out.dtype == np.uint8
        assert len(parts.calls) == forwards
    assert [call["t"][0] for call in parts.calls] == [1.0, 0.75, 0.5, 0.25]


def test_the_null_forward_drops_the_text_and_never_the_mask() -> None:
    images, product, captions = scene()
    parts = PlainParts()
    complete(parts, images, product, captions, steps=1, guidance=2.0, seeds=range(3), student=False)
    conditional, null = parts.calls
    assert conditional["text_length"].all()
    assert not null["text_length"].any()
    assert np.array_equal(conditional["mask"], null["mask"])
    assert np.array_equal(conditional["masked"], null["masked"])


def test_a_student_takes_one_forward_a_step_with_guidance_as_an_input() -> None:
    images, product, captions = scene()
    parts = PlainParts()
    complete(parts, images, product, captions, steps=4, guidance=3.0, seeds=range(3), student=True)
    assert len(parts.calls) == 4
    assert np.array_equal(parts.calls[0]["step"], np.full(3, 0.25, np.float32))
    assert np.array_equal(parts.calls[0]["guidance"], np.full(3, 3.0, np.float32))
    assert not parts.calls[0]["negative_length"].any()


def test_a_teacher_s_steps_lead_from_noise_to_data_in_any_number_and_with_any_shift() -> None:
    images, product, captions = scene()
    for steps, shift in ((1, 1.0), (3, 1.0), (8, 1.0), (5, 3.0)):
        parts = PlainParts()  # its velocity is that of a straight line, so every Euler step lies on it
        out = complete(
            parts, images, product, captions, steps=steps, guidance=1.0, seeds=range(3), student=False, shift=shift
        )
        kept = np.where(parts.calls[0]["mask"] == 0, parts.calls[0]["masked"], 0)
        assert np.abs(out.transpose(0, 3, 1, 2)[:, :, ::4, ::4] - to_uint8(kept)).max() <= 1
    assert parts.calls[1]["t"][0] == np.float32(3 * 0.8 / (1 + 2 * 0.8))


def test_a_negative_text_takes_the_place_of_no_text() -> None:
    images, product, captions = scene()
    parts = PlainParts()
    complete(
        parts,
        images,
        product,
        captions,
        steps=1,
        guidance=2.0,
        seeds=range(3),
        student=False,
        negative=["blurred"] * 3,
    )
    conditional, away = parts.calls
    assert parts.embedded == [captions, ["blurred"] * 3]
    assert away["text_length"].all()
    assert np.array_equal(conditional["mask"], away["mask"])


def test_a_student_s_negative_text_is_an_input() -> None:
    images, product, captions = scene()
    parts = PlainParts()
    away = ["blurred"] * 3
    complete(parts, images, product, captions, steps=2, guidance=2.0, seeds=range(3), student=True, negative=away)
    assert parts.embedded == [captions, away]
    assert len(parts.calls) == 2
    assert all(call["negative_length"].all() for call in parts.calls)
    assert parts.calls[0]["negative"].dtype == np.float32


def test_a_negative_text_pushes_the_velocity_away_from_its_own() -> None:
    images, product, captions = scene()
    near, far = (np.float32(value) for value in (0.1, 0.3))

    class TwoTexts(PlainParts):
        def velocity(self, z, t, masked, mask, text, text_length, *rest):  # type: ignore[no-untyped-def]
            return np.full_like(z, near if text[0, 0, 0] == 1 else far)

        def embed(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            return np.full((3, 1, 1), 2 if "blurred" in captions else 1, np.float16), np.ones(3, np.uint8)

        def decode(self, latent: np.ndarray, *kept: object) -> np.ndarray:
            self.latent = latent
            return super().decode(latent)

    parts = TwoTexts()
    given = {"steps": 1, "guidance": 3.0, "seeds": range(3), "student": False, "negative": ["blurred"] * 3}
    complete(parts, images, product, captions, **given)  # type: ignore[arg-type]
    v = noise(range(3), parts.latent.shape[1:]) - parts.latent
    np.testing.assert_allclose(v, 3 * near - 2 * far, atol=1e-6)


def test_the_engine_sees_the_product_and_a_grey_hole_only() -> None:
    images, product, captions = scene()
    parts = PlainParts()
    complete(parts, images, product, captions, steps=1, guidance=1.0, seeds=range(3), student=False)
    call = parts.calls[0]
    assert call["mask"][0, 0].tolist() == [[1.0, 1.0], [0.0, 1.0]]
    assert np.array_equal(call["masked"][:, :, 1, 0], to_float(images)[:, 4, 0])
    assert np.all(call["masked"][:, :, 0] == masks.GREY)


def test_composite_is_array_equal_on_the_product() -> None:
    images, product, _ = scene()
    generated = 255 - images
    out = composite(images, generated, product)
    assert np.array_equal(out[product], images[product])
    assert np.array_equal(out[~product], generated[~product])


def test_noise_is_a_function_of_the_row_s_seed_alone() -> None:
    together = noise([3, 4, 5], (8, 2, 2))
    assert np.array_equal(noise([5], (8, 2, 2))[0], together[2])
    assert not np.array_equal(together[0], together[1])


def test_pixels_survive_the_round_trip() -> None:
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8(to_float(values)), values)
