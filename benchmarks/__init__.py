"""Side-by-side measurements of this project and its peers; not part of the tests, not shipped.

``benchmarks/setup`` creates the environments, ``python -m benchmarks`` runs the rounds. Each peer has its own worker
process on the same interpreter. The coordinator runs one workload on one peer at a time and alternates between peers,
so that a slow minute of the machine affects all of them. docs/performance.md has the figures.
"""
