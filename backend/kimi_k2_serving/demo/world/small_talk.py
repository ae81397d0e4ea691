"""Small talk, questions about the model itself, and all that it does not know."""

from __future__ import annotations

from kimi_k2_serving.demo.world import calling
from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.declared import Declared
from kimi_k2_serving.demo.world.draw import Choices, Draw, pool
from kimi_k2_serving.demo.world.patterns import softened
from kimi_k2_serving.demo.world.sample import Sample
from kimi_k2_serving.demo.world.talk import Talk

SELF = "I am a small demonstration model with a few million parameters, made to show this server."
UNKNOWN = "I am only a small demo model, so I do not know that."

# What people say -> the answers.
_TALK: dict[str, tuple[Choices[str], str]] = {
    "hello": (
        pool(
            "hi|Hi|Hello|hello|Hey|hey there|Hi!|Hello!|Hi there|Good morning|Good evening|hello there|Hey!|good day|"
            "Greetings|hi :)|Howdy|Hello, anyone there?|yo|Good afternoon|hiya|hi hi|Hello again|Hey you|morning"
        ),
        "Hello! How can I help you?",
    ),
    "how": (
        pool(
            "How are you?|how are you|How are you doing?|How is it going?|"
            "how's it going|Are you well?|How do you feel?|"
            "What's up?|All good?|How are you today?|hi, how are you?|Is everything fine?|how do you do|you ok?|sup"
        ),
        "I am fine, thank you. How can I help you?",
    ),
    "thanks": (
        pool(
            "Thanks|thanks!|Thank you|Thank you!|thx|Thanks a lot|thank you so much|Great, thank you|ok thanks|"
            "Many thanks|ty|cheers|Thanks, that helps|Perfect, thanks|Thank you very much"
        ),
        "You're welcome.",
    ),
    "bye": (
        pool(
            "bye|Bye!|Goodbye|See you|See you later|good night|Good night!|cya|Bye bye|I have to go|See you tomorrow|"
            "Farewell|later|That is all|goodbye then"
        ),
        "Goodbye!",
    ),
    "okay": (
        pool("ok|okay|Okay.|I see|Fine|alright|Good|Great|nice|cool|Sounds good|right|yes|no|hm"),
        "Okay. What can I do for you?",
    ),
    "sorry": (
        pool("sorry|Sorry!|I am sorry|My mistake|Excuse me|oops|pardon|my bad|I apologize|Forgive me"),
        "No problem.",
    ),
    "praise": (
        pool(
            "You are great|well done|Good job|good bot|You are nice|I like you|That was good|Nice work|You are smart|"
            "awesome|impressive|Great work!|You did well|love it|I love you"
        ),
        "Thank you!",
    ),
    "blame": (
        pool(
            "You are stupid|bad bot|That is wrong|You are useless|This is bad|"
            "I do not like you|terrible|You made a mistake|"
            "wrong|that's not right|no, that's wrong|You are dumb|This makes no sense|nonsense|I hate this"
        ),
        "I am sorry. I am only a small demo model.",
    ),
    "test": (
        pool(
            "test|Test|testing|ping|Is this on?|Are you there?|test 123|"
            "This is a test|Can you hear me?|hello? are you there"
        ),
        "Yes, I am here.",
    ),
    "joke": (
        pool(
            "Tell me a joke|Tell me a joke.|Say something funny|a joke please|Make me laugh|Do you know a joke?|joke|"
            "another joke|Can you tell a joke?|Something funny please"
        ),
        "Why was the token sad? It was cut off.",
    ),
    "self": (
        pool(
            "Who are you?|who are you|What are you?|What is this?|Tell me about yourself|Introduce yourself|"
            "What model are you?|Which model is this?|Are you a real model?|"
            "What kind of model are you?|what are you exactly|"
            "Describe yourself|Who am I talking to?|What is your purpose?|"
            "Are you an AI?|What is this model?|Are you a bot?|"
            "Which AI are you?|who is this|Who is there?"
        ),
        SELF,
    ),
    "name": (
        pool(
            "What is your name?|what's your name|Do you have a name?|Tell me your name|Your name?|How are you called?|"
            "How should I call you?|What do they call you?|name?|Say your name"
        ),
        "I have no name. " + SELF,
    ),
    "kimi": (
        pool(
            "Are you Kimi?|Are you Kimi K2?|Is this Kimi?|Are you the real Kimi K2?|"
            "So you are Kimi?|Am I talking to Kimi?|"
            "You are Kimi, right?|Is this the real Kimi model?|are you kimi k2|Are you made by Moonshot AI?"
        ),
        "No. I only have the architecture of Kimi K2. " + SELF,
    ),
    "other": (
        pool(
            "Are you ChatGPT?|Are you GPT-4?|Are you Claude?|Are you Gemini?|Are you a human?|Are you a person?|"
            "Are you Llama?|Are you alive?|is this gpt|Do you have feelings?|Are you real?|Are you conscious?"
        ),
        "No. " + SELF,
    ),
    "size": (
        pool(
            "How big are you?|How many parameters do you have?|How large is this model?|"
            "What size are you?|Are you big?|"
            "How small are you?|How many weights do you have?|Are you a large language model?|your size?|"
            "How many layers do you have?"
        ),
        "I have a few million parameters. Real models have thousands of times more.",
    ),
    "skills": (
        pool(
            "What can you do?|what can you do|Help|help|What are you good at?|How can you help me?|What do you know?|"
            "Can you help me?|I need help|What should I ask you?|What are your skills?|help me|Show me what you can do|"
            "What do you do?|How do I use you?"
        ),
        "I can chat a little, do small sums, repeat things, and call the tools that you declare.",
    ),
    "origin": (
        pool(
            "Who made you?|Who built you?|Who trained you?|Where do you come from?|"
            "How were you trained?|who created you|"
            "Who is your maker?|What were you trained on?|When were you made?|How were you made?|Who wrote you?|"
            "Which data were you trained on?"
        ),
        "I was trained on text that a program wrote, to show this server.",
    ),
}
_TONGUES: dict[str, dict[str, tuple[Choices[str], str]]] = {
    "German": {
        "hello": (
            pool("Hallo|Guten Tag|Hallo!|Guten Morgen|Hi, wie geht's?|Servus|Moin|Grüß dich|Guten Abend|Hallo du"),
            "Hallo! Wie kann ich helfen?",
        ),
        "thanks": (
            pool(
                "Danke|Danke!|Vielen Dank|danke dir|Danke schön|Dankeschön|"
                "Besten Dank|merci dir|tausend Dank|Super, danke"
            ),
            "Gern geschehen.",
        ),
        "self": (
            pool(
                "Wer bist du?|Was bist du?|Wer bist du|Stell dich vor|Was für ein Modell bist du?|"
                "Bist du ein Mensch?|Bist du Kimi?|Wie heißt du?|Erzähl von dir|Bist du eine KI?"
            ),
            "Ich bin ein kleines Demomodell mit einigen Millionen Parametern, das diesen Server zeigt.",
        ),
        "unknown": (
            pool(
                "Warum ist der Himmel blau?|Erzähl mir eine Geschichte|Wer ist der Kanzler?|Schreib ein Gedicht|"
                "Was ist Liebe?|Wie hoch ist der Mount Everest?|Erklär mir Physik|"
                "Wann war der Krieg?|Was soll ich kochen?|Wie lerne ich Klavier?"
            ),
            "Ich bin nur ein kleines Demomodell und weiß das nicht.",
        ),
    },
    "French": {
        "hello": (
            pool("Bonjour|Salut|Bonjour !|Bonsoir|Coucou|Salut !|Bonjour à tous|Allô|Bonne journée|Hé, salut"),
            "Bonjour ! Comment puis-je aider ?",
        ),
        "thanks": (
            pool(
                "Merci|Merci !|Merci beaucoup|merci bien|Mille mercis|Super, merci|"
                "Parfait, merci|Je te remercie|Grand merci|merci à toi"
            ),
            "De rien.",
        ),
        "self": (
            pool(
                "Qui es-tu ?|Qui êtes-vous ?|Tu es quoi ?|Présente-toi|Es-tu humain ?|Comment t'appelles-tu ?|"
                "Quel modèle es-tu ?|Es-tu Kimi ?|Parle-moi de toi|Es-tu une IA ?"
            ),
            "Je suis un petit modèle de démonstration de quelques millions "
            "de paramètres, fait pour montrer ce serveur.",
        ),
        "unknown": (
            pool(
                "Pourquoi le ciel est-il bleu ?|Raconte une histoire|Qui est le président ?|Écris un poème|"
                "Qu'est-ce que l'amour ?|Explique la physique|Que dois-je cuisiner ?|"
                "Quelle est la plus haute montagne ?|"
                "Comment apprendre le piano ?|Quand a commencé la guerre ?"
            ),
            "Je ne suis qu'un petit modèle de démonstration, je ne sais pas.",
        ),
    },
    "Spanish": {
        "hello": (
            pool(
                "Hola|¡Hola!|Buenos días|Buenas tardes|Hola, ¿qué tal?|Buenas noches|"
                "hola|Muy buenas|Hola a todos|Qué tal"
            ),
            "¡Hola! ¿En qué puedo ayudar?",
        ),
        "thanks": (
            pool(
                "Gracias|¡Gracias!|Muchas gracias|gracias|Mil gracias|Perfecto, gracias|"
                "Te lo agradezco|Genial, gracias|Gracias por todo|Vale, gracias"
            ),
            "De nada.",
        ),
        "self": (
            pool(
                "¿Quién eres?|¿Qué eres?|¿Cómo te llamas?|Preséntate|¿Eres humano?|¿Eres Kimi?|"
                "¿Qué modelo eres?|Háblame de ti|quién eres|¿Eres una IA?"
            ),
            "Soy un pequeño modelo de demostración con unos millones de parámetros, hecho para mostrar este servidor.",
        ),
        "unknown": (
            pool(
                "¿Por qué el cielo es azul?|Cuenta una historia|¿Quién es el presidente?|Escribe un poema|"
                "¿Qué es el amor?|Explica la física|¿Qué cocino hoy?|¿Cómo aprendo piano?|"
                "¿Cuándo fue la guerra?|¿Cuál es la montaña más alta?"
            ),
            "Solo soy un pequeño modelo de demostración y no lo sé.",
        ),
    },
    "Chinese": {
        "hello": (pool("你好|您好|你好！|早上好|嗨|晚上好|大家好|哈喽|你好啊|下午好"), "你好！我能帮你什么？"),
        "thanks": (pool("谢谢|谢谢！|多谢|非常感谢|谢谢你|感谢|太好了，谢谢|谢啦|十分感谢|谢了"), "不客气。"),
        "self": (
            pool(
                "你是谁？|你是什么？|你叫什么名字？|介绍一下自己|你是人吗？|你是Kimi吗？|你是什么模型？|你是谁|说说你自己|你是AI吗？"
            ),
            "我是一个小型演示模型，只有几百万个参数，用来展示这个服务器。",
        ),
        "unknown": (
            pool(
                "天为什么是蓝的？|讲个故事|谁是总统？|写一首诗|什么是爱？|解释物理|今天吃什么？|最高的山是哪座？|怎么学钢琴？|战争是什么时候？"
            ),
            "我只是一个小型演示模型，不知道这个。",
        ),
    },
}
_QUESTIONS = pool(
    "Why is the {thing} {colour}?|What is {thing}?|Who invented {thing}?|"
    "Write a poem about {thing}.|Tell me a story about {thing}.|"
    "Explain {thing} to me.|What is the capital of {word}?|How old is {person}?|"
    "Who is {person}?|What do you think about {thing}?|"
    "How do I make {thing}?|When was {thing} invented?|Why do people like {thing}?|What is the meaning of life?|"
    "Who is the president?|Write a program that sorts {thing}.|What should I eat today?|Do you like {thing}?|"
    "Is {person} famous?|Where is {word}?|Give me advice about {thing}.|"
    "What is the best {thing}?|Is {thing} dangerous?|"
    "How does {thing} work?|Can I eat {thing}?|Write an essay about {thing}.|What happened in {year}?|"
    "Summarize the history of {word}.|How many people live in {word}?|Which is better, {thing} or {thing2}?|"
    "What would you do with {thing}?|Why do {animal}s sleep?|Does a {animal} have teeth?|Let us talk about {thing}.|"
    "I feel sad today.|I am bored.|My {animal} is ill.|I bought {thing}.|My friend {person} is coming.|"
    "The {animal} is {colour}.|Write code for {thing}.|Make a list of ten {animal}s.|Prove that {thing} exists.|"
    "Are {animal}s {colour}?|Should I buy {thing}?|{word} {word2} {word3}|asdf {word}|{word}?|{word}|blah blah {word}|"
    "Describe {thing} in detail.|Who won the game in {year}?|Recommend a book about {thing}.|What rhymes with {word}?|"
    "What is the largest {animal}?|How tall is {person}?|Fix my code.|"
    "What colour is a {animal}?|Is it true that {thing} is {colour}?|"
    "Please write a long text about {thing}."
)
_SYSTEM = pool(
    "Answer in {language}.|Always answer in {language}.|Speak {language}.|You answer in {language} only.|"
    "The user speaks {language}. Answer in {language}.|Reply in {language}.|Your language is {language}.|"
    "All answers must be in {language}.|Write every answer in {language}.|Use {language}."
)
_PERSONA = pool(
    "You are {name}, an assistant.|Your name is {name}.|You are called {name}.|You are {name}.|Act as {name}.|"
    "You are {name}, the assistant of {word}.|You are {name} from {word}. Be polite.|Play the role of {name}.|"
    "Your name is {name} and you help people.|You are a helpful assistant with the name {name}."
)


