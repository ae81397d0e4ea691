"""How people word a request: politely, in haste, without punctuation, with a greeting before it."""

from __future__ import annotations

from kimi_k2_serving.demo.world.draw import Draw, raw_pool

_BEFORE = raw_pool(
    "Please: |Hi! |Hello, |Hey, |I have a question. |Quick question: |"
    "Next: |Okay, |One thing: |Good morning. |Now: |So, |"
    "Help me: |A task: |Hi there. |Listen: |Well, |Could you help? |Right, |For my work: "
)
_AFTER = raw_pool(
    " please| Please.| Thanks.| Thank you!| for me, please| now| if you can|"
    " quickly| right now| please!| (thanks)| asap|"
    " today| pls| - thanks"
)


_ASKING = raw_pool(
    "Can you |Could you |Could you please |Would you |can you please |I want you to |I need you to |Go and |Just |"
    "You should |Will you |could you |I would like you to |Can you please |Now "
)
# Requests that begin with these ask somebody to do something.
_IMPERATIVE = frozenset(
    (
        *("read", "open", "show", "tell", "give", "find", "look", "list", "send", "write", "set", "add", "create"),
        *("convert", "translate", "calculate", "compute", "turn", "switch", "put", "make", "remind", "track", "check"),
        *("save", "take", "remember", "fetch", "get", "print", "display", "query", "start", "plan", "book"),
    )
)

# What follows these words is a value to the end of the request.
_VERBATIM = frozenset(("run", "execute", "type", "cat", "ls", "google", "play", "search", "shop"))


def worded(draw: Draw, text: str) -> str:
    """The request as somebody might write it. Values in it stay as they are."""
    if text.split()[0].lower() in _IMPERATIVE and draw.flip(0.15):
        text = draw.pick(_ASKING) + text[0].lower() + text[1:]
        if text[-1] == ".":
            text = text[:-1] + ("?" if draw.flip(0.6) else "")
    if "'s " in text[:8] and draw.flip(0.15):
        text = text.replace("'s ", "s ", 1)
    if draw.flip(0.12):
        text = text[0].lower() + text[1:] if text[0].isupper() and text[1:2].islower() else text
        text = draw.pick(_BEFORE) + text
    if draw.flip(0.15):
        after = draw.pick(_AFTER)
        if text[-1] in "?.":
            text = text[:-1] + after + (text[-1] if after[-1].isalpha() else "")
        elif text[-1].isalnum() and ":" not in text and text.split()[0].lower() not in _VERBATIM:
            text += after
    if draw.flip(0.12) and text[-1] in "?." and text[-2] != " ":
        text = text[:-1]
    if draw.flip(0.1):
        # The first word alone: what follows it may be a value.
        first, space, rest = text.partition(" ")
        text = first.lower() + space + rest if first.isalpha() and first.istitle() and _is_common(first) else text
    return text


_COMMON = frozenset(
    [
        "what",
        "how",
        "read",
        "open",
        "show",
        "tell",
        "give",
        "find",
        "search",
        "look",
        "list",
        "run",
        "execute",
        "send",
        "write",
        "mail",
        "email",
        "please",
        "set",
        "add",
        "create",
        "convert",
        "translate",
        "calculate",
        "compute",
        "turn",
        "switch",
        "play",
        "put",
        "make",
        "remind",
        "is",
        "do",
        "can",
        "which",
        "where",
        "track",
        "check",
        "who",
        "i",
        "plan",
        "directions",
        "route",
        "weather",
        "forecast",
        "note",
        "save",
        "take",
        "remember",
    ]
)


def _is_common(word: str) -> bool:
    return word.lower() in _COMMON
