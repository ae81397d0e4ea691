"""Tools of daily life: reminders, the calendar, lights, music, money, words, ways."""

from __future__ import annotations

from collections.abc import Callable

from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.draw import Draw, pool
from kimi_k2_serving.demo.world.topic import Parameter, Topic, Values, choice, flag, number, several, text


def _done(word: str) -> Callable[[Draw, Values], Values]:
    return lambda draw, values: {"status": word, "id": draw.code()}


REMINDER = Topic(
    names=pool(
        "set reminder|reminder|add reminder|remind|create reminder|alarm|"
        "schedule reminder|remind me|new reminder|set alarm"
    ),
    does=pool(
        "set a reminder|remind the user at a time|create an alarm with a text|schedule a reminder|"
        "make sure that something is not forgotten|add a reminder"
    ),
    fields={
        "what": text("text|what|task|message|title|about|label|reminder|thing|todo", "what to remember", v.action),
        "when": text("time|at|when|due|alarm_time|clock|hour|moment|due_time|start", "time of day", v.clock),
    },
    asks=pool(
        "Remind me at {when} to {what}.|Set a reminder for {when}: {what}|At {when} remind me to {what}.|"
        "Do not let me forget to {what} at {when}.|Reminder at {when}: {what}|Remind me to {what} at {when}.|"
        "I have to {what} at {when}, remind me.|Set an alarm for {when} to {what}.|{when}: remind me to {what}|"
        "Please remind me to {what} at {when}."
    ),
    returns=_done("set"),
    answers=("I will remind you at {when} to {what}.",),
    vague=pool("Set a reminder.|Remind me of something.|I need a reminder.|Set an alarm.|Remind me."),
    lacks="Of what, and when?",
)

EVENT = Topic(
    names=pool(
        "create event|add event|calendar|schedule meeting|new event|book meeting|"
        "calendar add|plan meeting|add appointment|"
        "make appointment"
    ),
    does=pool(
        "add an event to the calendar|schedule a meeting|create an appointment|put a date into the calendar|"
        "plan a meeting with people|book a meeting"
    ),
    fields={
        "title": text(
            "title|name|event|subject|what|summary|label|meeting|event_name|appointment",
            "title",
            lambda draw: draw.pick(
                (draw.word().capitalize(), f"{draw.pick(('lunch', 'meeting', 'dinner', 'call'))} with {v.person(draw)}")
            ),
        ),
        "date": text("date|day|when|on|start_date|event_date|at_day|calendar_date|start|due", "date", v.date),
        "people": several(
            "attendees|people|guests|participants|with|invite",
            "who is invited",
            v.person,
            "and invite {}",
            "with {}",
            "(guests: {})",
            share=0.35,
        ),
    },
    asks=pool(
        "Put {title} on {date} into my calendar.|Add {title} to the calendar on {date}.|Schedule {title} for {date}.|"
        "Plan {title} on {date}.|Create an event {title} on {date}.|New appointment on {date}: {title}|"
        "On {date} I have {title}, add it to the calendar.|Book {title} on {date}.|Calendar: {title}, {date}|"
        "Make an appointment for {title} on {date}."
    ),
    returns=_done("created"),
    answers=("{title} is in your calendar on {date}.",),
    vague=pool(
        "Create an event.|Add something to my calendar.|Plan a meeting.|Schedule a meeting.|Make an appointment."
    ),
    lacks="What is it, and on which date?",
)

MONEY = Topic(
    names=pool(
        "convert currency|currency|exchange|exchange rate|convert money|"
        "currency converter|fx|change money|money convert|"
        "to currency"
    ),
    does=pool(
        "convert money from one currency to another|exchange an amount|currency conversion|say what an amount is worth|"
        "change an amount to another currency|convert currencies"
    ),
    fields={
        "amount": number(
            "amount|value|sum|quantity|money|how_much|total|number|units|price", "amount of money", 1, 5000
        ),
        "source": text(
            "from|source|from_currency|base|currency_from|src|origin|have|sell|given",
            "currency of the amount",
            v.currency,
        ),
        "target": text(
            "to|target|to_currency|quote|currency_to|dst|result_currency|want|buy|wanted",
            "currency of the result",
            v.currency,
        ),
    },
    asks=pool(
        "Convert {amount} {source} to {target}.|How much is {amount} {source} in {target}?|"
        "{amount} {source} in {target}|"
        "What are {amount} {source} worth in {target}?|Change {amount} {source} into {target}.|"
        "{amount} {source} to {target}|"
        "How many {target} do I get for {amount} {source}?|Exchange {amount} {source} for {target}.|"
        "I have {amount} {source}. How much is that in {target}?|Tell me what {amount} {source} is in {target}."
    ),
    returns=lambda draw, values: {"converted": draw.integer(100, 999999) / 100},
    answers=("{amount} {source} is {converted} {target}.",),
    vague=pool(
        "Convert some money.|Change my money.|What is the exchange rate?|Convert currencies.|Exchange money for me."
    ),
    lacks="How much, and from which currency to which?",
)

