# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A small world
#
# Every chapter from here on ends with a number: the loss of a model. Is it a good number? For ordinary text nobody
# can say, because nobody knows how predictable ordinary text is. So you now build a language of which you know
# everything: a world of small stories, written by a grammar, whose entropy you compute to the last digit. It is
# the text that the course's models learn from.
#
# **You will**
#
# - get a feeling for surprise, entropy, cross-entropy and perplexity, from a coin to a story;
# - write a grammar that remembers: what a story says at its beginning binds it at its end;
# - compute the entropy of all stories exactly, without drawing a single one;
# - read a story back into the choices that made it, and prove that there is only one way to do so;
# - see, word by word, what a perfect reader would still be surprised by.
#
# **Time:** 75 minutes. **Hardware:** any computer; nothing is trained or downloaded in this chapter.

# %% tags=["setup"]
# (this cell is filled in by the course's tools)

# %% [markdown]
# ## Why
#
# GPT-2 was trained on 40 GB of web pages
# ([Radford et al., 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)).
# Suppose its loss on a page is 3 nats a token. Some of that is the model's
# fault. The rest is the page's: a name that could have been any name, a turn that no reader could foresee. No model
# will ever get rid of that rest, which is called the **entropy** of the text. For web pages nobody knows how large
# it is. Shannon let people guess the next letter of English and could only bound it, between 0.6 and 1.3 bits a
# letter ([Shannon, 1951](https://doi.org/10.1002/j.1538-7305.1951.tb01366.x)).
#
# A small model needs small text anyway. [Eldan & Li, 2023](https://arxiv.org/abs/2305.07759) had a large model write
# *TinyStories*, with the words of a three-year-old, and models of a few million parameters learned to tell such
# stories well. We keep the stories and replace the author. A **grammar** tells ours, so that we know the
# probability of every one of them. That buys three things:
#
# 1. **A floor.** The loss of any model, however large, is at least the entropy. You will see how far above it you are.
# 2. **Endless fresh text.** Every story is new, so validation text cannot leak into training text.
# 3. **Known memory.** The grammar knows which word repeats what was said earlier, and how much earlier. So you can
#    measure whether a model remembers, which is what attention is for.
#
# The idea has a tradition: grammars serve as laboratory animals for language models
# ([Allen-Zhu & Li, 2023](https://arxiv.org/abs/2305.13673)), because only there the truth is known.

# %% [markdown]
# ## Surprise, and its mean
#
# You learn that something happened which had probability $p$. How surprised are you? A good measure adds up: two
# independent things that happen are as surprising as both surprises together. Probabilities multiply, so the
# measure must be a logarithm:
#
# $$\text{surprise} = -\log p$$
#
# No other continuous function turns products into sums. With $\log_2$ the unit is the **bit**: the surprise of one fair coin. With
# the natural logarithm it is the **nat**, and one nat is $1/\ln 2 \approx 1.44$ bits. Training code counts in nats,
# people think in bits, and this course says which one it means.
#
# The **entropy** of a choice is its mean surprise: each outcome's surprise, weighted by how often it happens
# ([Shannon, 1948](https://doi.org/10.1002/j.1538-7305.1948.tb01338.x)).
#
# $$H(p) = -\sum_x p(x) \log p(x)$$

# %%
import math


def entropy_bits(probabilities):
    return sum(-p * math.log2(p) for p in probabilities if p > 0)


for name, probabilities in {
    "a fair coin": [0.5, 0.5],
    "a bent coin": [0.9, 0.1],
    "a coin with two heads": [1.0],
    "a die": [1 / 6] * 6,
    "one of 150 names": [1 / 150] * 150,
}.items():
    print(f"{name:22s} {entropy_bits(probabilities):.3f} bits")

# %% tags=["hide-input"]
from gptoss_lib.figures import COLORS, CYCLE, arrow, box, new_figure, show

fig, (left, right) = new_figure(7.2, 2.9, ncols=2)
p = [i / 200 for i in range(1, 200)]
left.plot(p, [-math.log2(q) for q in p], color=COLORS["blue"])
left.set(title="Surprise of one outcome", xlabel="its probability p", ylabel="bits", ylim=(0, 7))
right.plot(p, [entropy_bits([q, 1 - q]) for q in p], color=COLORS["orange"])
right.set(title="Entropy of a coin", xlabel="probability of heads", ylabel="bits", ylim=(0, 1.1))
show(
    fig,
    alt="Two curves. The surprise of an outcome falls from seven bits at probability 0.01 to zero at "
    "probability 1. The entropy of a coin is zero for a coin that always falls the same way and one bit for a fair coin.",
)

# %% [markdown]
# A rare outcome is very surprising, but it is rare. So the entropy of a coin is largest when you can tell the least.
#
# ### From one choice to many
#
# A sentence is a tree of choices. Take one that first picks an animal and then what it does, where the second
# choice depends on the first. There are two ways to its entropy, and they agree. You can list all sentences and
# apply the formula. Or you can walk through the tree and add up what each choice contributes, weighted by the
# probability of getting to it:
#
# $$H(\text{node}) = H(\text{choice at the node}) + \sum_i p_i\, H(\text{child}_i)$$
#
# This is the **chain rule**. A tree for whole stories has more leaves than you could ever list, but you can write
# down its choices on a few pages. The second way is how you will compute the entropy of a story.

# %%
tree = {
    "The cat": (0.5, {"sleeps.": (0.75, None), "purrs.": (0.25, None)}),
    "The dog": (0.5, {"sleeps.": (0.5, None), "barks.": (0.5, None)}),
}


