"""The paper's claims as predicates over results, and how a verdict on each is reached."""
