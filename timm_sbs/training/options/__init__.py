"""What can be said to the trainer: settings of the phases, flags, and recipes."""
