"""The comparison of all unlearning methods, in parts; :mod:`unlearning` beside this folder runs it."""
