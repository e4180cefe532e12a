"""One run: its phases, checkpoints, measurements, messages and files."""
