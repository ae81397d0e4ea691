"""The values of `format` that are enforced, as patterns. All others are annotations, as in JSON Schema.

Dates respect the lengths of months and leap years; host names consist of letters, digits and hyphens, of any length;
an IPv6 address is written in full or with one `::`; a regular expression has no groups inside groups and uses only
syntax that all dialects read alike.
"""

from __future__ import annotations

from collections.abc import Mapping

_YEAR = r"(?:[1-9][0-9]{3})"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:1[0-9]|[2-9][0-9])(?:0[48]|[2468][048]|[13579][26])-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_ZONE = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_H = r"[0-9A-Fa-f]{1,4}"
_V6 = "|".join(
    (
        rf"(?:{_H}:){{7}}{_H}",
        *(rf"(?:{_H}(?::{_H}){{0,{left}}})?::(?:{_H}(?::{_H}){{0,{5 - left}}})?" for left in range(6)),
    )
)
_PATH = r"[A-Za-z0-9._~!$&'()*+,;=:@/-]"
_REST = rf"(?:{_PATH}|%[0-9A-Fa-f]{{2}})*"
_QUERY = rf"(?:\?(?:{_PATH}|[?]|%[0-9A-Fa-f]{{2}})*)?(?:#(?:{_PATH}|[?]|%[0-9A-Fa-f]{{2}})*)?"
_NUMBER = r"[0-9]{1,4}"
_TIME_PART = rf"T(?:{_NUMBER}H(?:{_NUMBER}M(?:{_NUMBER}S)?)?|{_NUMBER}M(?:{_NUMBER}S)?|{_NUMBER}S)"
_DATE_PART = rf"(?:{_NUMBER}Y(?:{_NUMBER}M(?:{_NUMBER}D)?)?|{_NUMBER}M(?:{_NUMBER}D)?|{_NUMBER}D)"

# Characters of other scripts that every validator of the idn formats accepts: lower case, syllables and ideographs.
_WORD = (
    r"[a-z0-9\u00df-\u00f6\u00f8-\u00ff\u03b1-\u03c1\u0430-\u044f\u3042-\u3093\u30a2-\u30f3\u4e00-\u9fa5\uac00-\ud7a3]"
)
_RELATIVE = rf"(?:/?[A-Za-z0-9._~-]+(?:/{_REST})?)?{_QUERY}"
_URI = rf"(?:[a-z][a-z0-9+.-]*://{_HOST}(?::[0-9]{{1,4}})?(?:/{_REST})?|(?:mailto|urn|tel|data):{_PATH}{_REST}){_QUERY}"

_VARIABLE = r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*(?::[1-9][0-9]{0,3}|\*)?"
_TEMPLATE = rf"(?:[A-Za-z0-9._~!$&()*+,;=:@/?#-]|%[0-9A-Fa-f]{{2}}|\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"

_ESCAPE = r"\\[dDwWsS.^$|?*+()\[\]{}\\/-]"
_ANY_OF = rf"\[\^?(?:[^\\\[\]^&~|\u0000-\u001f-]|a-z|A-Z|0-9|{_ESCAPE})+\]"
_ATOM = rf"(?:[^\\^$.|?*+()\[\]{{}}/\u0000-\u001f]|{_ESCAPE}|\.|{_ANY_OF})"
_TIMES = r"(?:(?:[*+?]|\{[1-9][0-9]?,?\})\??)?"


def _choices(atom: str) -> str:
    sequence = rf"(?:{atom}{_TIMES})*"
    return rf"{sequence}(?:\|{sequence})*"


def _grouped(atom: str) -> str:
    return rf"(?:{_ATOM}|\((?:\?:)?{_choices(atom)}\))"


_REGEX = rf"\^?{_choices(_grouped(_ATOM))}\$?"

PATTERNS: Mapping[str, str] = {
    "date": f"^{_DATE}$",
    "time": f"^{_CLOCK}{_ZONE}$",
    "date-time": f"^{_DATE}T{_CLOCK}{_ZONE}$",
    "duration": f"^P(?:{_DATE_PART}(?:{_TIME_PART})?|{_TIME_PART}|{_NUMBER}W)$",
    "email": rf"^[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@{_LABEL}(?:\.{_LABEL})+$",
    "hostname": f"^{_HOST}$",
    "ipv4": f"^{_V4}$",
    "ipv6": f"^(?:{_V6})$",
    "uuid": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
    "uri": f"^{_URI}$",
    "iri": f"^{_URI}$",
    "uri-reference": f"^(?:{_URI}|{_RELATIVE})$",
    "iri-reference": f"^(?:{_URI}|{_RELATIVE})$",
    "idn-email": rf"^{_WORD}+(?:\.{_WORD}+)*@{_WORD}+(?:\.{_WORD}+)+$",
    "idn-hostname": rf"^{_WORD}+(?:\.{_WORD}+)*$",
    "relative-json-pointer": r"^(?:0|[1-9][0-9]{0,3})(?:#|(?:/(?:[^/~]|~[01])*)*)$",
    "regex": f"^{_REGEX}$",
    "uri-template": f"^{_TEMPLATE}$",
    "json-pointer": r"^(?:/(?:[^/~]|~[01])*)*$",
}
