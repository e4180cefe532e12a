"""The training phases: each takes an artifact and returns an artifact."""
