"""Conversations with a finished run: a page in a browser, or a recording from the command line."""