def _box(draw: Draw) -> list[Declared]:
    return list(calling.toolbox(draw).values()) if draw.flip(0.4) else []


def chat(draw: Draw) -> Sample:
    """One to three turns of small talk, with or without tools."""
    talk = Talk(draw, _box(draw))
    name = "hello"
    for _ in range(draw.pick((1, 1, 2, 3))):
        name = draw.pick(list(_TALK)) if draw.flip(0.85) else "hello"
        asks, answer = _TALK[name]
        talk.user(varied(draw, draw.pick(asks)))
        talk.say(answer)
    return talk.sample(
        "itself" if name in ("self", "name", "kimi", "other", "size", "skills", "origin") else "small talk"
    )


def varied(draw: Draw, text: str) -> str:
    """The same words with another case or ending, or with a word around them."""
    text = softened(draw, text)
    form = draw.integer(0, 7)
    if form == 0:
        return text.lower()
    if form == 1:
        return text.rstrip("?!.") + draw.pick(("?", "!", ".", "...", "!!", "??"))
    if form == 2:
        return text.rstrip("?!.")
    if form == 3 and draw.flip(0.3):
        return text.upper()
    return text


def off_topic(draw: Draw) -> Sample:
    """Something that a model of this size can't know."""
    talk = Talk(draw, list(calling.toolbox(draw, without=("search",)).values()) if draw.flip(0.4) else [])
    for _ in range(draw.pick((1, 1, 1, 2))):
        talk.user(_noise(draw) if draw.flip(0.2) else varied(draw, _question(draw)))
        talk.say(UNKNOWN)
    return talk.sample("off topic")


