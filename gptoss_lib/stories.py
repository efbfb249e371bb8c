"""A probabilistic story grammar, in the manner of TinyStories, whose entropy is known exactly.

GPT-2's training text has an entropy that nobody knows. Here every story comes from choices that we
wrote down, and from no two lists of choices, so that the probability of a story, the entropy of all
stories and the surprise of each word are sums rather than estimates. The parts: templates that
remember (:class:`Show`, :class:`Draw`, :class:`Choice`), a teller, a census (entropy and lengths),
a reader (text back to choices), and a proof that no story has two derivations.

Built in chapter 03: edit ``notebooks/03_small_world.py``, not this file.
"""

import math
import re
from bisect import bisect, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, combinations, pairwise, repeat
from random import Random

from gptoss_lib.stories_words import RULES

__all__ = ["Choice", "Draw", "Entity", "Show", "Story", "StoryError", "StoryGrammar", "Template"]


class Entity(dict):
    """Something a story can remember: its word and what else the templates say of it.

    ``entity["he"]`` is an attribute from the word list. Three more come by themselves: ``a`` is the
    word with its article, ``s`` the possessive, and a capital (``He``, ``A``) starts a sentence. An
    attribute that is a list (``spots``) is a list of entities, to draw from.

    Raises:
        ValueError: if an attribute is asked for that the entity does not have.
    """

    def __init__(self, attributes: str | Mapping):
        named = {"word": attributes} if isinstance(attributes, str) else attributes
        super().__init__(
            (key, value if isinstance(value, str) else tuple(map(Entity, value)))
            for key, value in named.items()
        )

    def __missing__(self, attribute: str) -> str:
        if attribute[:1].isupper():
            text = self[attribute.lower()]
            return text[:1].upper() + text[1:]
        if attribute == "a":
            return f"{'an' if self['word'][0] in 'aeiou' else 'a'} {self['word']}"
        if attribute == "s":
            return f"{self['word']}'s"
        raise ValueError(f"{self['word']!r} has no attribute {attribute!r}; it has {', '.join(self)}.")

    def __repr__(self) -> str:
        return f"Entity({self['word']!r})"


@dataclass(frozen=True, eq=False)
class Show:
    """``{hero.he}``: print an attribute of what was drawn. No choice, so no entropy."""

    variable: str
    attribute: str


@dataclass(frozen=True, eq=False)
class Draw:
    """``[hero:child]``: draw an entity and remember it; print nothing.

    Uniform, and without replacement: two variables in one story never hold the same entity of one
    list. ``[spot:place.spots]`` draws from a list that belongs to what another variable holds.
    """

    variable: str
    source: str
    entities: tuple[Entity, ...] | None  # None where the list belongs to another variable

    @property
    def owner(self) -> str | None:
        """The variable whose list this draws from, if it is not a list of the grammar's own."""
        return self.source.partition(".")[0] if self.entities is None else None

    def candidates(self, owner: Entity | None) -> tuple[Entity, ...]:
        """Return the list to draw from, given what the owner holds."""
        return owner[self.source.partition(".")[2]] if self.entities is None else self.entities


@dataclass(frozen=True, eq=False)
class Choice:
    """``<small|little>`` or ``<opening>``: tell one of several templates, and forget which."""

    rule: str
    weights: Sequence[float]
    templates: Sequence["Template"]
    log_probs: list[float] = field(init=False)
    cumulative: list[float] = field(init=False)

    def __post_init__(self):
        total = sum(self.weights)
        object.__setattr__(self, "log_probs", [math.log(weight / total) for weight in self.weights])
        object.__setattr__(self, "cumulative", [running / total for running in accumulate(self.weights)][:-1])


Template = tuple[str | Show | Draw | Choice, ...]


