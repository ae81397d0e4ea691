"""Tools that do something at work: the shell, files, mail, notes, sums, tickets."""

from __future__ import annotations

from collections.abc import Callable

from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.draw import Draw, pool
from kimi_k2_serving.demo.world.topic import Topic, Values, choice, flag, number, several, text


def _sum(draw: Draw, values: Values) -> Values:
    left, sign, right = values["expression"].split()
    a, b = int(left), int(right)
    match sign:
        case "+":
            return {"result": a + b}
        case "-":
            return {"result": a - b}
        case "*":
            return {"result": a * b}
        case _:
            return {"result": round(a / b, 2)}


def _done(word: str) -> Callable[[Draw, Values], Values]:
    return lambda draw, values: {"status": word, "id": draw.code()}


def _output(draw: Draw, values: Values) -> Values:
    return {"output": draw.pick((v.phrase(draw), v.path(draw), str(draw.integer(0, 999)), v.date(draw)))}


SHELL = Topic(
    names=pool(
        "shell|bash|run command|exec|execute command|terminal|run shell|run|"
        "exec command|sh|console|cmd|run bash|command|"
        "shell exec"
    ),
    does=pool(
        "run a shell command|execute a command in bash|run a command and return its output|use the terminal|"
        "execute shell commands|run a program on the command line"
    ),
    fields={
        "command": text("command|cmd|script|line|shell_command|input|command_line|code|bash|run", "command", v.command),
        "timeout": number(
            "timeout|seconds|max_seconds|timeout_s|time_limit",
            "seconds until it is stopped",
            5,
            300,
            "with a timeout of {} seconds",
            "(timeout {})",
            "and stop after {} seconds",
            share=0.2,
        ),
    },
    asks=pool(
        "Run {command}|Run the command {command}|Execute {command}|Run `{command}`.|Please run `{command}`.|"
        'Run "{command}" in the shell.|What does `{command}` print?|Execute the command `{command}`.|'
        "Run this in the terminal: {command}|Type {command} in bash.|Use the shell: {command}|run: {command}"
    ),
    returns=_output,
    answers=("It printed: {output}",),
    vague=pool("Run a command.|Use the shell.|Execute something.|Run it.|Open the terminal."),
    lacks="Which command?",
    follow=pool("Now {command}|And {command}|Then run {command}|Now run `{command}`.|And then `{command}`."),
)

MAIL = Topic(
    names=pool(
        "send mail|send email|email|mail|send message|compose mail|write email|"
        "post mail|deliver email|mail send|new email"
    ),
    does=pool(
        "send an e-mail|write a mail to somebody|deliver a message by mail|send a message to an address|"
        "compose and send e-mail|mail a text to a person"
    ),
    fields={
        "to": text(
            "to|recipient|address|email|receiver|to_address|mail_to|send_to|addressee|target", "recipient", v.address
        ),
        "body": text(
            "body|text|message|content|msg|mail_text|words|note|message_body|letter", "text of the mail", v.phrase
        ),
        "subject": text(
            "subject|title|headline|topic|heading",
            "subject",
            lambda draw: draw.pick((draw.word(), v.song(draw))),
            'with the subject "{}"',
            "(subject: {})",
            "and the subject {}",
            share=0.3,
        ),
        "cc": several(
            "cc|copies|cc_list|also_to|copy_to",
            "further recipients",
            v.address,
            "with a copy to {}",
            "(cc {})",
            "and a copy for {}",
            share=0.12,
        ),
    },
    asks=pool(
        'Send a mail to {to} that says "{body}"|Write to {to}: {body}|Mail {to} the text "{body}"|Email {to}: "{body}"|'
        'Tell {to} by mail: {body}|Send "{body}" to {to}|Please email {to} and say "{body}"|'
        'Send an email to {to} with the text "{body}"|Mail "{body}" to {to}|mail to {to}: {body}'
    ),
    returns=_done("sent"),
    answers=("The mail to {to} was sent.",),
    vague=pool("Send a mail.|Write an email.|Send an e-mail for me.|I want to send a mail.|Mail something."),
    lacks="To whom, and what should it say?",
)

NOTE = Topic(
    names=pool(
        "create note|add note|save note|note|write note|take note|new note|remember|store note|notes add|memo|jot down"
    ),
    does=pool(
        "save a note|write something down|store a short text|create a note|keep a text for later|add to the notes"
    ),
    fields={
        "text": text("text|content|note|body|memo|message|value|data|entry|words", "text of the note", v.phrase),
        "tags": several(
            "tags|labels|categories|keywords|topics",
            "tags",
            lambda draw: draw.word(),
            "with the tags {}",
            "and tag it {}",
            "tagged {}",
            share=0.2,
        ),
        "pinned": flag(
            "pinned|pin|important|starred|on_top",
            "whether it is pinned",
            ("and pin it", "as pinned"),
            ("but do not pin it", "unpinned"),
            share=0.15,
        ),
    },
    asks=pool(
        'Note: {text}|Write down "{text}"|Save a note: {text}|Make a note that says "{text}"|Remember this: {text}|'
        'Take a note: "{text}"|Create a note with the text "{text}"|'
        "Please write down: {text}|Keep this for later: {text}|"
        'Add "{text}" to my notes'
    ),
    returns=_done("saved"),
    answers=("I saved the note as {id}.",),
    vague=pool("Make a note.|Take a note.|Write something down.|Save a note for me.|I want to make a note."),
    lacks="What should the note say?",
)