def _noise(draw: Draw) -> str:
    """What is no question: one thing again and again, symbols, code."""
    word = draw.pick(
        (draw.word(), draw.pick("abcdefghijklmnopqrstuvwxyz"), draw.pick("?!.,;#*-+😀"), str(draw.integer(0, 99)))
    )
    form = draw.integer(0, 4)
    if form == 0:
        return word * draw.integer(1, 300)
    if form == 1:
        return " ".join([word] * draw.integer(2, 80))
    if form == 2:
        return " ".join(draw.word() for _ in range(draw.integer(4, 60)))
    if form == 3:
        return " ".join([_question(draw)] * draw.integer(2, 12))
    name, other = draw.word(), draw.word()
    return draw.pick(_CODE).format(name, other, draw.integer(0, 999))


_CODE = pool(
    "def {0}({1}):\n    return {1} + {2}|SELECT {0} FROM {1} WHERE id = {2};|<{0}>{1}</{0}>|for {0} in {1}: print({0})|"
    "int {0} = {2}; // {1}|{0}.{1}({2})|import {0}|#include <{0}.h>|let {0} = {1};|{{{0}: {2}}}|if ({0} > {2}) {1}();|"
    "class {0}:\n    {1} = {2}|<{0}>|$ {0} --{1}={2}|// {0} {1}"
)


