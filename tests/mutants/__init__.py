"""Wrong variants of the library, each of which the tests must notice.

``python -m tests.mutants check [NAME …]`` runs each mutant against the few tests that must kill it, and
``python -m tests.mutants report`` runs it against all tests of its parts and writes ``book/mutants.md``.
"""
