"""What tools return, as text: JSON of several shapes, plain text, errors, nothing; and what to say about it."""

from __future__ import annotations

import json

from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.draw import Choices, Draw, pool
from kimi_k2_serving.demo.world.topic import Topic, Values, spoken

_KEYS: dict[str, Choices[str]] = {
    "temperature": pool("temperature|temp|temp_c|degrees|t"),
    "condition": pool("condition|conditions|sky|description|weather"),
    "time": pool("time|local_time|now|clock|datetime"),
    "title": pool("title|name|headline|heading|page"),
    "url": pool("url|link|href|address|uri"),
    "content": pool("content|text|data|body|file"),
    "entries": pool("entries|files|names|items|listing"),
    "phone": pool("phone|number|phone_number|tel|mobile"),
    "status": pool("status|state|result|outcome|progress"),
    "price": pool("price|value|quote|last|amount"),
    "name": pool("name|product|title|item|label"),
    "cost": pool("cost|price|eur|amount|costs"),
    "result": pool("result|value|answer|output|total"),
    "id": pool("id|ref|key|number|uid"),
    "output": pool("output|stdout|out|text|printed"),
    "converted": pool("converted|result|value|amount|total"),
    "translation": pool("translation|text|result|translated|output"),
    "distance": pool("distance|km|distance_km|length|far"),
    "duration": pool("duration|time|hours|takes|eta"),
    "ticket": pool("ticket|id|number|key|ref"),
    "state": pool("state|status|phase|step|stage"),
    "bytes": pool("bytes|size|written|length|count"),
}
_NOISE = pool("source|cached|request_id|version|unit|took_ms|server|page|lang|trace|quality|humidity|wind|count|seq")
_FAULTS = pool(
    "not found|permission denied|timeout|service unavailable|invalid argument|rate limit exceeded|connection refused|"
    "internal error|unknown id|access denied|no such file or directory|"
    "bad request|the server did not answer|quota exceeded|"
    "not authorized|the network is down|disk full|no route to host|unsupported value|try again later"
)
_BARE = {"time", "content", "phone", "price", "result", "output", "converted", "translation", "status"}
FAILED = "[this tool call failed]\n"


def returned(draw: Draw, result: Values, given: Values) -> str:
    """The text of a result; `given`: the arguments, which some tools repeat.

    A single value may stand alone; other results are JSON or lines.
    """
    if len(result) == 1 and draw.flip(0.6):
        ((name, value),) = result.items()
        if isinstance(value, list):
            return draw.pick((json.dumps(value), "\n".join(value), "\n".join(f"- {each}" for each in value)))
        if name in _BARE:
            return str(value)
    if "output" in result and draw.flip(0.7):
        return str(result["output"])
    shown: Values = {draw.pick(_KEYS[name].everything): value for name, value in result.items()}
    if len(result) == 1 and draw.flip(0.25):
        shown = {draw.word(): value for value in result.values()}
    if len(shown) < len(result):
        shown = dict(result)
    echoed = [(key, value) for key, value in given.items() if key not in shown] if draw.flip(0.3) else []
    shown = dict(echoed[:2]) | shown
    for _ in range(draw.pick((0, 0, 0, 1, 2, 3))):
        shown.setdefault(
            draw.pick((draw.pick(_NOISE), draw.word())), draw.pick((draw.integer(0, 99), draw.word(), True, False))
        )
    shown = {key: shown[key] for key in draw.shuffled(list(shown))} if draw.flip(0.3) else shown
    return _written(draw, shown)


def _written(draw: Draw, shown: Values) -> str:
    form = draw.integer(0, 9)
    if form == 0:
        return "\n".join(f"{key}: {spoken(value)}" for key, value in shown.items())
    if form == 1:
        return json.dumps({draw.pick(("result", "data", "response")): shown}, ensure_ascii=False)
    if form == 2:
        return json.dumps({"ok": True, **shown}, ensure_ascii=False)
    if form == 3:
        return json.dumps(shown, ensure_ascii=False, indent=2)
    if form <= 5:
        return json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(shown, ensure_ascii=False)


def answered(draw: Draw, topic: Topic, values: Values, result: Values, *, template: str = "") -> str:
    """What the assistant says about a result: the first wording of which it knows all values."""
    known = {key: spoken(value) for key, value in (values | result).items()}
    for each in (template, *topic.answers):
        try:
            said = each.format(**known)
        except KeyError:
            continue
        if said:
            # A temperature may come with its unit.
            return said.replace("C degrees", "C").replace("C Grad", "C").replace("C degrés", "C")
    raise AssertionError(topic.answers)


def prose(draw: Draw) -> tuple[str, str]:
    """A result in words, without the fields that the topic has, and the answer."""
    said = draw.pick((v.phrase, v.action, v.query))(draw)
    text = draw.pick(("{}", "{}.", "Result: {}", "{}\n", '{{"message": "{}"}}', '{{"text": "{}", "ok": true}}')).format(
        said
    )
    return text, f"The result is: {said}"


def failed(draw: Draw) -> tuple[str, str]:
    """The text of a failure, and the answer."""
    fault = draw.pick(_FAULTS)
    if draw.flip(0.6):
        # Most failures name something, so that they can't be known by heart.
        wording = draw.pick(
            ("{0} not found", "no such {0}", "{0}: {1}", "cannot open {0}", "{0} is {1}", "{0} {1} failed", "{1}")
        )
        fault = wording.format(draw.pick((draw.word(), draw.code(), v.path(draw))), draw.pick((draw.word(), fault)))
    if draw.flip(0.3):
        fault += f" ({draw.pick((draw.word(), draw.code()))})"
    form = draw.integer(0, 7)
    if form == 0:
        text = f"Error: {fault}"
    elif form == 1:
        text = json.dumps({"error": fault})
    elif form == 2:
        text = FAILED + fault
    elif form == 3:
        text = json.dumps({"ok": False, "message": fault})
    elif form == 4:
        text = json.dumps({"status": "error", "error": fault, "code": draw.integer(400, 599)})
    elif form == 5:
        text = f"ERROR {draw.integer(1, 599)}: {fault}"
    elif form == 6:
        text = json.dumps({"error": {"message": fault, "type": draw.word()}})
    else:
        text = f"error - {fault}"
    return text, f"That failed: {fault}."


def empty(draw: Draw) -> tuple[str, str]:
    """A result without content, and the answer."""
    return draw.pick(("", "", "[]", "{}", "null", '{"results": []}', '{"result": null}', "(no output)", "None")), (
        "The tool returned nothing."
    )


def document(draw: Draw, count: int) -> list[str]:
    """Lines of a text file."""
    return [draw.pick((v.phrase, v.phrase, v.action, v.query))(draw) for _ in range(count)]


def settings(draw: Draw, count: int) -> dict[str, str]:
    """What a file of settings says."""
    return {
        draw.pick((draw.word(), draw.pick(_SETTINGS))): draw.pick(
            (draw.word(), draw.code(), str(draw.integer(1, 9999)), v.date(draw), v.person(draw), v.city(draw))
        )
        for _ in range(count)
    }


_SETTINGS = pool(
    "port|host|name|secret word|password|version|owner|colour|author|date|"
    "city|user|level|limit|token|title|key|mode|path|code"
)