class _Compiler:
    """Turns rules written as text into templates; each rule and each list once."""

    def __init__(self, rules: Mapping[str, Sequence]):
        self.rules = rules
        self.choices: dict[str, Choice | None] = {}
        self.lists: dict[str, tuple[Entity, ...]] = {}

    def choice(self, name: str) -> Choice:
        """Return the choice between the alternatives of a rule."""
        if name not in self.choices:
            self.choices[name] = None  # open: whoever comes back to it now goes in a circle
            pairs = [item if isinstance(item, tuple) else (1.0, item) for item in self._rule(name)]
            if not pairs or min(weight for weight, _ in pairs) <= 0:
                raise ValueError(f"Rule {name!r} needs at least one alternative, each with a weight above 0.")
            texts = [text["word"] if isinstance(text, Mapping) else text for _, text in pairs]
            self.choices[name] = Choice(
                name, [weight for weight, _ in pairs], [self.template(t, name) for t in texts]
            )
        if self.choices[name] is None:
            raise ValueError(
                f"Rule {name!r} leads back to itself; stories have to end, so rules cannot be recursive."
            )
        return self.choices[name]

    def entities(self, name: str) -> tuple[Entity, ...]:
        """Return the list of a name, for drawing."""
        if name not in self.lists:
            items = self._rule(name)
            if any(
                isinstance(item, tuple) or (isinstance(item, str) and re.search(r"[][<>{}|]", item))
                for item in items
            ):
                raise ValueError(
                    f"[…:{name}] draws from {name!r}, which has templates or weights; it wants plain words."
                )
            self.lists[name] = tuple(map(Entity, items))
            if len({entity["word"] for entity in self.lists[name]}) < len(items):
                raise ValueError(f"The list {name!r} has a word twice; remove one of them.")
        return self.lists[name]

    def template(self, text: str, rule: str) -> Template:
        """Read one template: text, ``{show}``, ``[draw]`` and nested ``<choice|choice>``."""
        levels: list[list[list]] = [[[]]]  # open choices, their alternatives, the parts of those
        for token in re.split(r"([<|>]|\{[^{}]*\}|\[[^][]*\])", text):
            parts = levels[-1][-1]
            if token == "<":
                levels.append([[]])
            elif token == "|" and len(levels) > 1:
                levels[-1].append([])
            elif token == ">" and len(levels) > 1:
                levels[-2][-1].append(self._close([tuple(alternative) for alternative in levels.pop()], rule))
            elif token in ("|", ">"):
                raise ValueError(f"Rule {rule!r} has a {token!r} without its '<': {text!r}.")
            elif token.startswith("{"):
                variable, _, attribute = token[1:-1].partition(".")
                parts.append(Show(variable, attribute or "word"))
            elif token.startswith("["):
                variable, _, source = token[1:-1].partition(":")
                parts.append(Draw(variable, source, None if "." in source else self.entities(source)))
            elif token:
                parts.append(token)
        if len(levels) > 1:
            raise ValueError(f"Rule {rule!r} has a '<' without its '>': {text!r}.")
        return tuple(levels[0][0])

    def _close(self, alternatives: list[Template], rule: str) -> Choice:
        if len(alternatives) > 1:
            return Choice(rule, [1.0] * len(alternatives), alternatives)
        if len(alternatives[0]) == 1 and isinstance(alternatives[0][0], str):
            return self.choice(alternatives[0][0])
        raise ValueError(f"Rule {rule!r} has a <…> that is neither the name of a rule nor a choice with '|'.")

    def _rule(self, name: str) -> Sequence:
        if name not in self.rules:
            raise ValueError(
                f"There is no rule {name!r}; the grammar has {', '.join(sorted(self.rules)[:8])} …"
            )
        return self.rules[name]


