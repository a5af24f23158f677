"""What can be known to be wrong before anything is started: said at once, in one message."""

from __future__ import annotations

from infra.errors import BackdropError
from infra.settings import Settings


def preflight(settings: Settings) -> None:
    """Raises BackdropError for an unknown preset or key, a damaged text encoder, or an IMAGES that holds no picture."""
    from pydantic import ValidationError

    from assets.curation.readers import read_delivery
    from assets.curation.specs import CatalogueSection, CurationSection
    from training.presets import explain, load_preset
    from training.text_source import check_text_encoder

    preset = load_preset(settings.preset, settings.config)
    for section, values in ((CatalogueSection, preset.catalogue), (CurationSection, preset.curation)):
        try:
            section.model_validate(values)
        except ValidationError as error:
            raise explain(error, section, f"preset {preset.name}") from None
    check_text_encoder(settings.text_encoder)
    if settings.images:
        next(item for item in read_delivery(settings.images) if not item.problem)
    _room_for_work(settings)


def _room_for_work(settings: Settings) -> None:
    import shutil

    settings.state.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.state).free
    if free < _NEEDED_BYTES:
        raise BackdropError(
            f"the disk of {settings.state} has {free / 2**30:.1f} GiB left, too little for a run",
            "free some space, or point BACKDROP_STATE at a larger disk",
        )


#: The embedded default at preset nano leaves about half of this.
_NEEDED_BYTES = 2 * 2**30