CALCULATE = Topic(
    names=pool(
        "calculate|calculator|calc|evaluate|compute|math|eval expression|do math|arithmetic|compute expression|solve|"
        "evaluate expression"
    ),
    does=pool(
        "calculate an expression|evaluate arithmetic|do mathematics|compute the value of a formula|"
        "a calculator for numbers|add, subtract, multiply and divide"
    ),
    fields={
        "expression": text(
            "expression|formula|expr|input|term|calculation|math|equation|problem|sum", "expression", v.expression
        )
    },
    asks=pool(
        "What is {expression}?|Calculate {expression}.|Compute {expression}.|How much is {expression}?|{expression}|"
        "{expression} = ?|Work out {expression}.|Please calculate {expression}.|Tell me the result of {expression}.|"
        "Solve {expression}.|What does {expression} make?|I need the result of {expression}."
    ),
    returns=_sum,
    answers=("{expression} = {result}",),
    vague=pool("Calculate something.|Do some math.|Use the calculator.|Can you calculate?|Compute something for me."),
    lacks="What should I calculate?",
    follow=pool("And {expression}?|Now {expression}.|What about {expression}?|And {expression}|Then {expression}."),
    plural="What are {both}?|Calculate {both}.|Compute {both}.|Work out {both}.|How much are {both}?",
)

WRITE = Topic(
    names=pool(
        "write file|save file|create file|write|file write|put file|store file|write to file|new file|write text file"
    ),
    does=pool(
        "write text to a file|save a file|create a file with content|store text at a path|put content into a file|"
        "make a new file"
    ),
    fields={
        "path": text(
            "path|file|file_path|filename|filepath|name|file_name|target|destination|location",
            "path of the file",
            v.path,
        ),
        "content": text(
            "content|text|data|body|contents|file_text|string|value|new_text|lines", "new content", v.phrase
        ),
        "append": flag(
            "append|add|keep_old|extend|append_mode",
            "whether it is added at the end",
            ("(append)", "and append it"),
            ("(overwrite)", "and replace what is there"),
            share=0.2,
        ),
    },
    asks=pool(
        'Write "{content}" to {path}|Create {path} with the text "{content}"|Save "{content}" in {path}|'
        'Put "{content}" into {path}|Make a file {path} that says "{content}"|Write to {path}: {content}|'
        'Save this to {path}: {content}|Store "{content}" in the file {path}|Create the file {path} with "{content}"|'
        'Write the text "{content}" into {path}'
    ),
    returns=lambda draw, values: {"status": "written", "bytes": draw.integer(3, 400)},
    answers=("I wrote it to {path}.",),
    vague=pool("Write a file.|Create a file.|Save a file for me.|Make a new file.|Write something to a file."),
    lacks="Which file, and what should it say?",
)

TICKET = Topic(
    names=pool(
        "create ticket|open ticket|report bug|file issue|new ticket|create issue|"
        "submit ticket|bug report|add ticket|raise issue"
    ),
    does=pool(
        "open a support ticket|report a bug|create an issue|file a problem|"
        "submit a ticket to the team|track a new problem"
    ),
    fields={
        "title": text(
            "title|summary|subject|name|issue|headline|problem|description|text|topic",
            "title",
            lambda draw: draw.pick(
                (
                    f"{draw.word()} is broken",
                    f"{draw.word()} does not start",
                    f"error in {v.path(draw)}",
                    v.phrase(draw),
                )
            ),
        ),
        "priority": choice(
            "priority|severity|urgency|level|importance",
            "priority",
            {
                "low": ("with low priority", "(priority low)"),
                "medium": ("with medium priority", "(priority medium)"),
                "high": ("with high priority", "(priority high)"),
            },
            share=0.5,
        ),
    },
    asks=pool(
        'Open a ticket: {title}|Report a bug: {title}|Create an issue "{title}"|File a ticket that says "{title}"|'
        'New ticket: {title}|Please report that {title}|Submit an issue: {title}|Make a ticket for "{title}"|'
        "ticket: {title}|There is a problem, open a ticket: {title}"
    ),
    returns=lambda draw, values: {"ticket": draw.code(), "state": "open"},
    answers=("The ticket is {ticket}.",),
    vague=pool("Open a ticket.|Report a bug.|Create an issue.|I want to report a problem.|File a ticket."),
    lacks="What is the problem?",
)

TOPICS = {
    "shell": SHELL,
    "mail": MAIL,
    "note": NOTE,
    "calculate": CALCULATE,
    "write": WRITE,
    "ticket": TICKET,
}
