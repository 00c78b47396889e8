"""Exercises: request → JSON examples written from dialogue turns, and plain dialogue.

What the base should learn is to *read*: which words of a request matter and how a short label
is written from them, under whatever key names, spellings and label sets a task brings. So no
label set is fixed: intents are respelled and renamed, clusters of the text serve as classes,
and invented code words stand for either. Promises: pure in (turns, label sets, random source).
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apprentice_pipeline.demo.pretraining.topics import Lexicon, Topics
from apprentice_pipeline.demo.pretraining.turns import Turn, name_words, plain

_CLASS_KEYS = (
    "intent", "label", "category", "class", "action", "type", "request", "task", "goal", "queue",
    "skill", "route", "purpose",
)  # fmt: skip
_DOMAIN_KEYS = (
    "domain", "service", "topic", "area", "department", "team", "subject", "field", "sector",
)  # fmt: skip
_WORDS_KEYS = ("keywords", "terms", "tags", "words")
_SLOT_KEYS = ("slots", "entities", "parameters", "arguments", "fields")
_ASKS = (
    "Classify the request. Answer with JSON: {keys}.",
    "Answer with JSON: {keys}.",
    "Return a JSON object with the keys {keys}.",
    "You label customer messages. Reply with JSON only, fields: {keys}.",
    "Read the message and give its {keys} as JSON.",
    "Extract {keys} from the user's message. Output JSON.",
    "You are a helpful assistant. Respond in JSON with {keys}.",
    "Route the request: {keys}.",
    "What does the user want? JSON with {keys}.",
    "{keys} as JSON, nothing else.",
)
_VERBS = {
    "find": ("find", "search", "lookup", "list"),
    "search": ("search", "find", "browse"),
    "lookup": ("lookup", "find", "about"),
    "get": ("get", "check", "show"),
    "reserve": ("reserve", "book"),
    "book": ("book", "reserve"),
    "buy": ("buy", "purchase", "order"),
    "play": ("play", "start"),
    "check": ("check", "get", "view"),
    "transfer": ("transfer", "send"),
    "make": ("make", "do"),
    "schedule": ("schedule", "plan", "arrange"),
}
_STYLES: tuple[Callable[[Sequence[str]], str], ...] = (
    "_".join,
    "_".join,
    "_".join,
    "_".join,
    "_".join,
    "_".join,
    "-".join,
    " ".join,
    lambda parts: "".join(p.capitalize() for p in parts),
    lambda parts: "_".join(parts).upper(),
)


@dataclass(frozen=True, slots=True)
class Exercise:
    """One example: the conversation's texts, the answer, and the request it is about.

    `answer` empty means plain language modelling over `before` and `request`.
    """

    system: str
    before: str
    request: str
    answer: str


@dataclass(frozen=True, slots=True)
class LabelSet:
    """A class for each turn under one naming; `hint` tells the model which naming is meant."""

    hint: str
    classes: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Material:
    """Everything exercises are written from."""

    turns: tuple[Turn, ...]
    lexicon: Lexicon
    topics: tuple[Topics, ...]
    code_sets: tuple[LabelSet, ...]
    telling: tuple[int, ...]


def gather(
    turns: Sequence[Turn], lexicon: Lexicon, topics: Sequence[Topics], seed: int
) -> Material:
    """Adds code-word label sets and the list of turns that say enough to be classified alone."""
    rng = random.Random(seed)
    telling = tuple(i for i, t in enumerate(turns) if len(lexicon.content(t.text)) >= 2)
    return Material(
        tuple(turns), lexicon, tuple(topics), _code_sets(turns, lexicon, topics, rng), telling
    )


def _code_sets(
    turns: Sequence[Turn], lexicon: Lexicon, topics: Sequence[Topics], rng: random.Random
) -> tuple[LabelSet, ...]:
    """Label sets whose names say nothing: only the text tells the class."""
    common = [w for w in lexicon.idf if w.isalpha() and len(w) > 2][:3000]
    intents = sorted({t.intent for t in turns})
    by_intent = tuple(intents.index(t.intent) for t in turns)
    sets = []
    for number in range(12):
        source = topics[number % len(topics)] if number % 4 else None
        classes = source.assignment if source else by_intent
        size = len(source.names) if source else len(intents)
        names = tuple(tuple(rng.sample(common, 1 + number % 2)) for _ in range(size))
        sets.append(LabelSet(f"Label set {rng.choice(common)}.", classes, names))
    return tuple(sets)


def write_exercise(material: Material, rng: random.Random) -> Exercise:
    """Draws a turn and a kind of exercise; the shares were chosen on SGD alone."""
    kind = rng.random()
    if kind < 0.12:
        turn = material.turns[rng.randrange(len(material.turns))]
        return Exercise("", turn.before, turn.text, "")
    index = rng.choice(material.telling)
    turn = material.turns[index]
    before = turn.before if rng.random() < 0.08 else ""
    if kind < 0.36:
        return _labelled(turn, before, rng)
    if kind < 0.66:
        return _topical(material, index, before, rng)
    if kind < 0.88:
        return _worded(material, turn, rng)
    return _coded(material, index, rng)


def _labelled(turn: Turn, before: str, rng: random.Random) -> Exercise:
    """The corpus' own annotation: intent, domain, slots, in any selection and order."""
    bare = rng.random() < 0.6
    fields: list[tuple[str, object]] = []
    if rng.random() < 0.85:
        fields.append((_key(_CLASS_KEYS, rng), _spell(_renamed(turn.intent, rng), rng)))
    if rng.random() < 0.7 or not fields:
        fields.append((_key(_DOMAIN_KEYS, rng), _spell(name_words(turn.service), rng)))
    if rng.random() < 0.4:
        slots = {_spell(name_words(k), rng): plain(v) if bare else v for k, v in turn.slots.items()}
        fields.append((rng.choice(_SLOT_KEYS), slots))
    if rng.random() < 0.3:
        rng.shuffle(fields)
    return _exercise(fields, "", before, plain(turn.text) if bare else turn.text, rng)