def _tell(
    template: Template, scope: dict, random: Callable[[], float], pieces: list[str], drawn: dict
) -> float:
    """Append a telling of ``template`` to ``pieces`` and return its log-probability.

    ``scope`` maps the variables in sight to (list, entity). What a template draws is in sight in
    the rest of that template and in all that it calls, and nowhere else: hence the new dictionary.
    """
    log_prob = 0.0
    for part in template:
        if isinstance(part, str):
            pieces.append(part)
        elif isinstance(part, Show):
            pieces.append(scope[part.variable][1][part.attribute])
        elif isinstance(part, Choice):
            index = bisect(part.cumulative, random())
            log_prob += part.log_probs[index] + _tell(part.templates[index], scope, random, pieces, drawn)
        else:
            candidates = part.candidates(part.owner and scope[part.owner][1])
            taken = [entity for source, entity in scope.values() if source == part.source]
            while (entity := candidates[int(random() * len(candidates))]) in taken:
                pass
            log_prob -= math.log(len(candidates) - len(taken))
            scope = {**scope, part.variable: (part.source, entity)}
            drawn[part.variable] = entity
    return log_prob


class _Census:
    """Walks through everything a grammar can tell, once, and adds up expectations.

    ``nats[rule]`` is what the choices of a rule, or the draws from a list, add to the entropy;
    ``pieces[text]`` is how often a piece of text is printed in a story, on average.
    """

    def __init__(self, story: Choice):
        self.nats: Counter[str] = Counter()
        self.pieces: Counter[str] = Counter()
        self._beliefs: dict = {}  # what a variable can hold: [(probability, entity)]
        self._shown: Counter = Counter()
        self._walk((story,), {}, 1.0)
        for (belief, attribute), times in self._shown.items():
            for probability, entity in self._beliefs[belief]:
                self.pieces[entity[attribute]] += times * probability

    def _walk(self, template: Template, scope: dict[str, tuple[str, object]], weight: float) -> None:
        for part in template:
            if isinstance(part, str):
                self.pieces[part] += weight
            elif isinstance(part, Show):
                self._shown[self._look_up(scope, part.variable)[1], part.attribute] += weight
            elif isinstance(part, Choice):
                for log_p, chosen in zip(part.log_probs, part.templates, strict=True):
                    self.nats[part.rule] -= weight * math.exp(log_p) * log_p
                    self._walk(chosen, scope, weight * math.exp(log_p))
            elif part.variable in scope:
                raise ValueError(f"{part.variable!r} is drawn twice; give the second draw a name of its own.")
            else:
                scope = {**scope, part.variable: (part.source, self._draw(part, scope, weight))}

    def _draw(self, draw: Draw, scope: dict, weight: float) -> object:
        """Add the entropy of a draw and return the key of what its variable can hold."""
        owner = draw.owner and self._look_up(scope, draw.owner)[1]
        owners = self._beliefs[owner] if owner else [(1.0, None)]
        taken = sum(source == draw.source for source, _ in scope.values())
        belief = []
        for probability, entity in owners:
            candidates = draw.candidates(entity)
            if len(candidates) <= taken:
                raise ValueError(
                    f"{draw.source!r} has only {len(candidates)} entities, too few for {draw.variable!r}."
                )
            self.nats[draw.source] += weight * probability * math.log(len(candidates) - taken)
            belief += [(probability / len(candidates), candidate) for candidate in candidates]
        key = (owner, draw.source)
        self._beliefs[key] = belief
        return key

    @staticmethod
    def _look_up(scope: dict, variable: str) -> tuple[str, object]:
        if variable not in scope:
            raise ValueError(
                f"{variable!r} is used where nothing has drawn it; write [{variable}:list] before."
            )
        return scope[variable]


class StoryError(ValueError):
    """A text that is not a story of the grammar.

    Attributes:
        position: the character at which the last possible reading gives up, at a word's beginning.
        expected: the words that could have stood there, in alphabetical order.
    """

    def __init__(self, text: str, position: int, expected: set[str]):
        self.position, self.expected = position, sorted({piece.split(" ")[0] for piece in expected})
        found = text[position:].split(maxsplit=1)[:1] or ["the end"]
        some = ", ".join(repr(word) if word else "the end" for word in self.expected[:4])
        some += " …" if len(self.expected) > 4 else ""
        before = text[max(0, position - 30) : position]
        super().__init__(
            f"The text stops being a story at character {position}, after {before!r}: "
            f"it has {found[0]!r} where the grammar has {some}."
        )