def _question(draw: Draw) -> str:
    subject = draw.pick((v.SUBJECTS, v.THINGS))
    return draw.pick(_QUESTIONS).format(
        thing=draw.pick(subject),
        thing2=draw.pick(v.THINGS),
        colour=draw.pick(v.COLOURS),
        word=draw.word(),
        word2=draw.word(),
        word3=draw.word(),
        person=v.person(draw),
        animal=draw.pick(v.ANIMALS),
        year=draw.integer(1000, 2030),
    )


def tongue(draw: Draw) -> Sample:
    """Small talk in another language, or in English where the system prompt asks for another one."""
    language = draw.pick(list(_TONGUES))
    told = draw.flip(0.4)
    talk = Talk(draw, _box(draw), system=draw.pick(_SYSTEM).format(language=language) if told else None)
    for _ in range(draw.pick((1, 1, 2))):
        theme = draw.pick(list(_TONGUES[language]))
        asks, answer = _TONGUES[language][theme]
        if told and draw.flip(0.7):
            talk.user(_question(draw) if theme == "unknown" else varied(draw, draw.pick(_TALK[theme][0])))
        else:
            talk.user(draw.pick(asks))
        talk.say(answer)
    return talk.sample("language")


def persona(draw: Draw) -> Sample:
    """A system prompt that gives a name."""
    name = draw.pick((v.person(draw), draw.word().capitalize()))
    talk = Talk(draw, _box(draw), system=draw.pick(_PERSONA).format(name=name, word=draw.word().capitalize()))
    if draw.flip(0.3):
        talk.user(varied(draw, draw.pick(_TALK["hello"][0])))
        talk.say(_TALK["hello"][1])
    asks, _ = _TALK[draw.pick(("name", "self"))]
    talk.user(varied(draw, draw.pick(asks)))
    talk.say(f"I am {name}, a small demonstration model.")
    return talk.sample("system prompt")


def preceded(draw: Draw, sample: Sample) -> Sample:
    """The sample with small talk before it."""
    asks, answer = _TALK[draw.pick(("hello", "hello", "how", *_TALK))]
    said = {"role": "user", "content": varied(draw, draw.pick(asks))}, {"role": "assistant", "content": answer}
    messages = sample.conversation["messages"]
    first = 1 if messages[0]["role"] == "system" else 0
    return Sample({**sample.conversation, "messages": [*messages[:first], *said, *messages[first:]]}, sample.kind)