def _topical(material: Material, index: int, before: str, rng: random.Random) -> Exercise:
    """Clusters of the text as classes, coarse as domain and finer as intent."""
    turn = material.turns[index]
    grain = rng.randrange(len(material.topics))
    topics = material.topics[grain]
    cluster = topics.assignment[index]
    if cluster < 0:
        return _labelled(turn, before, rng)
    fields: list[tuple[str, object]] = [
        (_key(_CLASS_KEYS, rng), _spell(topics.names[cluster], rng)),
    ]
    if rng.random() < 0.5:
        fields.append((_key(_DOMAIN_KEYS, rng), _spell(name_words(turn.service), rng)))
    hint = f"Use {len(topics.names)} classes."
    return _exercise(fields, hint, before, _typed(turn.text, rng), rng)


def _worded(material: Material, turn: Turn, rng: random.Random) -> Exercise:
    """The most telling words of the request: as a list, or joined into a label."""
    lexicon = material.lexicon
    text = _typed(_disturbed(material, turn.text, rng), rng)
    content = lexicon.content(text)
    count = min(len(content), rng.choice((1, 2, 2, 2, 3, 3, 4)))
    top = set(sorted(content, key=lambda w: (-lexicon.weight(w), w))[:count])
    chosen = [w for w in content if w in top]
    if rng.random() < 0.35:
        fields: list[tuple[str, object]] = [(rng.choice(_WORDS_KEYS), chosen)]
    else:
        fields = [(_key(_CLASS_KEYS, rng), _spell(chosen, rng))]
    return _exercise(fields, f"Use {count} words of the text.", "", text, rng)


def _coded(material: Material, index: int, rng: random.Random) -> Exercise:
    labels = rng.choice(material.code_sets)
    turn = material.turns[index]
    number = labels.classes[index]
    if number < 0:
        return _labelled(turn, "", rng)
    fields: list[tuple[str, object]] = [(_key(_CLASS_KEYS, rng), "_".join(labels.names[number]))]
    return _exercise(fields, labels.hint, "", _typed(turn.text, rng), rng, always_ask=True)


def _exercise(
    fields: Sequence[tuple[str, object]],
    hint: str,
    before: str,
    request: str,
    rng: random.Random,
    *,
    always_ask: bool = False,
) -> Exercise:
    system = ""
    if always_ask or rng.random() < 0.85:
        system = rng.choice(_ASKS).format(keys=", ".join(key for key, _ in fields))
        if hint and (always_ask or rng.random() < 0.8):
            system = f"{system} {hint}"
    separators = (",", ":") if rng.random() < 0.75 else (", ", ": ")
    answer = json.dumps(dict(fields), separators=separators, ensure_ascii=False)
    return Exercise(system, before, request, answer)


def _disturbed(material: Material, text: str, rng: random.Random) -> str:
    """Swaps some words for rare, foreign or invented ones, so that unseen words are read too."""
    parts = text.split()
    for position in range(len(parts)):
        draw = rng.random()
        if draw < 0.025:
            parts[position] = _invented(rng)
        elif draw < 0.09:
            parts[position] = rng.choice(material.turns[rng.choice(material.telling)].text.split())
    return " ".join(parts)


def _invented(rng: random.Random) -> str:
    syllables = ("".join(rng.choice(part) for part in _SYLLABLE) for _ in range(rng.randint(1, 3)))
    return "".join(syllables)


_SYLLABLE = (
    ("b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v", "w", "br", "ch", "st", "tr"),
    ("a", "e", "i", "o", "u", "ea", "ou"),
    ("", "n", "r", "s", "t", "l", "ck", "ng", "rt"),
)


def _typed(text: str, rng: random.Random) -> str:
    return plain(text) if rng.random() < 0.65 else text


def _key(keys: Sequence[str], rng: random.Random) -> str:
    """The first name of the list is the field's usual one and comes up more often."""
    return keys[0] if rng.random() < 0.3 else rng.choice(keys)


def _renamed(intent: str, rng: random.Random) -> tuple[str, ...]:
    verb, *rest = name_words(intent)
    return (rng.choice(_VERBS.get(verb, (verb,))), *rest)


def _spell(parts: Sequence[str], rng: random.Random) -> str:
    return rng.choice(_STYLES)(parts)
