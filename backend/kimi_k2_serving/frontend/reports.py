"""How the APIs say what no grammar held and what had no effect: `enforcement` and `notices`, keys of their documents
and of their streams' last events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kimi_k2_serving.core.typed_json import Object
from kimi_k2_serving.enforcer.inspection import Report
from kimi_k2_serving.frontend.origin import Origin


def remarks(reports: Sequence[Report | None], origin: Origin) -> Object:
    """Both keys, each only where it has something to say; paths are those that the client sent."""
    told = [report and replace(report, relaxed=tuple(map(origin.place_of, report.relaxed))) for report in reports]
    notices: Object = {"notices": list(origin.lines)} if origin.lines else {}
    return {**enforcement(told), **notices}


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
