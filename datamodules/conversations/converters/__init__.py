"""Converters of published layouts: a folder -> conversations, one for each listener."""
