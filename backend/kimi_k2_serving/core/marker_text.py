"""Parses the text of a recorded answer into events, with the same machine. Markers are recognised by their spelling.

For replays only, because text is ambiguous where ids are not: a marker's spelling counts as data inside a JSON string,
and as a marker anywhere else. Recognises the five markers, the singular spelling of the section markers that occurs in
practice, and the control tokens of messages, which are dropped. The events are the same for every split of the text, up
to merging adjacent deltas. Linear. Rules A26 and A27 of docs/kimi_k2_format.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from kimi_k2_serving.core.call_machine import CallMachine, Marker
from kimi_k2_serving.core.events import Event, FinishReason
from kimi_k2_serving.core.phrases import PhraseScanner

_SPELLINGS: Final[dict[str, Marker | None]] = {
    **{marker.value: marker for marker in Marker},
    "<|tool_call_section_begin|>": Marker.SECTION_BEGIN,
    "<|tool_call_section_end|>": Marker.SECTION_END,
    **dict.fromkeys(("<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>")),
}


class MarkerTextParser:
    """The parser of one answer's text. It takes the arguments of ToolCallParser."""

    __slots__ = ("_machine", "_scanner")

    def __init__(
        self,
        *,
        tools: Collection[str],
        first_index: int = 0,
        parallel: bool = True,
        stops: Sequence[str] = (),
    ) -> None:
        self._machine = CallMachine(tools=tools, first_index=first_index, parallel=parallel, stops=stops)
        self._scanner = PhraseScanner(_SPELLINGS)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has matched or the answer is finished. Then further text yields no events."""
        return self._machine.stopped

    def feed(self, text: str) -> list[Event]:
        """The events that this text completes."""
        events: list[Event] = []
        position = 0
        while position < len(text):
            settled, spelling, position = self._scanner.scan(text, position)
            if settled:
                events += self._machine.text(settled)
            if spelling is not None:
                marker = _SPELLINGS[spelling]
                if marker is not None:
                    events += self._machine.marker(marker, spelling)
                elif self._machine.in_string:
                    events += self._machine.text(spelling)
        return events

    def finish(self, reason: FinishReason) -> list[Event]:
        """The last events; Finish is the very last. `reason` says why the engine ended: STOP or LENGTH."""
        held = self._scanner.release()
        events = list(self._machine.text(held)) if held else []
        return [*events, *self._machine.finish(reason)]
