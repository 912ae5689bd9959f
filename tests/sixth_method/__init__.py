"""A method outside the tree that needs all that the contract offers; test_sixth_method.py installs it."""
