"""The loops of the phases, and the modules that they train. They know nothing of files."""