@dataclass
class _Reading:
    """What reading a text has found so far."""

    text: str
    derivations: list[tuple[float, dict]] = field(default_factory=list)
    spans: list[tuple[int, int, float]] = field(
        default_factory=list
    )  # from, to, log-probability of the way there
    position: int = 0
    expected: set[str] = field(default_factory=set)

    def match(self, piece: str, at: int, log_prob: float) -> int | None:
        """Return where ``piece`` ends if the text has it at ``at``; note how far it fits."""
        if self.text.startswith(piece, at):
            self.spans.append((at, at + len(piece), log_prob))
            return at + len(piece)
        fits = 0
        while self.text[at + fits : at + fits + 1] == piece[fits]:
            fits += 1
        if fits:
            self.spans.append((at, at + fits, log_prob))
        word = piece.rfind(" ", 0, fits) + 1
        self.give_up(at + word, piece[word:])
        return None

    def give_up(self, position: int, expected: str) -> None:
        """Note that a way of reading ends here, if no other way came further."""
        if position > self.position:
            self.position, self.expected = position, set()
        if position == self.position:
            self.expected.add(expected)


def _read(text: str, story: Choice) -> _Reading:
    """Find every derivation of ``text``, by trying all choices and dropping those that do not fit.

    A draw is decided where its variable is first shown. That changes no probability: uniform draws
    without replacement have the same distribution in every order.
    """
    reading = _Reading(text)
    ways = [(0, ((story,), 0, None), {}, {}, 0.0)]  # position, what comes next, scope, drawn, log-probability
    while ways:
        at, (template, index, above), scope, drawn, log_prob = ways.pop()
        if index == len(template):
            closing = [part.variable for part in template if isinstance(part, Draw)]
            if any(scope[variable][1] is None for variable in closing):
                raise ValueError(
                    f"One of {', '.join(closing)} is drawn but never shown, so it cannot be read back."
                )
            if above:
                ways.append(
                    (at, above, {k: v for k, v in scope.items() if k not in closing}, drawn, log_prob)
                )
            elif at == len(text):
                reading.derivations.append((log_prob, drawn))
            else:
                reading.give_up(at, "")
            continue
        part, after = template[index], (template, index + 1, above)
        if isinstance(part, str):
            if (end := reading.match(part, at, log_prob)) is not None:
                ways.append((end, after, scope, drawn, log_prob))
        elif isinstance(part, Choice):
            for log_p, chosen in zip(part.log_probs, part.templates, strict=True):
                ways.append((at, (chosen, 0, after), scope, drawn, log_prob + log_p))
        elif isinstance(part, Draw):
            ways.append((at, after, {**scope, part.variable: (part, None)}, drawn, log_prob))
        elif scope[part.variable][1] is not None:
            if (end := reading.match(scope[part.variable][1][part.attribute], at, log_prob)) is not None:
                ways.append((end, after, scope, drawn, log_prob))
        else:
            variable, draw, candidates = _undecided(part.variable, scope)
            log_p = log_prob - math.log(len(candidates))
            for entity in candidates:
                end = reading.match(entity[part.attribute], at, log_p) if variable == part.variable else at
                if end is not None:
                    then = after if variable == part.variable else (template, index, above)
                    ways.append(
                        (end, then, {**scope, variable: (draw, entity)}, {**drawn, variable: entity}, log_p)
                    )
    return reading


def _undecided(variable: str, scope: dict) -> tuple[str, Draw, list[Entity]]:
    """Return what has to be decided first to know ``variable`` (its owner, maybe), and the candidates."""
    draw = scope[variable][0]
    while draw.owner and scope[draw.owner][1] is None:
        variable, draw = draw.owner, scope[draw.owner][0]
    taken = [entity for other, entity in scope.values() if other.source == draw.source and entity is not None]
    candidates = draw.candidates(draw.owner and scope[draw.owner][1])
    return variable, draw, [entity for entity in candidates if entity not in taken]


