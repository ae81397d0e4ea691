"""The values that people talk about: names, places, paths, times, numbers. Half of the words are made up.

A made-up value can't be known, only copied from the conversation: copying is what a small model has to learn first.
"""

from __future__ import annotations

from collections.abc import Callable

from kimi_k2_serving.demo.world.draw import Draw, pool

CITIES = pool(
    "Oslo|Paris|Rome|Berlin|Tokyo|Madrid|London|Vienna|Prague|Lisbon|Dublin|Athens|Warsaw|Cairo|Lima|Sydney|Toronto|Boston|"
    "Chicago|Seattle|Munich|Hamburg|Zurich|Geneva|Milan|Naples|Turin|Lyon|Nice|Porto|Delhi|Mumbai|Seoul|Osaka|Kyoto|Hanoi|"
    "Jakarta|Manila|Perth|Auckland|Nairobi|Lagos|Accra|Tunis|Rabat|Havana|Bogota|Quito|Santiago|Denver|Austin|Dallas|Miami|"
    "New York|San Francisco|Los Angeles|Buenos Aires|Hong Kong|Cape Town|Mexico City|Kuala Lumpur|Copenhagen|Stockholm|"
    "Helsinki|Reykjavik|Amsterdam|Brussels|Budapest|Bucharest|Belgrade|Zagreb|Istanbul|Ankara|Moscow|Kyiv|Riga|Vilnius|"
    "Tallinn|Zürich|Köln|São Paulo|Bogotá|Málaga|Genève|Göteborg|北京|上海|东京|Bern|Basel|Graz|Salzburg|"
    "Cologne|Leipzig|Dresden|Bremen|Krakow|Gdansk|Seville|Valencia|Bilbao|Beijing|Shanghai"
)
PEOPLE = pool(
    "Anna|Ben|Clara|David|Emma|Felix|Greta|Hugo|Ida|Jonas|Karla|Leo|Maria|Noah|Olga|Paul|Rosa|Simon|Tina|Victor|Alice|Bob|"
    "Carol|Dan|Eve|Frank|Grace|Henry|Irene|Jack|Kate|Liam|Mona|Nina|Oscar|Petra|Ruth|Sam|Theo|Uma|Vera|Walter|Yara|Zoe|"
    "Ahmed|Fatima|Wei|Mei|Hiro|Yuki|Ravi|Priya|Carlos|Lucia|Pierre|Sophie|Marco|Giulia|Sven|Astrid"
)
COLOURS = pool("red|blue|green|yellow|black|white|purple|orange|pink|brown|grey|silver|golden|violet|turquoise")
ANIMALS = pool(
    "cat|dog|horse|fox|owl|whale|bear|wolf|mouse|rabbit|tiger|lion|goat|sheep|frog|duck|swan|crow|otter|seal"
)
THINGS = pool(
    "bread|milk|apples|rice|coffee|tea|a lamp|a book|a chair|a map|shoes|a bicycle|a guitar|a camera|pencils|a blanket|"
    "candles|a kettle|tomatoes|cheese|flowers|batteries|a ladder|soap|a mirror|paint|nails|a hammer|onions|honey"
)
ACTIONS = pool(
    "call the bank|water the plants|buy bread|pay the rent|feed the cat|"
    "send the report|book the flight|clean the kitchen|"
    "fix the bike|read the contract|wash the car|pick up the parcel|"
    "write to grandma|charge the phone|renew the passport|"
    "order new shoes|check the oven|take the medicine|return the book|walk the dog|lock the door|back up the laptop|"
    "visit the dentist|print the tickets|empty the bin"
)
SUBJECTS = pool(
    "the history of tea|solar panels|the tallest mountain|rare birds|medieval castles|electric cars|deep sea fish|"
    "cheap flights|the best pizza|train tickets|how to bake bread|the moon landing|jazz festivals|ancient Rome|"
    "garden tools|volcanoes in Iceland|learning the piano|the speed of light|wooden houses|black holes|city marathons|"
    "olive oil|snow leopards|paper planes|the price of gold|desert plants|old sailing ships|chess openings|rust and go|"
    "python packaging"
)
MESSAGES = pool(
    "I will be late|the meeting moved to noon|lunch is ready|see you tomorrow|the train is delayed|happy birthday|"
    "please call me back|the report is done|dinner at eight|the build is green|I lost my keys|good luck today|"
    "thanks for the help|the server is down|we won the game|the parcel arrived|can we talk|the door is open|"
    "I found your book|the plan has changed"
)
STEMS = pool(
    "notes|report|main|config|readme|todo|data|index|draft|budget|summary|app|server|test|log|users|plan|letter|recipe|"
    "settings|version|changes|model|script|invoice|schedule|list|story|setup|contract"
)
ENDINGS = pool("txt|md|py|json|csv|log|yaml|toml|html|cfg|js|rs|xml|sh|ini")
FOLDERS = pool(
    "src|docs|home|tmp|data|work|project|logs|etc|var|tests|lib|files|archive|backup|shared|music|photos|desktop|build"
)
CONDITIONS = pool("sunny|cloudy|rainy|windy|foggy|snowy|clear|stormy|dry|hot|cold|humid|mild|overcast|hazy")
LANGUAGES = pool(
    "German|French|Spanish|Italian|Dutch|Polish|Greek|Turkish|Japanese|Korean|Arabic|Swedish|Danish|Czech|Finnish"
)
CURRENCIES = pool("EUR|USD|GBP|JPY|CHF|CAD|AUD|SEK|NOK|DKK|PLN|CZK|INR|BRL|MXN")
ROOMS = pool(
    "kitchen|bedroom|bathroom|hall|office|garage|cellar|attic|garden|studio|living room|library|nursery|porch|balcony"
)
UNITS = ("celsius", "fahrenheit")

