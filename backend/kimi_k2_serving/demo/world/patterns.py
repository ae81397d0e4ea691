"""Requests put together from parts: each group in square brackets is one of its alternatives.

What comes out, without the values, belongs to one split by its checksum: the held-out half has wordings that the other
never has, of words that it has.
"""

from __future__ import annotations

from collections.abc import Sequence

from kimi_k2_serving.demo.world.draw import Draw, is_held_out, raw_pool
from kimi_k2_serving.demo.world.sample import Split

PATTERNS: dict[str, tuple[str, ...]] = {
    "weather": (
        "[What is|What's|How is|How's|Tell me|Show me|Give me|Check|Look up|"
        "Get|Find|I need|I want to know] [the weather|the "
        "current weather|today's weather|the forecast|the weather report] [in|"
        "for|at] {city}[| now| right now| today][?|.|]",
        "[the |current |]weather [in|for|at|of] {city}[| now| today]",
        "[Is it|Will it be|Is it going to be] [cold|warm|hot|sunny|raining|"
        "windy|cloudy|nice|dry|wet] [in|over in] {city}"
        "[| now| today| outside]?",
        "[Do I need|Should I take|Should I bring|Will I need] [a coat|an umbrella|"
        "a jacket|sunglasses|a hat] [in|for] {city}?",
        "[what's it like|how is it|how does it look|What is it like] [in|outside in] {city}[| now| right now][?|]",
        "{city}'s weather[|, please| now]",
    ),
    "time": (
        "[What time is it|What's the time|What is the local time|Tell me the time|"
        "Give me the time|Do you know the time|"
        "How late is it|What does the clock say] [in|over in] {city}[| now| right now][?|]",
        "[the |local |current |]time [in|for] {city}[| now]",
        "[Is it|Is it already] [night|morning|late|noon|evening] [in|over in] {city}?",
    ),
    "search": (
        "[Search|Look|Do a search|Search the web|Search online|Look online|Search the internet] for {query}[.|]",
        "[Find|Find me|Get me|Show me|Look up|Dig up|I need] [something about|"
        "information about|information on|articles about|"
        "some articles about|pages about|results for|some facts about] {query}[.|]",
        "[What can you find|What does the web say|What is there online|What do you find online] about {query}?",
    ),
    "read": (
        "[Read|Open|Show|Show me|Print|Display|View|Load|Check|Look at|"
        "Look into|See|Get|Fetch|Cat|Give me|Pull up|Bring up|"
        "Inspect|Examine|Take a look at|Have a look at|Let me see|I want to see|"
        "I'd like to see|Let's see|Let's look at|"
        "Let's take a look at] [|the file |file ]{path}[| for me|"
        " and tell me what it says| and tell me what is in it| and "
        "tell me what's there][.|]",
        "[Show|Show me|Print|Display|Read|Give me|Tell me|I need|I want to see|"
        "Let me see] [what is in|what's in|the content "
        "of|the contents of|the text of|the text in] [|the file |file ]{path}[.|]",
        "[What is|What's|What do we have|What is written|Tell me what is|"
        "Tell me what's|Show me what's|See what's] [in|inside] "
        "[|the file |file ]{path}[?|]",
        "[What does|Tell me what] [|the file |file ]{path} [say|says|contain|contains][?|]",
        "[can|could] you [please |][read|open|show me|print|display|check|"
        "look at] [|the file |file |what's in ]{path}[| for me]?",
    ),
    "list": (
        "[List|Show|Show me|Give me|Print|See|Display|Get|I need|"
        "I want to see] [the files|all files|the content|the contents|"
        "everything|the entries|the names] [in|inside|of] [|the folder |the directory |folder |directory ]{folder}[.|]",
        "[What files are|Which files are|What is|What's|Which files do we have|"
        "What do we have] [in|inside] [the folder|the "
        "directory|folder|directory] {folder}[?|]",
        "[What files are|Which files are|Which files do we have|What files do we have|"
        "Which names are] [in|inside] {folder}[?|]",
        "[ls|dir|list] {folder}",
        "[show me|list|give me] [everything in|all of|what is in] the {folder} [folder|directory][.|]",
    ),
    "person": (
        "[What is|What's|Find|Get|Get me|Give me|Look up|Tell me|Show me|"
        "I need] the [number|phone number|telephone number] of "
        "{name}[.|?|]",
        "[How can I|How do I|I want to|I need to] [call|reach|phone] {name}[?|.|]",
        "[Find|Look up|Search|Check] {name} in [my contacts|the contacts|the phone book|the address book][.|]",
    ),
    "order": (
        "[Where is|What about|Track|Check|Look up|Show me|How is] [|my order |"
        "order |my parcel |parcel |my package |package |"
        "my delivery |shipment ]{order}[?|.|]",
        "[What is|What's|Give me|Tell me|Check|Get] the status of [|order |my order |parcel |package ]{order}[?|.|]",
        "[Has|Did] [order|parcel|my parcel|my order|package] {order} [arrive|arrived|ship|shipped][| yet]?",
    ),
    "stock": (
        "[What is|What's|Get|Get me|Give me|Tell me|Check|Look up|Show me|"
        "I need] the [price|stock price|share price|quote|market "
        "price] [of|for] {symbol}[?|.|]",
        "[How much is|What is] [a share of|one share of|the stock of] {symbol}[| now| today]?",
    ),
    "products": (
        "[Find|Find me|Look for|Search for|Show me|Search] [|a ]{product} [in the shop|"
        "in the store|in the catalog|to buy][.|]",
        "[I want to buy|I would like to buy|I need to buy|Can I buy|Do you sell|"
        "Where can I buy] [|a |some ]{product}[?|.|]",
    ),
    "shell": (
        "[Run|Execute|Please run|Please execute|Could you run|Can you execute|"
        "Can you run|Try|Start|Type] [|the command |this "
        "command: |this: ]{command}",
        "[Run|Execute|Please run|Could you run|Could you execute|Can you run|"
        "Try|Use] [|the command ]`{command}`[|.|?| in the "
        "shell| in the terminal| for me]",
        '[Run|Execute|Please run|Try] [|the command ]"{command}"[|.| in the shell| in the terminal| for me]',
    ),
    "mail": (
        "[Send|Write] [a mail|an email|a message|an e-mail|a short mail] to {to} [saying|"
        "that says|with the text|and say|with] "
        '"{body}"[.|]',
        '[Mail|Email|Write to|Message|Tell] {to}[:|] "{body}"[.|]',
        "[Mail|Email|Write to|Message|Send a mail to] {to}: {body}",
        '[Send|Mail|Email] "{body}" to {to}[.|]',
    ),
    "note": (
        "[Note|Note down|Write down|Save|Remember|Keep|Store|Jot down|Make a note|"
        "Take a note|Save a note|New note|Add a note]: "
        "{text}",
        "[Note|Note down|Write down|Save|Remember|Make a note that says|"
        'Take a note saying|Save a note with|Add the note] "{text}"'
        "[.|]",
    ),
    "reminder": (
        "[Remind me|Please remind me|Set a reminder|Set an alarm|Make sure to remind me|"
        "Add a reminder] [at|for] {when} to {what}"
        "[.|]",
        "[Remind me|I need a reminder|Set a reminder|Create a reminder|Please remind me] to {what} at {when}[.|]",
    ),
    "event": (
        "[Put|Add|Schedule|Enter|Book|Plan|Create|Save] {title} [on|for] {date}[| in my calendar| in the calendar][.|]",
        "[Add|Put|Enter|Write] {title} [to|into|in] [my|the] calendar [on|for] {date}[.|]",
    ),
    "money": (
        "[Convert|Change|Exchange|Turn] {amount} {source} [to|into|in] {target}[.|]",
        "[How much is|How much are|What is|What's|What are] {amount} {source} in {target}[?|]",
        "[Tell me|I want to know|Find out|Calculate] [how much|what] {amount} {source} [is|are] in {target}[.|]",
    ),
    "translate": (
        '[Translate|Put|Turn|Please translate|Can you translate] "{text}" [to|into|in] {language}[.|?|]',
        '[What is|What\'s|How do I say|How do you say|How would you say|Say|Tell me] "{text}" in {language}[?|]',
        "[Translate|Put] [to|into] {language}: {text}",
    ),
    "calculate": (
        "[What is|What's|How much is|Calculate|Compute|Work out|Solve|Evaluate|Tell me|Give me|Find|I need|Figure out] "
        "[|the result of |the value of ]{expression}[?|.|]",
        "[|so |quick: ]{expression}[?| =| = ?|]",
    ),
    "light": (
        "[Turn|Switch|Put] {state} the [light|lights|lamp] in the {room}[.|]",
        "[Turn|Switch|Put|Set] the {room} [light|lights|lamp] {state}[.|]",
        "[I want|I need] the [light|lights|lamp] in the {room} {state}[.|]",
    ),
    "write": (
        '[Write|Save|Put|Store] "{content}" [to|in|into] [|the file |a file ]{path}[.|]',
        "[Create|Make|Write|Save] [|the file |a file ]{path} [with|saying|that says|"
        'with the text|with the content] "{content}"[.|]',
    ),
    "music": (
        "[Play|Start|Put on|Play me|I want to hear|I want to listen to|Let me hear|"
        "Can you play|Could you play] [|the song |the "
        "track ]{song}[.|]",
    ),
    "route": (
        "[How far is it|What is the distance|How long is it|What's the way|"
        "Show me the way|Find the way|Give me directions|"
        "Directions|Route|I want to go|How do I get|Plan a route|Plan the way] from {start} to {goal}[?|.|]",
    ),
    "ticket": (
        "[Open|Create|File|Make|Submit|Add|Raise] [a ticket|an issue|a bug report|a new ticket]: {title}",
        "[Open|Create|File|Make|Submit|Add|Raise] [a ticket|an issue|"
        'a bug report] [that says|for|about|saying] "{title}"[.|]',
    ),
}
_SOFT = raw_pool(
    "{}|{}|hey, {}|so, {}|ok, {}|well, {}|but {}|and {}|hi, {}|please: {}|oh, {}|hm, {}|{} then|{} really|{} exactly|"
    "{} please|{} today|{} now|{}, friend|{} again"
).everything


def expanded(draw: Draw, patterns: Sequence[str]) -> str:
    """One wording of one of the patterns, of this split. Some have too few wordings for both splits."""
    while True:
        text = _chosen(draw, draw.pick(patterns))
        if is_held_out(text) == (draw.split is Split.HELD_OUT):
            return text


def _chosen(draw: Draw, pattern: str) -> str:
    parts = []
    for part in pattern.split("["):
        group, bracket, rest = part.partition("]")
        parts.append(draw.pick(group.split("|")) + rest if bracket else part)
    return "".join(parts)


def softened(draw: Draw, text: str) -> str:
    """Small talk with a word before or after it."""
    if draw.flip(0.6):
        return text
    bare = text.rstrip("?!.")
    end = text[len(bare) :]
    for _ in range(20):
        said = draw.pick(_SOFT).format(bare) + end
        if is_held_out(said) == (draw.split is Split.HELD_OUT):
            return said
    return text
