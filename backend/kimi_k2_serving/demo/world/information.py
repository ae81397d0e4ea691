"""Tools that look something up: the weather, the time, the web, people, prices."""

from __future__ import annotations

from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.draw import Draw, pool
from kimi_k2_serving.demo.world.topic import Topic, Values, choice, flag, number, several, text


def _weather(draw: Draw, values: Values) -> Values:
    degrees = draw.integer(-20, 40)
    temperature = draw.pick(
        (degrees, degrees, degrees, degrees + draw.integer(1, 9) / 10, f"{degrees}°C", f"{degrees} C")
    )
    whole = {"temperature": temperature, "condition": draw.pick(v.CONDITIONS)}
    if draw.flip(0.2):
        del whole[draw.pick(list(whole))]
    return whole


def _hits(draw: Draw, values: Values) -> Values:
    return {"title": f"{v.phrase(draw).capitalize()}", "url": f"https://{draw.word()}.org/{draw.word()}"}


WEATHER = Topic(
    names=pool(
        "get weather|weather|weather lookup|fetch weather|current weather|weather forecast|get forecast|check weather|"
        "forecast|query weather|get current weather|show forecast|city weather|weather report|read forecast"
    ),
    does=pool(
        "get the current weather of a city|look up the weather|"
        "return the weather forecast for a place|tell the weather "
        "somewhere|give temperature and conditions of a city|report the weather in a location|show today's weather|"
        "fetch the forecast for a town|find out how warm it is in a city|query a weather service"
    ),
    fields={
        "city": text("city|location|place|town|where|city_name|loc|area|q_city|locality", "city", v.city),
        "unit": choice(
            "unit|units|scale|temperature_unit|degrees|format",
            "unit of temperature",
            {
                "celsius": ("in celsius", "in degrees celsius", "(celsius)"),
                "fahrenheit": ("in fahrenheit", "in degrees fahrenheit", "(fahrenheit)"),
            },
        ),
        "days": number(
            "days|num_days|day_count|forecast_days|n_days|length",
            "number of days",
            2,
            14,
            "for {} days",
            "for the next {} days",
            "over {} days",
            share=0.25,
        ),
    },
    asks=pool(
        "What is the weather in {city}?|How is the weather in {city}?|"
        "What's the weather like in {city}?|Weather in {city}|"
        "Is it raining in {city}?|Tell me the weather in {city}.|"
        "What is the forecast for {city}?|How warm is it in {city}?|"
        "Give me the weather of {city}.|Is it cold in {city}?|weather {city}|"
        "{city} weather|Check the weather in {city}.|"
        "I am going to {city}. What will the weather be?|Do I need an umbrella in {city}?|"
        "What's it like outside in {city}?|"
        "Is it sunny in {city}?|Forecast for {city}|How hot is it in {city}?|Look up the weather for {city}.|"
        "I want to know the weather in {city}.|Will it rain in {city}?|What temperature is it in {city}?|"
        "Current weather in {city}?|Show me the forecast for {city}."
    ),
    returns=_weather,
    answers=(
        "It is {temperature} degrees and {condition} in {city}.",
        "It is {temperature} degrees in {city}.",
        "It is {condition} in {city}.",
    ),
    vague=pool(
        "What is the weather?|How is the weather?|Tell me the weather.|"
        "What's the forecast?|Will it rain?|Is it cold outside?|"
        "weather please|Check the weather.|How warm is it?|What will the weather be?"
    ),
    lacks="For which city?",
    follow=pool("And in {city}?|What about {city}?|And {city}?|How about {city}?|Now {city}.|and for {city}?"),
    plural="What is the weather in {both}?|Compare the weather in {both}.|"
    "Weather in {both}|How is the weather in {both}?|"
    "Tell me the weather in {both}.",
    tongues={
        "German": (
            pool(
                "Wie ist das Wetter in {city}?|Wetter in {city}|Wie warm ist es in {city}?|Regnet es in {city}?|"
                "Sag mir das Wetter in {city}."
            ),
            "In {city} sind es {temperature} Grad ({condition}).",
        ),
        "French": (
            pool(
                "Quel temps fait-il à {city} ?|Donne-moi la météo à {city}.|La météo à {city}|Il fait froid à {city} ?|"
                "Est-ce qu'il pleut à {city} ?"
            ),
            "À {city}, il fait {temperature} degrés ({condition}).",
        ),
        "Spanish": (
            pool(
                "¿Qué tiempo hace en {city}?|El tiempo en {city}|¿Hace frío en {city}?|Dime el tiempo en {city}.|"
                "¿Llueve en {city}?"
            ),
            "En {city} hay {temperature} grados ({condition}).",
        ),
        "Chinese": (
            pool("{city}的天气怎么样？|{city}天气|告诉我{city}的天气。|{city}冷吗？|{city}下雨吗？"),
            "{city}：{temperature}度（{condition}）。",
        ),
    },
)

