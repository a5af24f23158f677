"""The catalog: one class, whose methods are each one transaction that may be repeated and return plain records."""

from infra.catalog.alerts import Alerts
from infra.catalog.checkpoints import Checkpoints
from infra.catalog.deciding import Deciding
from infra.catalog.embeddings import Embeddings
from infra.catalog.intake import Intake
from infra.catalog.ledger import Ledger
from infra.catalog.lineage import Lineage
from infra.catalog.mix import Mix
from infra.catalog.reporting import Reporting
from infra.catalog.scanning import Scanning
from infra.catalog.shown import ShownPictures
from infra.catalog.takedowns import Takedowns
from infra.catalog.tracing import Tracing


class Catalog(
    Intake,
    Scanning,
    Embeddings,
    Deciding,
    Lineage,
    Mix,
    Takedowns,
    ShownPictures,
    Tracing,
    Reporting,
    Checkpoints,
    Ledger,
    Alerts,
):
    """`Catalog(url)`; `.upgrade()` makes the tables."""
