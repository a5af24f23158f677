"""Great Expectations' own page about a validation, made to stand alone.

Its template asks eight servers for styles, scripts and a logo: a page about somebody's pictures asks nobody. What it
loads is cut out, and one small style sheet takes the place of Bootstrap; folded parts open by their link alone.
"""

from __future__ import annotations

import re
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { margin: 0 auto; max-width: 1120px; padding: 20px; font: 15px/1.5 system-ui, sans-serif; }
nav.navbar, .sticky, .d-none, [hidden] { display: none; }
h4, h5, h6, .h6 { margin: 0; font-size: 1rem; font-weight: 650; } h4 { font-size: 1.5rem; }
.alert { border-bottom: 1px solid var(--line); margin: 24px 0 8px; padding: 0 0 8px; }
.table-responsive { overflow-x: auto; } td { overflow-wrap: break-word; }
table { border-collapse: collapse; width: 100%; } td, th { border-bottom: 1px solid var(--line); padding: 7px 10px; }
td, th { text-align: left; vertical-align: top; } ul { padding-left: 18px; }
.badge, code { background: var(--soft); border-radius: 4px; padding: 1px 6px; }
.text-success { color: #1d8a4b; } .text-danger { color: #d0342c; } .text-warning { color: #b07a00; }
.text-success::before { content: "✓"; } .text-danger::before { content: "✕"; } .text-warning::before { content: "!"; }
.collapse { display: none; } .collapse:target { display: block; }
"""

# Whole elements that load something, or that only a script could make work.
_CUT = re.compile(
    r"<script\b.*?</script\s*>|<style\b.*?</style\s*>|<iframe\b.*?</iframe\s*>|<form\b.*?</form\s*>"
    r"|<link\b[^>]*>|<img\b[^>]*>|<base\b[^>]*>",
    re.DOTALL | re.IGNORECASE,
)
_LINK = re.compile(r"\s(?:href|src|action|srcset|poster|onclick|onload|style)=(\"[^\"]*\"|'[^']*')", re.IGNORECASE)


def page(results: Any) -> bytes:
    """One HTML file about an ExpectationSuiteValidationResult, with links only inside itself."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    html: str = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(results))
    return stand_alone(html).encode()


def stand_alone(html: str) -> str:
    """The page without anything that it would load, run or lead away to."""
    html = _LINK.sub(lambda found: found[0] if found[1][1:2] == "#" else "", _CUT.sub("", html))
    return html.replace("</head>", f"<style>{_STYLE}</style></head>", 1)