class _Proof:
    """Shows that no two derivations of a grammar give the same text, without listing the texts.

    Three things suffice. Wherever a rule chooses, no two alternatives (with all that can follow)
    can be spelled alike. Wherever a variable is shown, two of its spellings cannot run into each
    other. And whatever is drawn is certainly shown, by an attribute that tells its entities apart.
    It compares more pairs than can occur, so it may refuse a sound grammar, never pass a bad one.
    """

    def __init__(self, story: Choice):
        self.comparisons = 0
        self.lists: dict[str, list[tuple[Entity, ...]]] = {}  # every list that a variable may be drawn from
        self._told: dict[str, str] = {}  # variables that any reader knows by now, and their lists
        self._cache: dict[tuple, set] = {}
        self._collect((story,))
        self._visit(((story,), 0, None), {}, {})

    def _collect(self, template: Template) -> None:
        for part in template:
            if isinstance(part, Choice):
                for chosen in part.templates:
                    self._collect(chosen)
            elif isinstance(part, Draw):
                owners = (
                    [entity for entities in self.lists[part.owner] for entity in entities]
                    if part.owner
                    else [None]
                )
                known = self.lists.setdefault(part.variable, [])
                known += [
                    found
                    for found in map(part.candidates, owners)
                    if not any(found is other for other in known)
                ]

    def _visit(self, path: tuple, drawn: dict[str, str], told: dict[str, str]) -> None:
        template, start, above = path
        for index in range(start, len(template)):
            part, after = template[index], (template, index + 1, above)
            self._told = told
            if isinstance(part, Choice):
                for one, two in combinations(part.templates, 2):
                    if self._meet("", (one, 0, after), "", (two, 0, after)):
                        alike = f"{_sketch(one)!r} and {_sketch(two)!r}"
                        raise ValueError(f"Rule {part.rule!r} is ambiguous: {alike} can read alike.")
                for chosen in part.templates:
                    self._visit((chosen, 0, after), drawn, told)
                told = told | {name: drawn[name] for name in drawn if self._certain((part,), name)}
            elif isinstance(part, Show):
                for left, right in sorted(self._leftovers(part, part) - {("", "")}):
                    if self._meet(left, after, right, after):
                        shown = f"{{{part.variable}.{part.attribute}}}"
                        raise ValueError(
                            f"Two spellings of {shown} differ by {left + right!r} and can read alike."
                        )
                if self._certain((part,), part.variable):
                    told = told | {part.variable: drawn[part.variable]}
            elif isinstance(part, Draw):
                drawn = drawn | {part.variable: part.source}
                if not self._certain(template[index + 1 :], part.variable):
                    raise ValueError(
                        f"{part.variable!r} is drawn but not surely shown in a way that tells which it is."
                    )

    def _certain(self, template: Template, variable: str) -> bool:
        """Whether every telling of ``template`` shows which entity ``variable`` holds."""
        for part in template:
            if isinstance(part, Show) and part.variable == variable and self._tells(variable, part.attribute):
                return True
            if isinstance(part, Choice) and all(self._certain(chosen, variable) for chosen in part.templates):
                return True
        return False

    def _tells(self, variable: str, attribute: str) -> bool:
        """Whether the attribute is spelled differently for each entity that the variable may hold."""
        return all(
            len({e[attribute] for e in entities}) == len(entities) for entities in self.lists[variable]
        )

    def _spellings(self, part: Show) -> set[str]:
        key = (part.variable, part.attribute)
        if key not in self._cache:
            self._cache[key] = {e[part.attribute] for entities in self.lists[part.variable] for e in entities}
        return self._cache[key]

    def _leftovers(self, one: Show, two: Show) -> set[tuple[str, str]]:
        """Return what is left of each where a spelling of ``one`` begins one of ``two``, or the reverse."""
        key = (one.variable, one.attribute, two.variable, two.attribute)
        if key not in self._cache:
            ones, twos = self._spellings(one), self._spellings(two)
            self._cache[key] = {("", b[n:]) for b in twos for n in range(len(b) + 1) if b[:n] in ones}
            self._cache[key] |= {(a[n:], "") for a in ones for n in range(len(a) + 1) if a[:n] in twos}
        return self._cache[key]

    def _meet(self, one: str, path: tuple | None, two: str, other: tuple | None) -> bool:
        """Whether text ``one`` and then ``path`` can spell the same as text ``two`` and then ``other``."""
        self.comparisons += 1
        shared = min(len(one), len(two))
        if one[:shared] != two[:shared]:
            return False
        one, two = one[shared:], two[shared:]
        if one:
            return self._meet(two, other, one, path)
        path, other = self._next(path), other if two else self._next(other)
        if not two and path == other:
            return True  # the same rest: whatever it spells, both ways spell it
        if path is None:  # this side has ended
            return not two and self._meet("", other, "", None)
        part, after = path[0][path[1]], (path[0], path[1] + 1, path[2])
        if isinstance(part, str):
            return self._meet(part, after, two, other)
        if isinstance(part, Choice):
            return any(self._meet("", (chosen, 0, after), two, other) for chosen in part.templates)
        if two:
            fitting = (text for text in self._spellings(part) if text.startswith(two) or two.startswith(text))
            return any(self._meet(text, after, two, other) for text in fitting)
        if other is None:
            return False
        facing, beyond = other[0][other[1]], (other[0], other[1] + 1, other[2])
        if not isinstance(facing, Show):
            return self._meet("", other, "", path)
        pairs = self._leftovers(part, facing) - ({("", "")} if self._apart(part, facing) else set())
        return any(self._meet(rest, after, left, beyond) for rest, left in pairs)

    def _apart(self, one: Show, two: Show) -> bool:
        """Whether both variables are known by now, and known to hold different entities of one list."""
        lists = {self._told.get(one.variable, 0), self._told.get(two.variable, 1)}
        same_list = len(lists) == 1 and one.variable != two.variable
        return same_list and one.attribute == two.attribute and self._tells(one.variable, one.attribute)

    def _next(self, path: tuple | None) -> tuple | None:
        """Skip what prints nothing: draws, and the ends of templates."""
        while path and (path[1] == len(path[0]) or isinstance(path[0][path[1]], Draw)):
            if path[1] == len(path[0]):
                path = path[2]
                continue
            if (variable := path[0][path[1]].variable) in self._told:
                raise ValueError(f"{variable!r} may be drawn twice; give the second draw a name of its own.")
            path = (path[0], path[1] + 1, path[2])
        return path


