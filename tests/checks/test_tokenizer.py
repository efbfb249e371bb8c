"""The checks of chapter 02 accept the solutions and name the mistakes."""

from collections import Counter
from itertools import pairwise

from gptoss_lib.tokenizer import encode_word, merge_pair
from tests.checks.catalogue import Catalogue

MERGE = Catalogue("tokenizer", "merge_step")


def step(words, new_id, count=None, choose=None, merge=merge_pair):
    """One step of training with one part exchanged."""
    counts = (count or weighted)(words)
    best = (choose or (lambda c: min(c, key=lambda pair: (-c[pair], pair))))(counts)
    return best, {tuple(merge(word, best, new_id)): n for word, n in words.items()}


def weighted(words):
    counts = Counter()
    for word, n in words.items():
        for pair in pairwise(word):
            counts[pair] += n
    return counts


@MERGE.wrong("how often the word occurs")
def counts_words_once(words, new_id):
    return step(words, new_id, count=lambda ws: Counter(pair for word in ws for pair in pairwise(word)))


@MERGE.wrong("cross")
def joins_words(words, new_id):
    text = tuple(symbol for word, n in words.items() for symbol in word * n)
    return step(words, new_id, count=lambda ws: Counter(pairwise(text)))


@MERGE.wrong("overlap")
def counts_without_overlap(words, new_id):
    def count(ws):
        counts = Counter()
        for word, n in ws.items():
            last = {}
            for index, pair in enumerate(pairwise(word)):
                if last.get(pair, -2) < index - 1:
                    counts[pair] += n
                    last[pair] = index
        return counts

    return step(words, new_id, count=count)


@MERGE.wrong("tie")
def first_come_first_merged(words, new_id):
    return step(words, new_id, choose=lambda counts: counts.most_common(1)[0][0])


@MERGE.wrong("tie")
def larger_ids_win(words, new_id):
    return step(words, new_id, choose=lambda counts: max(counts, key=lambda pair: (counts[pair], pair)))


@MERGE.wrong("middle")
def merges_with_overlap(words, new_id):
    def merge(word, pair, new_id):
        hits = [index for index, p in enumerate(pairwise(word)) if p == pair]
        covered = {i for hit in hits for i in (hit, hit + 1)}
        return [new_id if i in hits else s for i, s in enumerate(word) if i in hits or i not in covered]

    return step(words, new_id, merge=merge)


@MERGE.wrong("left to right")
def merges_from_the_right(words, new_id):
    def merge(word, pair, new_id):
        return reversed(merge_pair(word[::-1], pair[::-1], new_id))

    return step(words, new_id, merge=merge)


@MERGE.wrong("only the first")
def merges_the_first_place(words, new_id):
    def merge(word, pair, new_id):
        places = [index for index, p in enumerate(pairwise(word)) if p == pair]
        return (*word[: places[0]], new_id, *word[places[0] + 2 :]) if places else word

    return step(words, new_id, merge=merge)


@MERGE.wrong("without the pair")
def drops_other_words(words, new_id):
    pair, merged = step(words, new_id)
    return pair, {word: n for word, n in merged.items() if new_id in word}


@MERGE.wrong("new dict")
def changes_its_input(words, new_id):
    pair, merged = step(words, new_id)
    words.clear()
    words.update(merged)
    return pair, words


@MERGE.wrong("return the pair")
def returns_only_the_pair(words, new_id):
    return step(words, new_id)[0]


test_merge_step = MERGE.test

RANK = Catalogue("tokenizer", "encode_by_rank")


def replay(word, ranks, key, most=99):
    parts = [word[i : i + 1] for i in range(len(word))]
    for _ in range(most):
        places = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not places:
            break
        _, i = min(places, key=key)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[part] for part in parts]


@RANK.wrong("longest")
def longest_match(word, ranks):
    ids = []
    while word:
        n = next(n for n in range(len(word), 0, -1) if word[:n] in ranks)
        ids.append(ranks[word[:n]])
        word = word[n:]
    return ids


@RANK.wrong("first pair from the left")
def leftmost_pair(word, ranks):
    return replay(word, ranks, key=lambda place: place[1])


@RANK.wrong("highest rank")
def highest_rank(word, ranks):
    return replay(word, ranks, key=lambda place: (-place[0], place[1]))


@RANK.wrong("one join")
def stops_after_one(word, ranks):
    return replay(word, ranks, key=lambda place: place, most=1)


@RANK.wrong("nothing joined")
def bytes_only(word, ranks):
    return list(word)