TIME = Topic(
    names=pool(
        "get time|current time|clock|time now|get current time|world clock|local time|what time|time lookup|read clock"
    ),
    does=pool(
        "get the current time in a city|tell the local time|return the time of day at a place|look up what time it is|"
        "show the clock of a city|world clock|give the local time of a town"
    ),
    fields={"city": text("city|location|place|timezone|where|zone|town|tz|area|region", "city or time zone", v.city)},
    asks=pool(
        "What time is it in {city}?|What's the time in {city}?|Tell me the time in {city}.|time in {city}|"
        "How late is it in {city}?|Current time in {city}|What is the local time in {city}?|Is it night in {city}?|"
        "Give me the time in {city}.|What does the clock say in {city}?|"
        "Do you know the time in {city}?|Time in {city} now?"
    ),
    returns=lambda draw, values: {"time": v.clock(draw)},
    answers=("It is {time} in {city}.",),
    vague=pool("What time is it?|Tell me the time.|What's the time?|time please|Do you know the time?"),
    lacks="In which city?",
    follow=pool("And in {city}?|What about {city}?|And {city}?|How about {city}?|Now {city}.|and for {city}?"),
    plural="What time is it in {both}?|Tell me the time in {both}.|Time in {both}|Compare the time in {both}.|"
    "What's the time in {both}?",
    tongues={
        "German": (
            pool(
                "Wie spät ist es in {city}?|Uhrzeit in {city}|Wie viel Uhr ist es in {city}?|"
                "Sag mir die Uhrzeit in {city}.|"
                "Welche Zeit ist es in {city}?"
            ),
            "In {city} ist es {time}.",
        ),
        "French": (
            pool(
                "Quelle heure est-il à {city} ?|L'heure à {city}|"
                "Il est quelle heure à {city} ?|Donne-moi l'heure à {city}.|"
                "Dis-moi l'heure à {city}."
            ),
            "Il est {time} à {city}.",
        ),
    },
)

SEARCH = Topic(
    names=pool(
        "search|web search|search web|google|find|lookup|search internet|"
        "query web|search engine|do search|internet search|"
        "browse|search online|find online|ask web"
    ),
    does=pool(
        "search the web|find pages on the internet|look something up online|"
        "query a search engine|return search results|"
        "find information on a subject|run a web search"
    ),
    fields={
        "query": text("query|q|text|search|terms|keywords|search_query|question|topic|phrase", "search terms", v.query),
        "count": number(
            "limit|max_results|count|num_results|top_k|n|size",
            "number of results",
            1,
            20,
            "with {} results",
            "(at most {} results)",
            "and show {} results",
            share=0.3,
        ),
    },
    asks=pool(
        "Search for {query}.|Search the web for {query}.|Look up {query}.|"
        "Find information about {query}.|google {query}|"
        "Find {query} on the internet.|search {query}|What does the web say about {query}?|Can you look up {query}?|"
        "I want to read about {query}.|Do a web search for {query}.|Find something about {query}.|"
        "Search online for {query}.|What can you find about {query}?|Please search for {query}."
    ),
    returns=_hits,
    answers=("I found this: {title} ({url})",),
    vague=pool("Search the web.|Look something up.|Do a search.|Can you search?|search please|Find something."),
    lacks="What should I search for?",
    follow=pool("And {query}?|Now search for {query}.|What about {query}?|Then look up {query}.|Also {query}."),
)