Maker = Callable[[Draw], str]


def _often(items: Maker, share: float) -> Maker:
    """A maker of made-up words in that share of the draws."""
    return lambda draw: draw.word().capitalize() if draw.flip(share) else items(draw)


def city(draw: Draw) -> str:
    if draw.flip(0.5):
        return draw.pick(CITIES)
    return accented(draw, draw.word().capitalize() + (f" {draw.word().capitalize()}" if draw.flip(0.1) else ""))


def accented(draw: Draw, text: str) -> str:
    """The text, in some draws with a letter that ASCII does not have."""
    return text.replace(draw.pick("aeiou"), draw.pick("äéöüñåøçíó")) if draw.flip(0.1) else text


def person(draw: Draw) -> str:
    name = draw.pick(PEOPLE) if draw.flip(0.6) else draw.word().capitalize()
    return accented(draw, f"{name} {draw.word().capitalize()}" if draw.flip(0.2) else name)


def address(draw: Draw) -> str:
    name = (draw.pick(PEOPLE) if draw.flip(0.6) else draw.word()).lower()
    host = draw.pick(("example.com", "example.org", "mail.test", f"{draw.word()}.com", f"{draw.word()}.org"))
    return f"{name}.{draw.word()}@{host}" if draw.flip(0.3) else f"{name}@{host}"


def stem(draw: Draw) -> str:
    stem = draw.pick(STEMS) if draw.flip(0.5) else draw.word()
    if draw.flip(0.2):
        stem += draw.pick(("-", "_")) + draw.pick((draw.word(), str(draw.integer(1, 99)), draw.pick(STEMS)))
    return draw.pick((stem, stem, stem, stem.upper(), stem.capitalize()))


def folder(draw: Draw) -> str:
    """The name of a folder: mostly a word, or two, or hidden, or with a number."""
    name = draw.pick(FOLDERS) if draw.flip(0.5) else draw.word()
    if draw.flip(0.75):
        return name
    other = draw.word()
    return draw.pick((f".{name}", f"{name}-{other}", f"{name}_{other}", f"{name}{draw.integer(1, 99)}", f"{name}.d"))


def directory(draw: Draw) -> str:
    path = "/".join(folder(draw) for _ in range(draw.integer(1, 3)))
    return draw.pick(("/{}", "/{}", "{}", "{}/", "./{}", "~/{}")).format(path)


