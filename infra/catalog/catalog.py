"""The catalog: one class, whose methods are each one transaction that may be repeated and return plain records."""

from infra.catalog.intake import Intake
from infra.catalog.lineage import Lineage


class Catalog(Intake, Lineage):
    """`Catalog(url)`; `.upgrade()` makes the tables."""
