"""The keys `enforcement` (schema parts that the grammar does not enforce) and `notices` (parts of the request without
effect), in documents and in the last events of streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kimi_k2_serving.core.typed_json import Object
from kimi_k2_serving.enforcer.inspection import Report
from kimi_k2_serving.frontend.origin import Origin


def remarks(reports: Sequence[Report | None], origin: Origin) -> Object:
    """Both keys, each only if it is not empty. Paths are those of the client's request."""
    placed = [report and replace(report, relaxed=tuple(map(origin.place_of, report.relaxed))) for report in reports]
    notices: Object = {"notices": list(origin.lines)} if origin.lines else {}
    return {**enforcement(placed), **notices}


def enforcement(reports: Sequence[Report | None]) -> Object:
    """`{"enforcement": ...}` for the choices of a document, {} if everything was enforced. If there are several, each
    problem names its `choice`. The last event of one choice needs no such key.
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
