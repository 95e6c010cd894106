"""The benchmark: `python -m bench`. What Nexus must reach, measured beside its peers in one run."""
