"""How fast Swift is beside its peers; ``python -m benchmarks NAME`` from the repository's root."""
