"""The machinery of claims: comparisons, predicates, verdicts."""
