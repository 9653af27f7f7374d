"""Kinds of numbers that a command line takes; what is none of them argparse refuses, with the word's name."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """A number of things, 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("it is less than 0")
    return number


def port(text: str) -> int:
    """A port to listen at; 0 asks for any."""
    number = int(text)
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError("a port is 0 to 65535")
    return number