PERSON = Topic(
    names=pool(
        "find contact|get contact|lookup person|phone book|contact search|get phone number|find person|people search|"
        "get user|user lookup"
    ),
    does=pool(
        "find the phone number of a person|look up a contact|search the address book|return a person's number|"
        "get a contact by name|find somebody in the phone book"
    ),
    fields={
        "name": text(
            "name|person|contact|who|full_name|user|contact_name|person_name|people|individual",
            "name of the person",
            v.person,
        )
    },
    asks=pool(
        "What is the phone number of {name}?|Find the number of {name}.|"
        "How can I call {name}?|Look up {name} in my contacts.|"
        "Give me the number of {name}.|phone number of {name}|"
        "Who is {name} in my contacts?|I need the number of {name}.|"
        "Find {name} in the phone book.|What's {name}'s number?"
    ),
    returns=lambda draw, values: {"phone": f"{draw.integer(100, 999)}-{draw.integer(1000, 9999)}"},
    answers=("The number of {name} is {phone}.",),
    vague=pool("Find a contact.|I need a phone number.|Look up a number.|Give me a number.|Find somebody's number."),
    lacks="Of which person?",
    follow=pool("And {name}?|What about {name}?|And of {name}?|Now {name}.|And the number of {name}?"),
)

STOCK = Topic(
    names=pool(
        "stock price|get stock|get quote|share price|stock quote|ticker|market price|quote|price lookup|get share price"
    ),
    does=pool(
        "get the price of a stock|look up a share price|return the quote of a ticker symbol|say what a share costs|"
        "fetch the market price of a symbol|stock market quotes"
    ),
    fields={
        "symbol": text(
            "symbol|ticker|stock|code|share|name|company|stock_symbol|asset|security", "ticker symbol", v.symbol
        )
    },
    asks=pool(
        "What is the price of {symbol}?|How much is {symbol} stock?|Stock price of {symbol}|Quote for {symbol}|"
        "What does a share of {symbol} cost?|How is {symbol} trading?|"
        "Get the share price of {symbol}.|price of {symbol}?|"
        "Tell me the stock price of {symbol}.|How much is a share of {symbol}?"
    ),
    returns=lambda draw, values: {"price": draw.integer(100, 99999) / 100},
    answers=("{symbol} is at {price}.",),
    vague=pool(
        "What is the stock price?|Give me a quote.|How much is the stock?|Stock price please|What does a share cost?"
    ),
    lacks="For which symbol?",
    follow=pool("And {symbol}?|What about {symbol}?|And of {symbol}?|Now {symbol}.|Also {symbol}."),
    plural="What is the price of {both}?|Quotes for {both}|How are {both} trading?|Stock prices of {both}|"
    "Compare the share prices of {both}.",
)

PRODUCTS = Topic(
    names=pool(
        "search products|find products|shop search|product search|catalog search|find items|shop|browse catalog|"
        "search shop|item search"
    ),
    does=pool(
        "find products in the shop|search the catalog|look for items to buy|return products by name and price|"
        "search goods of a shop|product search"
    ),
    fields={
        "product": text(
            "product|item|query|name|article|goods|keyword|thing|what|search",
            "product",
            lambda draw: draw.pick(
                (draw.word(), draw.pick(v.ANIMALS) + " toy", draw.pick(v.COLOURS) + " " + draw.word())
            ),
        ),
        "price": number(
            "max_price|price|budget|price_limit|under|price_max",
            "highest price",
            5,
            900,
            "under {} euros",
            "for at most {}",
            "below {}",
            share=0.4,
        ),
        "stock": flag(
            "in_stock|available|stock|only_available|on_hand",
            "whether it must be in stock",
            ("that are in stock", "in stock"),
            ("even if out of stock", "in stock or not"),
            share=0.25,
        ),
        "tags": several(
            "tags|labels|categories|filters|keywords_all",
            "tags",
            lambda draw: draw.word(),
            "with the tags {}",
            "tagged {}",
            share=0.15,
        ),
    },
    asks=pool(
        "Find {product} in the shop.|I want to buy {product}.|"
        "Look for {product} in the catalog.|Search the shop for {product}.|"
        "Do you sell {product}?|Show me products: {product}|Is there a {product} to buy?|Find me a {product}.|"
        "I am looking for a {product} to buy.|shop for {product}"
    ),
    returns=lambda draw, values: {
        "name": f"{draw.word().capitalize()} {draw.integer(1, 99)}",
        "cost": draw.integer(2, 900),
    },
    answers=("I found {name} for {cost}.",),
    vague=pool(
        "Find something in the shop.|I want to buy something.|Search the shop.|Show me products.|What do you sell?"
    ),
    lacks="Which product?",
)

TOPICS = {
    "weather": WEATHER,
    "time": TIME,
    "search": SEARCH,
    "person": PERSON,
    "stock": STOCK,
    "products": PRODUCTS,
}