@RANK.wrong("should become")
def rightmost_of_equals(word, ranks):
    return replay(word, ranks, key=lambda place: (place[0], -place[1]))


@RANK.wrong("should become")
def gives_tokens_not_ids(word, ranks):
    names = {rank: token for token, rank in ranks.items()}
    return [names[i] for i in encode_word(word, ranks)]


@RANK.wrong("IndexError")
def fails_on_the_empty_word(word, ranks):
    return encode_word(word, ranks) if word[0] >= 0 else []


@RANK.wrong("KeyError")
def expects_every_pair(word, ranks):
    return [ranks[word[i : i + 2]] for i in range(0, len(word), 2)]


test_encode_by_rank = RANK.test

RATIO = Catalogue("tokenizer", "bytes_per_token")


@RATIO.wrong("characters")
def characters(tokenizer, texts):
    return sum(map(len, texts)) / sum(len(tokenizer.encode(text)) for text in texts)


@RATIO.wrong("upside down")
def inverted(tokenizer, texts):
    return sum(len(tokenizer.encode(text)) for text in texts) / sum(len(text.encode()) for text in texts)


@RATIO.wrong("mean")
def mean_of_ratios(tokenizer, texts):
    return sum(len(text.encode()) / len(tokenizer.encode(text)) for text in texts) / len(texts)


@RATIO.wrong("first text")
def first_text(tokenizer, texts):
    return len(texts[0].encode()) / len(tokenizer.encode(texts[0]))


@RATIO.wrong("end-of-text")
def with_end_of_text(tokenizer, texts):
    return sum(len(t.encode()) for t in texts) / sum(len(tokenizer.encode(t)) + 1 for t in texts)


@RATIO.wrong("word")
def per_word(tokenizer, texts):
    return sum(len(text.encode()) for text in texts) / sum(len(text.split()) for text in texts)


@RATIO.wrong("but yours says")
def joined_with_line_ends(tokenizer, texts):
    text = "\n".join(texts)
    return len(text.encode()) / len(tokenizer.encode(text))


test_bytes_per_token = RATIO.test

CHAT = Catalogue("tokenizer", "chat_ids")


def as_text(messages):
    return "".join(f"<|start|>{m['role']}<|message|>{m['content']}<|end|>" for m in messages)


@CHAT.wrong("system message")
def one_string_all_allowed(tokenizer, messages):
    return tokenizer.encode(as_text(messages), allowed_special=tokenizer.special_tokens)


@CHAT.wrong("system message")
def content_with_specials_allowed(tokenizer, messages):
    special, ids = tokenizer.special_tokens, []
    for m in messages:
        content = tokenizer.encode(m["content"], allowed_special=special)
        ids += [special["<|start|>"], *tokenizer.encode(m["role"]), special["<|message|>"], *content]
        ids.append(special["<|end|>"])
    return ids


@CHAT.wrong("plain text")
def markers_as_text(tokenizer, messages):
    return tokenizer.encode(as_text(messages))


def cleaned(tokenizer, messages, replacement):
    messages = [dict(m) for m in messages]
    for m in messages:
        for name in tokenizer.special_tokens:
            m["content"] = m["content"].replace(name, replacement)
    return tokenizer.encode(as_text(messages), allowed_special=tokenizer.special_tokens)


@CHAT.wrong("changed what the user wrote")
def removes_markers(tokenizer, messages):
    return cleaned(tokenizer, messages, "")


@CHAT.wrong("changed what the user wrote")
def escapes_markers(tokenizer, messages):
    return cleaned(tokenizer, messages, "< | marker | >")


@CHAT.wrong("<|start|>, the role")
def forgets_the_end(tokenizer, messages):
    special, ids = tokenizer.special_tokens, []
    for m in messages:
        ids += [special["<|start|>"], *tokenizer.encode(m["role"])]
        ids += [special["<|message|>"], *tokenizer.encode(m["content"])]
    return ids


@CHAT.wrong("<|start|>, the role")
def adds_line_ends(tokenizer, messages):
    return tokenizer.encode(
        as_text(messages).replace("<|end|>", "<|end|>\n"), allowed_special=tokenizer.special_tokens
    )


@CHAT.wrong("2 <|start|>")
def opens_once(tokenizer, messages):
    text = as_text(messages)
    head = tokenizer.encode(text[:9], allowed_special=["<|start|>"])
    return head + tokenizer.encode(text[9:], allowed_special=["<|message|>", "<|end|>"])


test_chat_ids = CHAT.test