def leaves(node, p=1.0, text=""):
    if node is None:
        return [(p, text.strip())]
    return [leaf for word, (q, child) in node.items() for leaf in leaves(child, p * q, f"{text} {word}")]


def tree_bits(node):
    if node is None:
        return 0.0
    here = entropy_bits([q for q, _ in node.values()])
    return here + sum(q * tree_bits(child) for q, child in node.values())


for probability, text in leaves(tree):
    print(f"{probability:.3f}  {text}")
print(f"over all sentences: {entropy_bits([q for q, _ in leaves(tree)]):.4f} bits")
print(f"along the tree:     {tree_bits(tree):.4f} bits")

# %% tags=["hide-input"]
fig, ax = new_figure(7.2, 3.1)
ax.set(xlim=(0, 10), ylim=(0, 4.2))
ax.axis("off")
box(ax, 0.1, 1.75, 2.0, 0.7, "start: 1 bit", "blue")
for y, animal, children in [
    (2.9, "cat", [(3.4, "sleeps", ".75"), (2.4, "purrs", ".25")]),
    (0.6, "dog", [(1.1, "sleeps", ".5"), (0.1, "barks", ".5")]),
]:
    bits = {"cat": "0.811", "dog": "1"}[animal]
    box(ax, 3.6, y, 2.6, 0.7, f"The {animal}: {bits} bits", "orange")
    arrow(ax, (2.1, 2.1), (3.55, y + 0.35))
    ax.text(2.85, (2.1 + y + 0.35) / 2 + (0.22 if animal == "cat" else -0.32), ".5", ha="center")
    for leaf, verb, p in children:
        box(ax, 8.0, leaf, 1.6, 0.6, verb, "grey")
        arrow(ax, (6.2, y + 0.35), (7.95, leaf + 0.3))
        ax.text(7.1, (y + 0.35 + leaf + 0.3) / 2 + (0.14 if leaf > y else -0.34), p, ha="center")
show(
    fig,
    alt="A tree of two choices. The first picks the cat or the dog and has an entropy of one bit. Below the cat "
    "the verb has 0.811 bits, below the dog one bit. The whole entropy is 1 + 0.5 times 0.811 + 0.5 times 1.",
)

# %% [markdown]
# Note where the two ways could part. Say that the dog's *barks* were *sleeps* as well. Then two leaves would carry
# the same text, the list of texts would have one entry fewer, and its entropy would be smaller than the tree's. The
# tree counts **derivations**, a model sees **texts**. The two entropies are equal exactly if no text has two
# derivations. Keep this in mind: it is the one thing in this chapter that can turn a number into a lie.

# %% [markdown]
# ## A language that you can write down
#
# A story needs more than a tree. "*Lily* lost her *red ball* … *Tom* found the *ball* … '*Red* is my favorite color,'
# said *Lily*": what is chosen early binds what comes later. We write such stories as **templates** with three marks:
#
# | you write | it does | it costs |
# |---|---|---|
# | `<small\|little>` or `<opening>` | picks one of these, or an alternative of the rule *opening*, and forgets it | bits |
# | `[hero:child]` | draws one from the list *child* and remembers it as *hero*; prints nothing | bits |
# | `{hero}`, `{hero.he}` | prints what is remembered: *Lily*, *she* | nothing |
#
# Angle brackets and square brackets are the world's freedom, braces are its memory. A draw can depend on an earlier
# one: `[spot:place.spots]` draws from the hiding places of whatever *place* holds, so nobody hides a ball behind a
# sand dune in the library. And two draws from one list never give the same entity: hero and friend differ.
#
# The module starts here.

