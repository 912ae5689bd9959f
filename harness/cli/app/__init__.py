"""What all commands share: the application, its answers, completion, defaults."""