TRANSLATE = Topic(
    names=pool(
        "translate|translate text|translator|translation|to language|"
        "get translation|language translate|translate phrase|"
        "text translate|interpret"
    ),
    does=pool(
        "translate a text into another language|say a phrase in another language|translation of texts|"
        "return a text in the target language|translate words|turn text into another language"
    ),
    fields={
        "text": text(
            "text|phrase|content|input|sentence|words|source_text|message|original|string",
            "text to translate",
            v.phrase,
        ),
        "language": text(
            "language|target|to|target_language|lang|into|target_lang|output_language|tongue|dest",
            "target language",
            v.language,
        ),
    },
    asks=pool(
        'Translate "{text}" to {language}.|What is "{text}" in {language}?|How do you say "{text}" in {language}?|'
        'Translate into {language}: {text}|Say "{text}" in {language}.|"{text}" in {language}, please|'
        'Put "{text}" into {language}.|Give me "{text}" in {language}.|I need "{text}" in {language}.|'
        "translate to {language}: {text}"
    ),
    returns=lambda draw, values: {"translation": " ".join(draw.word() for _ in range(draw.integer(1, 4)))},
    answers=('In {language} it is "{translation}".',),
    vague=pool(
        "Translate something.|Translate this.|I need a translation.|Can you translate?|Translate a text for me."
    ),
    lacks="Which text, and into which language?",
)

LIGHT = Topic(
    names=pool(
        "set light|light|switch light|lights|control light|lamp|toggle light|light switch|home light|smart light"
    ),
    does=pool(
        "switch a light on or off|control the lights at home|turn lamps on and off|set the light of a room|"
        "smart home lights|operate the lamp in a room"
    ),
    fields={
        "room": text("room|where|location|place|area|zone|light|lamp|light_name|device", "room", v.room),
        "state": Parameter(
            pool("state|power|action|mode|switch|value|command|set_to|status|position"),
            "new state",
            lambda draw: draw.pick(("on", "off")),
            {"type": "string", "enum": ["on", "off"]},
        ),
        "brightness": number(
            "brightness|level|percent|intensity|dim",
            "brightness in percent",
            1,
            100,
            "at {} percent",
            "with brightness {}",
            "at {}%",
            share=0.25,
        ),
    },
    asks=pool(
        "Calls {state} the light in the {room}.|Switch the {room} light {state}.|Light {state} in the {room}|"
        "Calls the light in the {room} {state}.|Please switch {state} the lamp in the {room}.|{room} light {state}|"
        "Make the light in the {room} go {state}.|Set the {room} light to {state}.|"
        "The light in the {room} should be {state}.|"
        "Calls the {room} lamp {state}."
    ),
    returns=lambda draw, values: {"status": "ok"},
    answers=("The light in the {room} is {state}.",),
    vague=pool("Change the light.|Use the light.|Do something with the lights.|Control the light.|Switch a lamp."),
    lacks="In which room, on or off?",
)

MUSIC = Topic(
    names=pool("play music|play|play song|music|music player|start song|play track|song|listen|media play"),
    does=pool("play a song|start music|play a track on the speaker|listen to music|put on a song|music player"),
    fields={
        "song": text("song|track|title|name|music|query|song_name|tune|item|what", "song", v.song),
        "volume": number(
            "volume|loudness|level|vol|sound",
            "volume",
            1,
            100,
            "at volume {}",
            "with volume {}",
            "(volume {})",
            share=0.25,
        ),
        "shuffle": flag(
            "shuffle|random|mix|shuffled|any_order",
            "whether the order is random",
            ("shuffled", "in random order"),
            ("not shuffled", "in order"),
            share=0.12,
        ),
    },
    asks=pool(
        "Play {song}.|Play the song {song}.|Put on {song}.|I want to hear {song}.|Start {song} on the speaker.|"
        "Can you play {song}?|Let me listen to {song}.|play {song}|Music: {song}|I would like to listen to {song}."
    ),
    returns=lambda draw, values: {"status": "playing"},
    answers=("Now playing {song}.",),
    vague=pool("Play music.|Play a song.|Put on some music.|I want to hear music.|Start the music."),
    lacks="Which song?",
)

ROUTE = Topic(
    names=pool(
        "get route|route|directions|navigate|distance|find route|get directions|plan route|travel time|map route"
    ),
    does=pool(
        "find the way between two places|get directions|compute the distance between cities|plan a route|"
        "say how far it is|navigation from one place to another"
    ),
    fields={
        "start": text(
            "from|origin|start|source|begin|from_city|departure|start_point|here|from_place", "start", v.city
        ),
        "goal": text("to|destination|end|target|goal|to_city|arrival|end_point|there|to_place", "destination", v.city),
        "mode": choice(
            "mode|transport|by|vehicle|travel_mode",
            "means of transport",
            {"car": ("by car",), "train": ("by train",), "bike": ("by bike",), "walk": ("on foot",)},
        ),
    },
    asks=pool(
        "How far is it from {start} to {goal}?|How do I get from {start} to {goal}?|Route from {start} to {goal}|"
        "Directions from {start} to {goal}|What is the distance between {start} and {goal}?|"
        "{start} to {goal}, how far?|"
        "Plan a route from {start} to {goal}.|I want to go from {start} to {goal}.|"
        "Find the way from {start} to {goal}.|"
        "How long is the way from {start} to {goal}?"
    ),
    returns=lambda draw, values: {"distance": draw.integer(2, 3000), "duration": f"{draw.integer(1, 30)} h"},
    answers=("It is {distance} km from {start} to {goal}.",),
    vague=pool("How far is it?|Plan a route.|How do I get there?|Directions please|Find the way."),
    lacks="From where to where?",
)

TOPICS = {
    "reminder": REMINDER,
    "event": EVENT,
    "money": MONEY,
    "translate": TRANSLATE,
    "light": LIGHT,
    "music": MUSIC,
    "route": ROUTE,
}
