"""Answers: facts added up for the people who ask."""
