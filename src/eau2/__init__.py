"""eau2: a key-value store whose values are bytes or read-only dataframes."""

__version__ = "0.1.0"
