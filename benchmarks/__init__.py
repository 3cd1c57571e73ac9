"""Side-by-side measurements of this project and its peers; not part of the tests, not shipped.

``benchmarks/setup`` makes the environments, ``python -m benchmarks`` runs the rounds. Each peer lives in a
worker process of its own on the same interpreter; the coordinator runs one workload on one peer at a time and
goes round the peers, so that a slow minute of the machine hits all of them. docs/performance.md holds the
figures.
"""