def path(draw: Draw) -> str:
    name = f"{stem(draw)}.{draw.pick(ENDINGS)}"
    if draw.flip(0.35):
        return name
    parts = "/".join(folder(draw) for _ in range(draw.pick((1, 1, 2, 3, 4))))
    return draw.pick(("/{}/{}", "/{}/{}", "{}/{}", "./{}/{}", "~/{}/{}")).format(parts, name)


def absolute(draw: Draw) -> str:
    """As agents have it: from the root, several folders deep."""
    parts = "/".join(folder(draw) for _ in range(draw.integer(1, 6)))
    return f"/{parts}/{stem(draw)}.{draw.pick(ENDINGS)}"


def query(draw: Draw) -> str:
    if draw.flip(0.5):
        return draw.pick(SUBJECTS)
    return draw.pick(("{} {}", "{} in {}", "{} {} {}", "{}")).format(
        draw.word(), draw.pick((draw.word(), draw.pick(ANIMALS))), draw.word()
    )


def phrase(draw: Draw) -> str:
    """A few words that are worth writing down."""
    kind = draw.integer(0, 9)
    if kind == 0:
        return draw.pick(MESSAGES)
    if kind == 1:
        return draw.pick(ACTIONS)
    if kind == 2:
        return f"{draw.pick(PEOPLE)} {draw.pick(('likes', 'needs', 'has', 'wants', 'lost'))} {draw.pick(THINGS)}"
    if kind == 3:
        return f"the {draw.pick(COLOURS)} {draw.pick(ANIMALS)} {draw.pick(('sleeps', 'runs', 'waits', 'sings'))}"
    if kind == 4:
        return draw.pick(_SENTENCES).format(draw.word(), draw.word(), draw.integer(1, 999), person(draw), clock(draw))
    return accented(draw, " ".join(draw.word() for _ in range(draw.pick((1, 2, 2, 3, 4, 5)))))


_SENTENCES = pool(
    "the {0} has {2} {1}s|{3} said {0} at {4}|{0} and {1} are ready|"
    "we need {2} {0}s|call {3} about the {0}|{0} is at {4}|"
    "the {0} of {3} is {1}|no {0} without {1}|{3} comes at {4}|{2} {0}s for {3}|"
    "the {0} number is {2}|do not forget the {0}"
)


def action(draw: Draw) -> str:
    return (
        draw.pick(ACTIONS) if draw.flip(0.7) else f"{draw.pick(('buy', 'call', 'fix', 'find', 'visit'))} {draw.word()}"
    )


def code(draw: Draw) -> str:
    return draw.code()


def room(draw: Draw) -> str:
    return draw.pick(ROOMS) if draw.flip(0.7) else draw.word()


def language(draw: Draw) -> str:
    return draw.pick(LANGUAGES)


def currency(draw: Draw) -> str:
    return draw.pick(CURRENCIES)


def unit(draw: Draw) -> str:
    return draw.pick(UNITS)


def clock(draw: Draw) -> str:
    return f"{draw.integer(0, 23):02}:{draw.integer(0, 59):02}"


def date(draw: Draw) -> str:
    return f"{draw.integer(2019, 2030)}-{draw.integer(1, 12):02}-{draw.integer(1, 28):02}"


def song(draw: Draw) -> str:
    return f"{draw.word().capitalize()} {draw.word().capitalize()}" if draw.flip(0.5) else query(draw)


def symbol(draw: Draw) -> str:
    return draw.word(1).upper()[:5] if draw.flip(0.5) else draw.word(2).upper()[:4]


def command(draw: Draw) -> str:
    return draw.pick(
        (
            f"ls {directory(draw)}",
            f"ls -la {directory(draw)}",
            f"cat {path(draw)}",
            f"echo {draw.word()}",
            f"wc -l {path(draw)}",
            f"grep {draw.word()} {path(draw)}",
            f"git {draw.pick(('status', 'log', 'diff', 'pull'))}",
            f"head -n {draw.integer(1, 99)} {path(draw)}",
            f"python {stem(draw)}.py",
            "pwd",
            "date",
            "whoami",
            f"mkdir {folder(draw)}",
            f"touch {path(draw)}",
        )
    )


def expression(draw: Draw) -> str:
    left, right = draw.integer(2, 999), draw.integer(2, 999)
    return f"{left} {draw.pick('+-*/')} {right}"
