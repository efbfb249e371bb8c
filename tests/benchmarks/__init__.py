"""Speed and memory against transformers, as ratios measured in one run; ``python -m tests.benchmarks``."""