def _sketch(template: Template) -> str:
    """Return the beginning of a template as the reader wrote it, more or less."""
    names = {
        Show: lambda p: f"{{{p.variable}.{p.attribute}}}",
        Draw: lambda p: "",
        Choice: lambda p: f"<{p.rule}>",
    }
    return "".join(part if isinstance(part, str) else names[type(part)](part) for part in template)[:60]


@dataclass(frozen=True)
class Story:
    """A story, its exact log-probability in nats, and what its variables hold (hero, place, …)."""

    text: str
    log_prob: float
    entities: dict[str, Entity]


class StoryGrammar:
    """Seeded, endless stories with an exactly known entropy.

    Args:
        rules: names and their alternatives: templates, ``(weight, template)`` pairs, or, for lists
            to draw from, words and dictionaries with a ``word``. The course's own by default.
        start: the rule that tells a story.

    Raises:
        ValueError: if a rule is missing, recursive or malformed, or a variable is used before it is
            drawn.
    """

    def __init__(self, rules: Mapping[str, Sequence] | None = None, start: str = "story"):
        self.rules = RULES if rules is None else rules
        self.story = _Compiler(self.rules).choice(start)
        self.census = _Census(self.story)

    def stories(self, seed: int = 0, count: int | None = None) -> Iterator[Story]:
        """Yield ``count`` stories, or endlessly many; the same ones for the same seed, everywhere.

        Raises:
            ValueError: if the seed is negative (Python's generator would drop the sign, and the
                seeds 1 and −1 would give the same stories).
        """
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must be 0 or more.")
        random = Random(int(seed)).random
        for _ in repeat(None) if count is None else repeat(None, count):
            pieces, drawn = [], {}
            log_prob = _tell((self.story,), {}, random, pieces, drawn)
            yield Story("".join(pieces), log_prob, drawn)

    def entropy(self) -> float:
        """Return the entropy of a story, in nats: no model's expected loss is lower."""
        return math.fsum(self.census.nats.values())

    def entropy_by_rule(self) -> dict[str, float]:
        """Return what each rule and each list adds to the entropy, in nats, the largest first."""
        return dict(self.census.nats.most_common())

    def expected(self, measure: Callable[[str], float]) -> float:
        """Return the exact mean over stories of anything that adds up over pieces of text.

        ``expected(len)`` is the mean length in characters.
        """
        return math.fsum(times * measure(piece) for piece, times in self.census.pieces.items())

    def expected_bytes(self) -> float:
        """Return the mean length of a story in UTF-8 bytes."""
        return self.expected(lambda piece: len(piece.encode()))

    def floor(self) -> float:
        """Return the entropy in bits per byte, the unit that does not depend on a tokenizer."""
        return self.entropy() / math.log(2) / self.expected_bytes()

    def vocabulary(self) -> set[str]:
        """Return every word that a story can contain, in lower case, without possessive ``'s``."""
        words = re.findall(r"[a-z]+(?:[-'][a-z]+)*", " ".join(self.census.pieces).lower())
        return {word.removesuffix("'s") for word in words}

    def parse(self, text: str) -> Story:
        """Return the story that ``text`` is, with its log-probability and entities.

        Raises:
            StoryError: (a ValueError) if the grammar cannot tell this text; it says where it fails.
            ValueError: if the grammar is ambiguous and tells it in more than one way.
        """
        return Story(text, *self._only_derivation(_read(text, self.story)))

    def log_prob(self, text: str) -> float:
        """Return the exact log-probability of a story in nats; raises what :meth:`parse` raises."""
        return self.parse(text).log_prob

    def surprises(self, text: str) -> list[tuple[str, float]]:
        """Return the words of a story (with the space before) and the exact surprise of each, in nats.

        A word's surprise is −log P(text up to it) + log P(text before it), where the probability of
        a beginning sums over all stories that begin so. They add up to −log P(story).
        """
        reading = _read(text, self.story)
        log_prob, _ = self._only_derivation(reading)
        words = re.findall(r"\s*\S+", text)
        ends = list(accumulate(map(len, words)))
        ways: list[list[float]] = [[] for _ in ends]
        for start, stop, way in reading.spans:
            for index in range(bisect_right(ends, start), bisect_right(ends, stop)):
                ways[index].append(way)
        sofar = [0.0, *map(_log_sum, ways[:-1]), log_prob]
        return [(word, before - after) for word, (before, after) in zip(words, pairwise(sofar), strict=True)]

    def prove_unambiguous(self) -> int:
        """Prove that no story has two derivations and return how many comparisons it took.

        Raises:
            ValueError: if the grammar is ambiguous, or the proof does not succeed; it says where.
        """
        return _Proof(self.story).comparisons

    @staticmethod
    def _only_derivation(reading: _Reading) -> tuple[float, dict[str, Entity]]:
        if not reading.derivations:
            raise StoryError(reading.text, reading.position, reading.expected)
        if len(reading.derivations) > 1:
            ways = len(reading.derivations)
            raise ValueError(
                f"The grammar tells this text in {ways} ways, so it is ambiguous: {reading.text[:60]!r} …"
            )
        return reading.derivations[0]


def _log_sum(log_probs: list[float]) -> float:
    """Return the log of the sum of the probabilities."""
    largest = max(log_probs)
    return largest + math.log(math.fsum(math.exp(log_prob - largest) for log_prob in log_probs))
