"""How the APIs say what no grammar held: `enforcement`, a key of their documents and their streams' last events."""

from __future__ import annotations

from collections.abc import Sequence

from kimi_k2_serving.core.shapes import Object
from kimi_k2_serving.grammar.inspection import Report


def enforcement(reports: Sequence[Report | None]) -> Object:
    """`{"enforcement": ...}` of a document's choices, {} where all was held. Of several choices, what is wrong with one
    names it by `choice`; a choice's own last event needs no name.
    """
    found = [(choice, report) for choice, report in enumerate(reports) if report is not None]
    if not found:
        return {}
    if len(reports) == 1:
        return {"enforcement": found[0][1].document()}
    document: Object = {"relaxed": list(found[0][1].relaxed)}
    for name in ("invalid", "invalid_content"):
        entries = [entry for choice, report in found for entry in _named(report, name, choice)]
        if entries:
            document[name] = list(entries)
    return {"enforcement": document}


def _named(report: Report, name: str, choice: int) -> list[Object]:
    match report.document().get(name):
        case list(entries) if name == "invalid":
            return [{"choice": choice, **entry} for entry in entries if isinstance(entry, dict)]
        case list(problems):
            return [{"choice": choice, "problems": problems}]
        case _:
            return []
