"""Preference losses by family; learner.loss holds the table that names them."""