# %%
#| export
"""A probabilistic story grammar, in the manner of TinyStories, whose entropy is known exactly.

GPT-2's training text has an entropy that nobody knows. Here every story comes from choices that we
wrote down, and from no two lists of choices, so that the probability of a story, the entropy of all
stories and the surprise of each word are sums rather than estimates. The parts: templates that
remember (:class:`Show`, :class:`Draw`, :class:`Choice`), a teller, a census (entropy and lengths),
a reader (text back to choices), and a proof that no story has two derivations.
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

# %% [markdown]
# First, the things that a story can remember. An entity is a dictionary from a word list; some forms come by themselves.


# %%
#| export
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


# %%
owl = Entity({"word": "owl", "he": "she", "home": ["oak", "barn"]})
print(owl["word"], "|", owl["a"], "|", owl["A"], "|", owl["s"], "|", owl["He"], "|", owl["home"])

# %% [markdown]
# Then the three kinds of parts that a template consists of, besides plain text.


# %%
#| export
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

# %% [markdown]
# Templates are text; the compiler turns them into these parts. It is the least interesting piece of the machine: it
# cuts a line at the marks and keeps a stack of the choices that are still open. It also refuses what would hurt
# later: an unknown rule, a rule that leads back to itself, a list with the same word twice.


# %%
#| export
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


# %%
toy = {
    "story": ["[hero:child][friend:child][place:place][spot:place.spots]<opening> {hero}'s ball was {spot}. "
              '"Look {spot}!" <called|said> {friend}, and {hero.he} did. <The end.|{hero} hugged {friend}.>'],
    "opening": [(3, "{hero} was {place.at}."), (1, "Once upon a time, {hero} went {place.to}.")],
    "child": [{"word": "Lily", "he": "she"}, {"word": "Tom", "he": "he"}, {"word": "Mia", "he": "she"}],
    "place": [
        {"word": "park", "at": "in the park", "to": "to the park", "spots": ["in the pond", "under a bench"]},
        {"word": "farm", "at": "on the farm", "to": "to the farm",
         "spots": ["behind the barn", "in the hay", "near the pigs"]},
    ],
}  # fmt: skip
template = _Compiler(toy).choice("story").templates[0]
for part in template[:8]:
    print(type(part).__name__.ljust(7), {Choice: lambda p: p.rule, Draw: lambda p: f"{p.variable} from {p.source}",
          Show: lambda p: f"{p.variable}.{p.attribute}", str: repr}[type(part)](part))  # fmt: skip

# %% [markdown]
# ## Telling a story
#
# To tell a story, walk through its template. Print text, look up what is shown, and roll dice at choices and draws.
# On the way, add up the logarithm of each probability. At the end you hold a story *and* its log-probability, at no
# extra cost.
#
# One detail decides whether the probabilities are right. A draw leaves out what is taken, so after $k$ draws from a
# list of $n$ each of the $n - k$ others has probability $1/(n-k)$, whichever were taken. It need not know *what* was
# taken, only *how many*. That will keep the entropy simple.


# %%
#| export
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


# %%
pieces, drawn = [], {}
log_prob = _tell((_Compiler(toy).choice("story"),), {}, Random(3).random, pieces, drawn)
print("".join(pieces))
print(f"log-probability {log_prob:.4f} nats = 1 in {math.exp(-log_prob):.0f}")
print(drawn)

# %% [markdown]
# ## Entropy without sampling
#
# You could now tell a million stories and average their surprise. You would get an estimate. The chain rule gets you
# the number itself. Walk through the *grammar*, not through a story, and carry the probability of getting to each
# place. Every choice and every draw adds its own entropy, times that probability:
#
# $$H = \sum_{\text{choices and draws } c} P(\text{the story gets to } c) \cdot E\big[H(c)\big]$$
#
# In words: the entropy of a story is what each choice costs on average, summed over all choices that might be made.
# For the three kinds of decisions the inner entropy is easy.
#
# - **A choice** between weighted alternatives: $-\sum_i p_i \log p_i$, and the walk goes on into all of them.
# - **A draw** from a list of $n$, of which $k$ are taken: $\log(n - k)$, whatever was taken.
# - **A draw from a list that belongs to another variable**: $\sum_v P(v) \log(n_v - k)$, averaged over what the owner
#   may hold. The park has two spots and the farm three: half $\log 2$, half $\log 3$.
#
# For the last one the walk carries, with each variable, the probability of everything that it may hold. No more is
# needed, because nothing in the language ever depends on two variables at once. **This is a design decision.** Had we
# allowed "if the hero is the friend's brother", the walk would have to carry joint probabilities, and the exact
# entropy would soon be out of reach. The same walk counts how often each piece of text is printed, on average. That
# gives exact mean lengths, and the vocabulary.


# %%
#| export
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


# %%
toy_census = _Census(_Compiler(toy).choice("story"))
for name, nats in toy_census.nats.items():
    print(f"{name:12s} {nats / math.log(2):.4f} bits")
print(f"{'together':12s} {sum(toy_census.nats.values()) / math.log(2):.4f} bits")

# %% [markdown]
# Check two of them by hand. Three children, then two: $\log_2 3 + \log_2 2 = 2.585$ bits. Two places with two and three
# spots: $\tfrac12 \cdot 1 + \tfrac12 \log_2 3 = 1.292$ bits.

# %% [markdown]
# ## Reading a story back
#
# A model will be scored on text. So the grammar must score text, too: given a story, find the choices that made it.
# Try them all, and drop each as soon as it does not fit. Most alternatives fail at their first letter.
#
# Draws need a thought. `[hero:child]` prints nothing, so at that moment the reader cannot know who the hero is. It
# waits until the hero is first shown and decides then. May it? If hero and friend are drawn in another order, is the
# probability the same? Yes: drawing without replacement from a uniform list gives every ordered pair the same
# probability, so the order does not matter.
#
# When no reading is left, the text is not a story. The reader then says how far it came, and what it would have
# accepted there. Later chapters will use this on the stories that a model invents.


# %%
#| export
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


# %%
#| export
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


# %%
reading = _read("".join(pieces), _Compiler(toy).choice("story"))
print(f"{len(reading.derivations)} derivation, log-probability {reading.derivations[0][0]:.4f} nats")
print(reading.derivations[0][1])

# %% [markdown]
# The same number comes back, and the same entities, from the text alone.

# %% [markdown]
# ## One text, one derivation
#
# Now the danger from above. Here is a grammar that looks harmless.

# %%
harmless = _Compiler({"story": ["The <red|red hot> <dog|hot dog> <ran|sat>."]}).choice("story")
for text in ["The red dog ran.", "The red hot dog ran."]:
    ways = [math.exp(log_prob) for log_prob, _ in _read(text, harmless).derivations]
    print(f"{text:22s} {len(ways)} derivation(s), probability {' + '.join(f'{way:.3f}' for way in ways)}")

# %% [markdown]
# "The red hot dog ran" can be a red *hot dog* or a red-hot *dog*. The census counts eight derivations and says 3 bits.
# But there are only six texts, two of them with two derivations each. So the entropy of the texts is lower, and a good
# model would fall *below* our floor. We would suspect the model.
#
# For a toy you can list all texts and look for twins. The course's grammar tells more stories than could ever be
# listed. So we need a proof. Think of two derivations of one text, and follow both from the left. They agree for a
# while, then they part: at a choice, or at a draw. The proof checks that whatever they do from there on, the texts
# differ:
#
# 1. **Choices.** For each two alternatives, with everything that can follow: can both spell the same text? Compare
#    them letter by letter, branch where either side branches, and stop at the first letter that must differ.
# 2. **Spellings.** Where a variable is shown, can one entity run into another, as *Paul* into *Paula*?
# 3. **Draws.** Is everything that is drawn surely shown, in a way that tells which one it is? ("She" does not.)
#
# It may compare pairs that never occur, and then refuse a sound grammar. It never passes a bad one. One fact about
# pairs it does use: once hero and friend have both been named, "*{hero}* laughed" and "*{friend}* laughed" cannot read
# alike, since two draws from one list differ.


# %%
#| export
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


# %%
for name, rules in {
    "harmless": {"story": ["The <red|red hot> <dog|hot dog> <ran|sat>."]},
    "never named": {"story": ["[hero:child]{hero.He} <ran|sat>."], "child": toy["child"]},
    "run together": {"story": ["[a:name]{a}<|a> sang."], "name": ["Paul", "Paula"]},
    "toy": toy,
}.items():
    try:
        print(f"{name:13s} proven with {_Proof(_Compiler(rules).choice('story')).comparisons} comparisons")
    except ValueError as error:
        print(f"{name:13s} {error}")

# %% [markdown]
# ## The finished code
#
# All parts together are a class with few methods. One of them is new. `surprises` gives each *word* of a story its
# surprise: the probability of the text up to and with the word, divided by that without it. The probability of a
# beginning sums over all stories that begin so, and the reader has it: it is the sum over all readings that are still
# alive at that letter.


# %%
#| export
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


# %% [markdown]
# ### The world
#
# Without arguments the class speaks the course's language. Its word lists and plots are plain text, in
# `gptoss_lib/stories_words.py`. Two plots, as they stand there:

# %%
from textwrap import fill

for rule in ("the race", "the noise"):
    weight, plot = RULES[rule][0]
    print("\n".join(fill(line, 88) for line in f"== {rule}\n{plot}".split("\n")), end="\n\n")

# %%
grammar = StoryGrammar()
for story in grammar.stories(seed=0, count=3):
    print("\n".join(fill(line, 88) for line in story.text.split("\n")))
    print(f"[{-story.log_prob / math.log(2):.1f} bits]\n")

# %% [markdown]
# And the numbers that the rest of the course stands on, all of them exact:

# %%
bits = grammar.entropy() / math.log(2)
words = 1 + grammar.expected(lambda piece: piece.count(" ") + piece.count("\n"))
print(f"entropy of a story     {grammar.entropy():.4f} nats = {bits:.4f} bits")
print(f"mean length            {grammar.expected_bytes():.2f} bytes, {words:.2f} words")
print(f"floor                  {grammar.floor():.4f} bits a byte, {bits / words:.4f} bits a word")
print(f"perplexity a word      {2 ** (bits / words):.3f}")
print(f"different words        {len(grammar.vocabulary()):,}")
print(f"typical stories        2^{bits:.0f}, about 10^{bits * math.log10(2):.0f}")
print(f"no story has two derivations: proven with {grammar.prove_unambiguous():,} comparisons")

# %% [markdown]
# **Perplexity** is entropy undone: $2^{\text{bits}}$, the number of equally likely words that would be as hard to
# guess. A perfect reader of our stories hesitates, on average, between hardly more than one and a half words. In the same
# sense a whole story is as hard to guess as one out of the number of *typical stories* above. But the average hides the
# point. Most words are certain and a few are wide open.

# %% [markdown]
# ## What a perfect reader feels
#
# Here is a story with the exact surprise of each word. The darker a word, the more bits it costs.

# %% tags=["hide-input"]
import html

from IPython.display import HTML


def shaded(text, color="orange"):
    marks = []
    for word, nats in grammar.surprises(text):
        bits, paragraph = nats / math.log(2), "<br><br>" if word.startswith("\n") else " "
        alpha = f"{min(255, round(26 * bits)):02x}"
        marks.append(
            f'{paragraph}<span title="{bits:.2f} bits" style="background:{COLORS[color]}{alpha};'
            f'border-radius:3px;padding:0 2px">{html.escape(word.strip())}</span>'
        )
    return "".join(marks)


race = next(story for story in grammar.stories(seed=1) if "big race" in story.text)
HTML(f'<div style="line-height:1.8;max-width:46em">{shaded(race.text)}</div>')

# %% [markdown]
# Names cost the most. The second time a name comes, it costs nothing. Late in the story there are long stretches
# without any color, full of words (the name, the prize, the number of weeks, what somebody stumbled over) that look
# rich and are fully determined, if you remember. This is what a model has to learn: not so much to predict, but to
# remember.

# %% tags=["hide-input"]
measured = [(word.strip(), nats / math.log(2)) for word, nats in grammar.surprises(race.text)]
fig, (top, bottom) = new_figure(7.4, 4.4, nrows=2, sharex=True)
top.bar(range(len(measured)), [bits for _, bits in measured], color=COLORS["orange"], width=1.0)
for index in sorted(range(len(measured)), key=lambda i: -measured[i][1])[:4]:
    top.text(index + 1, measured[index][1], measured[index][0].strip(".,"), fontsize=8, va="bottom")
top.set(ylabel="bits a word", title="Surprise", ylim=(0, 9))
total = 0.0
bottom.step(
    range(len(measured)), [total := total + bits for _, bits in measured], color=COLORS["blue"], where="post"
)
bottom.axhline(-race.log_prob / math.log(2), color=COLORS["grey"], linestyle="--", linewidth=1)
bottom.set(xlabel="word of the story", ylabel="bits so far", title="Added up")
show(
    fig,
    alt="Above, the surprise of each word of one story: a few bars of four to eight bits, most of them in the first "
    "third, and many words with none. Below, the running sum, a staircase that ends at minus the log-probability of the story.",
)

# %% [markdown]
# The staircase ends exactly at $-\log_2 p$ of the story, the dashed line. That is the chain rule again: the surprise of
# a text is the sum of its words' surprises. A language model is trained on that sum.

# %%
total = sum(nats for _, nats in grammar.surprises(race.text))
print(f"sum over words {total:.10f} nats, from the derivation {-race.log_prob:.10f} nats")

# %% [markdown]
# > **Note.** The cost of a choice shows up at the first word that gives it away, not where the grammar makes it. If
# > two alternatives begin alike, their difference costs nothing until they part. So "surprise at a word" is a fact
# > about the text, while "entropy of a rule" is a fact about the grammar. They agree in the sum only.
#
# ### Who refers to what
#
# The next figure draws one story as a row of words and connects each repetition with the word that it repeats.

# %% tags=["hide-input"]
import re

from matplotlib.patches import Arc


def mentions(story):
    """Return, for each variable, the indices of the words where its word begins."""
    starts = [match.start() for match in re.finditer(r"\S+", story.text)]
    found = {}
    for variable, entity in story.entities.items():
        spots = [m.start() for m in re.finditer(rf"\b{re.escape(entity['word'])}\b", story.text)]
        found[variable] = [bisect_right(starts, spot) - 1 for spot in spots]
    return {variable: places for variable, places in found.items() if len(places) > 1}


fig, ax = new_figure(7.4, 3.3)
for color, (variable, places) in zip(
    CYCLE, sorted(mentions(race).items(), key=lambda item: item[1]), strict=False
):
    for before, after in pairwise(places):
        ax.add_patch(
            Arc(
                ((before + after) / 2, 0),
                after - before,
                (after - before) * 0.9,
                theta1=0,
                theta2=180,
                color=color,
                linewidth=1.5,
            )
        )
    ax.plot(
        places,
        [0] * len(places),
        "o",
        color=color,
        markersize=4,
        label=f"{variable}: {race.entities[variable]['word']}",
    )
ax.set(xlim=(-2, len(measured) + 2), ylim=(-3, 62), xlabel="word of the story", yticks=[])
ax.grid(False)
ax.spines["left"].set_visible(False)
ax.legend(fontsize=8, loc="upper left", ncols=2)
show(
    fig,
    alt="Arcs over the words of one story. Each color is one thing to remember: the hero, the friend, the prize, the "
    "number of weeks and others. Short arcs connect names within a scene; the longest span more than a hundred words.",
)

# %% [markdown]
# And how far back must a model look, over many stories? Take every repetition, and count the words since the thing was
# last mentioned.

# %% tags=["hide-input"]
gaps = [
    after - before
    for story in grammar.stories(seed=2, count=1500)
    for places in mentions(story).values()
    for before, after in pairwise(places)
]
fig, ax = new_figure(7, 2.8)
ax.hist(gaps, bins=range(0, 180, 4), color=COLORS["green"], alpha=0.75)
ax.set(xlabel="words since it was last mentioned", ylabel="repetitions", yscale="log")
show(
    fig,
    alt="Histogram, on a logarithmic scale, of the distance between two mentions of the same thing: most are within "
    "thirty words, with a long tail beyond one hundred.",
)

# %%
gaps.sort()
for share, count in {
    "half": len(gaps) // 2,
    "one in ten": len(gaps) * 9 // 10,
    "one in 100": len(gaps) * 99 // 100,
}.items():
    print(f"{share:10s} of all repetitions reach back {gaps[count]:3} words or more")

# %% [markdown]
# Remember these distances when you meet sliding windows, which let most layers see only so far back.
#
# ### Look around
#
# Move the slider. What a story has to remember is marked, one color for each variable.

# %% tags=["hide-input"]
from gptoss_lib.widgets import explore


def colored(story):
    spans = []
    for color, (variable, entity) in zip(CYCLE * 3, story.entities.items(), strict=False):
        for match in re.finditer(rf"\b{re.escape(entity['word'])}\b", story.text):
            spans.append((match.start(), -match.end(), variable, color))
    out, at = [], 0
    for start, stop, variable, color in sorted(spans):
        if start >= at:
            out += [
                html.escape(story.text[at:start]),
                f'<span title="{variable}" style="background:{color}40;border-bottom:2px solid {color}">'
                f"{html.escape(story.text[start:-stop])}</span>",
            ]
            at = -stop
    body = "".join([*out, html.escape(story.text[at:])]).replace("\n", "<br>")
    facts = f"{len(story.entities)} things to remember, {-story.log_prob / math.log(2):.0f} bits"
    return f'<div style="max-width:46em;line-height:1.6;min-height:24em">{body}<p><small>{facts}</small></p></div>'


tour = list(grammar.stories(seed=4, count=24))
explore(lambda number: colored(tour[number - 1]), {"story": list(range(1, 25))})

# %% [markdown]
# ### Where the bits are
#
# The census knows what each part of the grammar contributes. Grouped by what it is about:

# %% tags=["hide-input"]
groups = {
    "who": "child elder critter animal neighbor trait creature pet spirit look loved asker guide",
    "when": "sky time one day",
    "where": "place outside place.spots wild wild.spots home at home nook hideout window mark origin",
    "what happens": "story plot animal plot",
    "which thing": "thing thing.made color number food forage charm craft fragile gem prize plant gear chest fruit bake "
                   "missing hurdle seen game hobby skill chore favor fear ghost noise role line wonder vehicle trouble "
                   "flaw mishap insult",
}  # fmt: skip
by_rule = {name: nats / math.log(2) for name, nats in grammar.entropy_by_rule().items()}
named = {"where": {"at home"}, "when": {"one day"}, "what happens": {"animal plot"}}
members = {group: set(names.split()) | named.get(group, set()) for group, names in groups.items()}
parts = {group: sum(by_rule.get(name, 0) for name in names) for group, names in members.items()}
parts["how it is said"] = bits - sum(parts.values())
fig, ax = new_figure(7, 2.6)
order = sorted(parts, key=parts.get)
ax.barh(order, [parts[name] for name in order], color=COLORS["violet"], alpha=0.75)
for name in order:
    ax.text(parts[name] + 0.4, name, f"{parts[name]:.1f}", va="center")
ax.set(xlabel="bits a story, on average", xlim=(0, max(parts.values()) * 1.12))
ax.grid(axis="y", visible=False)
show(
    fig,
    alt="Bars of the entropy by part of the grammar. How it is said, that is the wording, has the most bits, then who "
    "and which thing, then when and where. What happens, the plot, has the fewest.",
)

# %% [markdown]
# What happens is cheap: which of the plots it is costs a few bits, once. How it is said is dear.

# %% [markdown]
# ## Cross-entropy: what a wrong model pays
#
# A model does not know the grammar. It has its own probabilities $q$, and on a story that comes from $p$ it pays
# $-\log q$. Its mean payment is the **cross-entropy**, the number that training minimizes:
#
# $$H(p, q) = -\sum_x p(x) \log q(x) = H(p) + \underbrace{\sum_x p(x) \log \frac{p(x)}{q(x)}}_{\mathrm{KL}(p\,\|\,q)\;\ge\;0}$$
#
# In words: it pays the entropy, plus a fine for being wrong. The fine is the Kullback-Leibler divergence. It is never
# negative, and zero only for $q = p$. So **the entropy is the floor of every loss**. Two coins show it:

# %%
fair = [0.5, 0.5]
for q in (0.5, 0.6, 0.8, 0.99):
    pays = -sum(p * math.log2(r) for p, r in zip(fair, [q, 1 - q], strict=True))
    print(
        f"a fair coin, believed to fall heads with {q:.2f}: pays {pays:.3f} bits, {pays - 1:.3f} more than it must"
    )

# %% [markdown]
# Now models of stories. The oldest ones count: an $n$-gram model predicts a word from the $n - 1$ words before it, by
# how often it followed them in training text. We mix all orders up to $n$, so that nothing has probability zero. To
# compare models with different units, divide by the length of the text in **bytes**: bits per byte is the same currency
# for letters, words and tokens.

# %%
from collections import defaultdict
from itertools import pairwise


class NGram:
    """Interpolated n-gram model over words, spaces and punctuation, which together spell every byte."""

    def __init__(self, texts, order):
        self.order, self.counts = order, defaultdict(Counter)
        for text in texts:
            for context, word in self.steps(text):
                for n in range(order):
                    self.counts[context[len(context) - n :]][word] += 1
        self.vocabulary = len(self.counts[()]) + 1

    def steps(self, text):
        words = ["<s>"] * (self.order - 1) + re.findall(r" ?[A-Za-z'-]+|.|\n", text) + ["</s>"]
        return [(tuple(words[i - self.order + 1 : i]), words[i]) for i in range(self.order - 1, len(words))]

    def bits(self, text):
        total = 0.0
        for context, word in self.steps(text):
            p = 1 / self.vocabulary
            for n in range(self.order):
                seen = self.counts.get(context[len(context) - n :])
                if seen:  # the more often this context was seen, the more it counts
                    weight = seen.total() / (seen.total() + 1.5 * len(seen))
                    p = weight * seen[word] / seen.total() + (1 - weight) * p
            total -= math.log2(p)
        return total


# %%
train = [story.text for story in grammar.stories(seed=10, count=1200)]
held_out = list(grammar.stories(seed=11, count=100))
size = sum(len(story.text.encode()) for story in held_out)
model_bits = {}
for order in (1, 2, 3, 5):
    model = NGram(train, order)
    model_bits[f"{order}-gram"] = sum(model.bits(story.text) for story in held_out) / size
    print(f"{order}-gram   {model_bits[f'{order}-gram']:.3f} bits a byte")
print(f"floor    {grammar.floor():.3f} bits a byte; these {len(held_out)} stories: "
      f"{-sum(story.log_prob for story in held_out) / math.log(2) / size:.3f}")  # fmt: skip

# %% [markdown]
# A 5-gram model knows every turn of phrase and still pays several times the floor: it cannot remember. When a
# name comes back after a hundred words, the last four words are no help. Closing this gap is what attention does.

# %% [markdown]
# ## Reality check
#
# **Exhaustively.** The toy grammar is small enough to list everything it can tell. Then the census has to agree with the
# definition of entropy, to the last digit.


# %%
def everything(template, scope=None, log_prob=0.0, text=""):
    """Yield (log-probability, text) for every derivation, by brute force."""
    scope = scope or {}
    if not template:
        yield log_prob, text
        return
    part, rest = template[0], template[1:]
    if isinstance(part, str):
        yield from everything(rest, scope, log_prob, text + part)
    elif isinstance(part, Show):
        yield from everything(rest, scope, log_prob, text + scope[part.variable][1][part.attribute])
    elif isinstance(part, Choice):
        for log_p, chosen in zip(part.log_probs, part.templates, strict=True):
            for log_q, told in everything(chosen, scope, log_prob + log_p, text):
                yield from everything(rest, scope, log_q, told)
    else:
        taken = [entity for source, entity in scope.values() if source == part.source]
        free = [
            entity for entity in part.candidates(part.owner and scope[part.owner][1]) if entity not in taken
        ]
        for entity in free:
            inner = {**scope, part.variable: (part.source, entity)}
            yield from everything(rest, inner, log_prob - math.log(len(free)), text)


small = StoryGrammar(toy)
told = list(everything((small.story,)))
print(f"{len(told)} derivations, {len({text for _, text in told})} texts")
print(f"probabilities sum to  {math.fsum(math.exp(log_p) for log_p, _ in told):.12f}")
print(f"entropy, by listing   {math.fsum(-math.exp(log_p) * log_p for log_p, _ in told):.12f} nats")
print(f"entropy, by census    {small.entropy():.12f} nats")
print(f"bytes, by listing     {math.fsum(math.exp(log_p) * len(text) for log_p, text in told):.12f}")
print(f"bytes, by census      {small.expected_bytes():.12f}")

# %% [markdown]
# **By sampling.** The full grammar cannot be listed. But if the census is right, the mean of $-\log p$ over many stories
# must approach it, with an error that shrinks like one over the square root of their number.

# %% tags=["hide-input"]
costs = [-story.log_prob for story in grammar.stories(seed=5, count=4000)]
mean, square, band = 0.0, 0.0, []
for number, cost in enumerate(costs, 1):
    step = cost - mean
    mean += step / number
    square += step * (cost - mean)
    if number >= 20 and number % 20 == 0:
        band.append((number, mean, 2 * math.sqrt(square / number / (number - 1))))
fig, ax = new_figure(7, 2.8)
x, y, e = zip(*band, strict=True)
ax.fill_between(
    x,
    [a - b for a, b in zip(y, e, strict=True)],
    [a + b for a, b in zip(y, e, strict=True)],
    color=COLORS["blue"],
    alpha=0.25,
    label="mean of −log p, ± 2 standard errors",
)
ax.plot(x, y, color=COLORS["blue"], linewidth=1.2)
ax.axhline(grammar.entropy(), color=COLORS["orange"], label="exact entropy")
ax.set(xscale="log", xlabel="stories", ylabel="nats a story")
ax.legend(fontsize=9)
show(
    fig,
    alt="The mean surprise of sampled stories, with a band of two standard errors that narrows from several nats to "
    "a fraction of one, closes in on the horizontal line of the exact entropy.",
)

# %%
error = band[-1][2] / 2
print(
    f"exact {grammar.entropy():.3f}, sampled {mean:.3f}, "
    f"which is {abs(mean - grammar.entropy()) / error:.1f} standard errors away"
)

# %% tags=["hide-input"]
lengths = [len(story.text.split()) for story in grammar.stories(seed=5, count=4000)]
fig, ax = new_figure(7, 2.5)
ax.hist(lengths, bins=range(100, 240, 4), color=COLORS["blue"], alpha=0.7)
ax.axvline(words, color=COLORS["orange"], label=f"exact mean, {words:.1f} words")
ax.set(xlabel="words in a story", ylabel="stories")
ax.legend()
show(
    fig,
    alt="Histogram of story lengths, from about 110 to 225 words, with the exact mean near 171 words marked.",
)

# %% [markdown]
# **Against compressors.** A compressor is a language model in disguise: what it predicts well, it stores in few bits. So
# it obeys the same floor. Give a megabyte of stories to three of them. The last column is the same for a megabyte of
# TinyStories' training split, measured once, since this page needs no download (the course's tests repeat it).

# %% tags=["nbval-ignore-output"]
import bz2
import lzma
import zlib

TINYSTORIES = {"zlib": 2.44, "bz2": 1.74, "lzma": 1.93}  # the first 1,000,000 bytes, stories joined by "\n\n"

corpus = "\n\n".join(story.text for story in grammar.stories(seed=0, count=1400)).encode()[:1_000_000]
squeeze = {"zlib": lambda data: zlib.compress(data, 9), "bz2": bz2.compress, "lzma": lzma.compress}
packed = {name: 8 * len(compress(corpus)) / len(corpus) for name, compress in squeeze.items()}
print(f"{'bits a byte':12s} ours   TinyStories")
for name, value in packed.items():
    print(f"{name:12s} {value:.2f}   {TINYSTORIES[name]:.2f}")
print(f"{'floor':12s} {grammar.floor():.2f}   unknown")

# %%
assert all(0.9 < value < 2.1 for value in packed.values()), "compressors differ a little from build to build"

# %% tags=["hide-input"]
ladder = packed | model_bits | {"the grammar": grammar.floor()}
fig, ax = new_figure(7, 3)
order = sorted(ladder, key=ladder.get)
colors = [
    COLORS["orange"] if name == "the grammar" else COLORS["grey"] if name in packed else COLORS["blue"]
    for name in order
]
ax.barh(order, [ladder[name] for name in order], color=colors, alpha=0.8)
for name in order:
    ax.text(ladder[name] + 0.02, name, f"{ladder[name]:.2f}", va="center")
ax.set(xlabel="bits a byte", xlim=(0, max(ladder.values()) * 1.1))
ax.grid(axis="y", visible=False)
show(
    fig,
    alt="Bits per byte of three compressors, four n-gram models and the grammar itself. The grammar's floor, 0.12, is "
    "several times lower than the best of the others.",
)

# %% [markdown]
# None comes near. There is a second lesson in the table, and it is a limit of this chapter: our world is easier than
# TinyStories. Its phrases repeat, and the compressors see it. So a loss on our stories says nothing about real text.
# What carries over is the question that you can ask here: of what a model pays, how much did it have to?

# %% [markdown]
# ## What gpt-oss-20b uses
#
# Nothing of the sort, and that is the point. It was trained on trillions of tokens of text from the world
# ([OpenAI, 2025](https://arxiv.org/abs/2508.10925)), whose entropy nobody knows. So its loss cannot be read against a
# floor, and models are compared with each other instead. But one end of the scale is known: what a model pays that
# knows nothing and gives all tokens the same probability. Every loss curve starts there.

# %%
from gptoss_lib.config import GPTOSSConfig

for name in ("gpt2", "gpt-oss-20b"):
    vocab = 50_257 if name == "gpt2" else GPTOSSConfig.preset(name).vocab_size
    print(
        f"{name:12s} {vocab:>8,} tokens: starts at {math.log(vocab):.2f} nats = {math.log2(vocab):.2f} bits a token"
    )

# %% [markdown]
# If a model's first loss is far *above* this, its initialisation is wrong: it starts out confident and mistaken.

# %% [markdown]
# ## Pitfalls
#
# - **A seed without its sign.** Python's generator ignores the sign of an integer seed. Somebody seeded training stories
#   with 1 and test stories with −1 and got the same stories twice
#   ([cpython#142483](https://github.com/python/cpython/pull/142483), which put a warning into the documentation). So
#   `stories` refuses negative seeds:

# %%
print([round(Random(seed).random(), 4) for seed in (1, -1)])
try:
    next(grammar.stories(seed=-1))
except ValueError as error:
    print(error)

# %% [markdown]
# - **Sampling that changes with the version.** Python
#   [promises](https://docs.python.org/3/library/random.html#notes-on-reproducibility) that `random.random()` gives the same
#   numbers for the same seed in every version, and promises it of little else (`choice` and `shuffle` have changed before). Whoever wants the
#   same data tomorrow builds everything on `random()`, as we do.
# - **Nats, bits, tokens, bytes.** A loss of 1.0 means nothing without its unit. Losses *per token* cannot be compared
#   between tokenizers: a tokenizer with longer tokens has fewer of them, each harder. Compare bits per byte, and divide
#   sums: the mean of the ratios of single stories is another number.
# - **Below the floor?** On a hundred stories the surprise is not exactly the entropy: these stories may be easier than average.
#   Compare a model's loss with $-\log p$ of *the same* stories, which is exact for them. If a model is still below,
#   something leaks: a token that sees itself, a validation story in the training set, or an ambiguous grammar.
# - **Data has bugs, synthetic data too.** TinyStories needed cleaning
#   ([a list of its problems](https://huggingface.co/datasets/roneneldan/TinyStories/discussions/15)). Our grammar puts
#   "an" before every vowel, so *honest* must bring its own "an honest", and a unicorn would need "a unicorn".
#   Whatever writes your data, read fifty examples of it before you train on it. We found "the marble marble" that way.

# %% [markdown]
# ## Exercises
#
# In [exercises/03_small_world.ipynb](exercises/03_small_world.ipynb):
#
# 1. **The entropy of a tree.** The chain rule in five lines.
# 2. **Write rules that remember.** A grammar of your own that must hit a given entropy.
# 3. **The lie.** How much does an ambiguous grammar overstate its entropy?
# 4. **Bits per byte.** Score a model against the floor, without the two usual mistakes.
#
# ## Summary
#
# - Surprise is $-\log p$. Entropy is its mean, cross-entropy the mean of a model's, and the difference is the fine for
#   being wrong. Perplexity is the exponential of either.
# - The chain rule turns the entropy of astronomically many stories into a short sum over a grammar's choices. Memory
#   costs nothing; draws from a list cost $\log(n - k)$; draws that depend on another are averaged over it.
# - A grammar's entropy is that of its *texts* only if no text has two derivations. We proved it.
# - You have a corpus: endless, seeded, with a floor that no model can pass, and with words that only memory can predict.
#
# Next, [Data](04_data.ipynb) turns stories, or any other text, into batches of tokens.
#
# ## Further reading
#
# - [Shannon, 1948](https://doi.org/10.1002/j.1538-7305.1948.tb01338.x), where all of this begins, is readable and
#   contains the first $n$-gram models. [Shannon, 1951](https://doi.org/10.1002/j.1538-7305.1951.tb01366.x) measures
#   English.
# - [Eldan & Li, 2023](https://arxiv.org/abs/2305.07759): TinyStories, and what models of a few million parameters can do.
# - [Allen-Zhu & Li, 2023](https://arxiv.org/abs/2305.13673): what transformers learn from text of a known grammar.
# - [Schulz, Mitropolsky & Poggio, 2025](https://arxiv.org/abs/2510.02524): the loss on a grammar as a sum over its parts,
#   and in which order models learn them.
