# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: A small world
#
# Entropy is easy to compute and easy to get wrong. Here you compute it for a tree, hit a given entropy with rules of
# your own, measure how much an ambiguous grammar lies, and score a model against the floor. Read
# [A small world](../03_small_world.ipynb) first. Replace the line that raises `NotImplementedError`, run the cell, then
# run the check below it.

# %% tags=["setup"]
# (this cell is filled in by the course's tools)

# %%
import math
from collections import Counter

from gptoss_lib.checks import stories as check
from gptoss_lib.stories import StoryGrammar

# %% [markdown]
# ## 1. The entropy of a tree
#
# A tree is a dictionary: each word that may come next, with its probability and the tree that follows (`None` where the
# sentence ends). Return the entropy of its sentences **in nats**, without listing the sentences: use the chain rule.
#
# $$H(\text{node}) = H(\text{choice}) + \sum_i p_i\, H(\text{child}_i)$$


# %% nbgrader={"grade": false, "grade_id": "tree-entropy", "locked": false, "schema_version": 3, "solution": true, "task": false}
def tree_entropy(tree):
    """Return the entropy in nats of a tree ``{word: (probability, subtree or None)}``."""
    ### BEGIN SOLUTION
    if tree is None:
        return 0.0
    return sum(p * (tree_entropy(child) - math.log(p)) for p, child in tree.values())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tree-entropy-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.tree_entropy(tree_entropy)
### BEGIN HIDDEN TESTS
assert abs(tree_entropy({"a": (0.2, {"b": (1.0, None)}), "c": (0.8, None)}) - 0.5004024235) < 1e-9
assert tree_entropy(None) == 0
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Write rules that remember
#
# Write a grammar whose stories read like these:
#
# > Mia has a cat and a pony. The pony is asleep, so Mia plays with the cat.
# >
# > Tom has a parrot and a dog. The parrot is asleep, so Tom plays with the dog.
#
# - The child is one of Mia, Tom, Zoe and Ben, and stays the same in a story.
# - The pets are two different ones of cat, dog, parrot, hamster and pony.
# - Either pet may be the one that is asleep, with equal probability; the child plays with the other one.
#
# Every choice is uniform. Before you run the check: what must the entropy be? Compare with `StoryGrammar(pet_rules()).entropy()`.


# %% nbgrader={"grade": false, "grade_id": "pet-rules", "locked": false, "schema_version": 3, "solution": true, "task": false}
def pet_rules():
    """Return the rules, a dictionary whose rule ``story`` tells the stories above."""
    ### BEGIN SOLUTION
    return {
        "story": ["[child:child][one:pet][two:pet]{child} has {one.a} and {two.a}. <awake>"],
        "awake": [
            "The {one} is asleep, so {child} plays with the {two}.",
            "The {two} is asleep, so {child} plays with the {one}.",
        ],
        "child": ["Mia", "Tom", "Zoe", "Ben"],
        "pet": ["cat", "dog", "parrot", "hamster", "pony"],
    }
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "pet-rules-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.pet_rules(pet_rules)
### BEGIN HIDDEN TESTS
hidden = StoryGrammar(pet_rules())
assert abs(hidden.entropy() - math.log(4 * 5 * 4 * 2)) < 1e-9
assert len({story.text for story in hidden.stories(0, 3000)}) == 160
### END HIDDEN TESTS

# %% [markdown]
# ## 3. The lie
#
# A grammar tells a text in two ways. Its own entropy counts **derivations**; a model is scored on **texts**. So the
# "floor" that the grammar claims is too high, and a model can go below it. By how much?
#
# You get all derivations as pairs (probability, text). Return the entropy of the derivations minus the entropy of the
# texts, in nats.


# %% nbgrader={"grade": false, "grade_id": "overstated", "locked": false, "schema_version": 3, "solution": true, "task": false}
def overstated(derivations):
    """Return by how many nats the entropy of ``[(probability, text), …]`` exceeds that of its texts."""
    ### BEGIN SOLUTION
    texts = Counter()
    for probability, text in derivations:
        texts[text] += probability
    of_texts = -sum(p * math.log(p) for p in texts.values())
    return -sum(p * math.log(p) for p, _ in derivations) - of_texts
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "overstated-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.overstated(overstated)
### BEGIN HIDDEN TESTS
assert abs(overstated([(0.2, "x"), (0.3, "x"), (0.5, "y")]) - 0.3365058335) < 1e-9
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Bits per byte
#
# Two models with different tokenizers are compared by what they pay for the same **bytes**. You get texts and, for each,
# the nats that a model pays for it. Return the model's bits per byte over all of them, in UTF-8.
#
# Two mistakes are common: to average the ratios of the single texts, and to count characters.


# %% nbgrader={"grade": false, "grade_id": "bits-per-byte", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bits_per_byte(texts, nats):
    """Return the bits per UTF-8 byte that a model pays for ``texts``, given the nats for each text."""
    ### BEGIN SOLUTION
    return sum(nats) / math.log(2) / sum(len(text.encode()) for text in texts)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "bits-per-byte-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.bits_per_byte(bits_per_byte)
### BEGIN HIDDEN TESTS
assert abs(bits_per_byte(["é", "abc"], [2.0, 5.0]) - 2.0197730574) < 1e-9
### END HIDDEN TESTS

# %% [markdown]
# If all four pass, use the last one: on a hundred stories, the grammar itself pays almost exactly its floor.

# %%
grammar = StoryGrammar()
stories = list(grammar.stories(seed=0, count=100))
paid = bits_per_byte([story.text for story in stories], [-story.log_prob for story in stories])
print(f"the grammar pays {paid:.4f}, its floor is {grammar.floor():.4f} bits a byte")
