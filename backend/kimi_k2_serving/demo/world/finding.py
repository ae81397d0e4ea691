"""Tools that find what the user has: files, folders, parcels."""

from __future__ import annotations

from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.draw import Draw, pool
from kimi_k2_serving.demo.world.topic import Topic, Values, flag, number, text


def _names(draw: Draw, values: Values) -> Values:
    return {
        "entries": [draw.pick((v.folder(draw), v.path(draw).rpartition("/")[2])) for _ in range(draw.integer(1, 5))]
    }


def _lines(draw: Draw, values: Values) -> Values:
    return {"content": draw.pick((v.phrase, v.phrase, v.action, v.query))(draw)}


READ = Topic(
    names=pool(
        "read file|read|open file|cat file|get file|view file|load file|"
        "show file|file read|get file contents|fetch file|"
        "file reader|read text file|view|print file"
    ),
    does=pool(
        "read a file|return the content of a file|open a file and show its text|get what is in a file|read a text file "
        "from disk|show the content at a path|load a file"
    ),
    fields={
        "path": text(
            "path|file|file_path|filename|filepath|name|file_name|source|target_file|location",
            "path of the file",
            v.path,
        ),
        "limit": number(
            "limit|lines|max_lines|line_count|num_lines|head",
            "number of lines",
            1,
            200,
            "({} lines)",
            "but only {} lines",
            "with a limit of {} lines",
            share=0.2,
        ),
    },
    asks=pool(
        "Read {path}.|Open {path}.|What is in {path}?|Show me {path}.|"
        "What does {path} say?|Read the file {path}.|cat {path}|"
        "Open the file {path} for me.|Can you read {path}?|Print {path}.|Tell me what {path} contains.|"
        "Please read {path} and tell me what it says.|Show me the content of {path}.|What's written in {path}?|"
        "Look into {path}.|Have a look at {path}.|Read {path} and answer with its content.|view {path}|"
        "Give me the text of {path}.|I need the content of {path}.|Check {path} and tell me what is there.|"
        "What is inside {path}?|Load {path}.|Display {path}.|Open {path} and read it to me."
    ),
    returns=_lines,
    answers=("It says: {content}",),
    vague=pool("Read the file.|Open a file.|Read a file for me.|What is in the file?|Show me the file.|Open it."),
    lacks="Which file?",
    follow=pool(
        "And {path}?|Now read {path}.|Then {path}.|What about {path}?|And what does {path} say?|Now open {path}."
    ),
    plural="Read {both}.|Open {both}.|What do {both} say?|Show me {both}.|Read the files {both}.",
    tongues={
        "German": (
            pool("Lies {path}.|Öffne {path}.|Was steht in {path}?|Zeig mir {path}.|Was ist in der Datei {path}?"),
            "Darin steht: {content}",
        ),
        "French": (
            pool("Lis {path}.|Ouvre {path}.|Que dit {path} ?|Montre-moi {path}.|Qu'y a-t-il dans {path} ?"),
            "Il y est écrit : {content}",
        ),
        "Spanish": (
            pool("Lee {path}.|Abre {path}.|¿Qué dice {path}?|Muéstrame {path}.|¿Qué hay en {path}?"),
            "Dice: {content}",
        ),
        "Chinese": (pool("读取{path}。|打开 {path}|{path}里有什么？|请读 {path}|看看 {path}"), "内容是：{content}"),
    },
)

LIST = Topic(
    names=pool(
        "list directory|list files|ls|list dir|directory listing|show files|list folder|dir|files in|read directory|"
        "get files|browse folder"
    ),
    does=pool(
        "list the files of a directory|show what is in a folder|return the names in a directory|list a directory|"
        "see the entries of a folder|give all files below a path"
    ),
    fields={
        "folder": text("path|directory|dir|folder|dir_path|root|where|base|location|target", "directory", v.directory),
        "hidden": flag(
            "all|show_hidden|hidden|include_hidden|dotfiles",
            "whether hidden files are shown",
            ("with hidden files", "including hidden files"),
            ("without hidden files", "but no hidden files"),
            share=0.2,
        ),
    },
    asks=pool(
        "List the files in {folder}.|What files are in {folder}?|ls {folder}|Show me the directory {folder}.|"
        "What is in the folder {folder}?|Which files does {folder} have?|List {folder}.|Show the files in {folder}.|"
        "What's in the directory {folder}?|Give me the files in {folder}.|Look at what is in folder {folder}.|"
        "Which files are there in {folder}?"
    ),
    returns=_names,
    answers=("It has: {entries}.",),
    vague=pool("List the files.|Show me the directory.|What files are there?|ls please|Which files are there?"),
    lacks="Of which directory?",
    follow=pool("And in {folder}?|Now {folder}.|What about {folder}?|And {folder}?|Then list {folder}."),
)

ORDER = Topic(
    names=pool(
        "order status|get order|track order|track package|order lookup|parcel status|check order|shipment status|"
        "find order|delivery status"
    ),
    does=pool(
        "get the status of an order|track a parcel|look up an order by its number|say where a delivery is|"
        "return the state of a shipment|check an order"
    ),
    fields={
        "order": text(
            "order_id|id|order|number|tracking_number|order_number|code|reference|parcel|shipment",
            "number of the order",
            v.code,
        )
    },
    asks=pool(
        "Where is my order {order}?|What is the status of order {order}?|Track {order}.|Track my parcel {order}.|"
        "Has {order} arrived?|Check order {order}.|Status of {order}?|Is order {order} on its way?|order {order}|"
        "When does parcel {order} come?"
    ),
    returns=lambda draw, values: {
        "status": draw.pick(("shipped", "delivered", "lost", "on its way", "packed", "cancelled"))
    },
    answers=("Order {order} is {status}.",),
    vague=pool("Where is my order?|Track my parcel.|Has my parcel arrived?|Check my order.|What about my order?"),
    lacks="What is the number of the order?",
    follow=pool("And {order}?|What about {order}?|And order {order}?|Now {order}.|Also {order}."),
    plural="Where are the orders {both}?|Track {both}.|Status of {both}?|"
    "Check the orders {both}.|Are {both} on their way?",
)

TOPICS = {
    "read": READ,
    "list": LIST,
    "order": ORDER,
}
