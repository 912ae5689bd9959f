"""Run folders checked against what they say of themselves, and the project against what a reviewer asks of it."""
